// Tests of kv_dump.
