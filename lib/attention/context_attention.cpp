// attention/context_attention
