// model/bpe
