// Tests of dense_cache.
