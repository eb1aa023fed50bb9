// Tests of jsonl.
