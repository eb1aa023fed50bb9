// Tests of lookup.
