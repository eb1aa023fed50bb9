// The dense matrix product, by oneDNN.
