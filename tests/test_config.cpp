// Tests of config.
