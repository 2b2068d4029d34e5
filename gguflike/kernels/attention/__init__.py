"""Attention over a cache of keys and values, and the rotary positions before it.

    causal         the ops of most models: several tokens, one token, and the merge of its parts
    general        the same with windows, keys ahead, soft-caps and sinks, over a cache that may be a ring
    heads          what else happens to heads: norms, rotation of any size, padding; gates
    latent         what multi-head latent attention caches of a token
    tile           products of queries by keys, and of weights by values
    softmax        the softmax of scores, block of keys by block of keys
    rope           rotary position embedding, and storing keys and values
    kv_float       the cache in floats
    kv_f16, kv_f32  the two types of these
    kv_q8          the cache in int8 with scales
    kv_expanded    sums of values that are expanded to floats first
    kv_shared      a cache of rows that are key and value alike
    kv_shared_f16, kv_shared_f32, kv_shared_q8  its three types
    sizes          sizes of work items
    args           the argument words of causal and rope
    general_args   those of general and heads
    latent_args    those of latent

A *tile* is a few queries that share the work of reading keys and values. A *panel* is what they are multiplied by at a
time, as float32: sixteen keys, or sixteen dimensions of values.
"""
