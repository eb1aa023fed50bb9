// Tests of context_attention.
