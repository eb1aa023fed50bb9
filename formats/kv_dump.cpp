// kv_dump
