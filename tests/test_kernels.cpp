// Tests of kernels.
