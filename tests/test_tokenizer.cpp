// Tests of tokenizer.
