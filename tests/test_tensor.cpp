// Tests of tensor.
