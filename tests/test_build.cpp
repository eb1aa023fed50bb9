// Tests of build.
