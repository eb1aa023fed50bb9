// Tests of rope.
