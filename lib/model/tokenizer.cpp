// model/tokenizer
