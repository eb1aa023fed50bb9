// Tests of calibration.
