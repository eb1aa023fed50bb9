// Tests of transformer.
