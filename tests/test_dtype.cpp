// Tests of dtype.
