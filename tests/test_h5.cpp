// Tests of h5.
