// attention/policy
