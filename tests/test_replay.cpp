// Tests of replay.
