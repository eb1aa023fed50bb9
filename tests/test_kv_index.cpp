// Tests of kv_index.
