// attention/lookup
