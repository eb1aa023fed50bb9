// kv_index
