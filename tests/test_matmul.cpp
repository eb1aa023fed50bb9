// Tests of matmul.
