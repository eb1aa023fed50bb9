// model/sentencepiece
