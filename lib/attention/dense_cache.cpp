// attention/dense_cache
