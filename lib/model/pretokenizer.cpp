// model/pretokenizer
