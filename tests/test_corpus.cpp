// Tests of corpus.
