"""Causal attention over a cache of keys and values, and the rotary positions before it.

    causal   the ops: several tokens, one token, and the merge of its parts
    tile     products of queries by keys, and of weights by values
    softmax  the softmax of scores, block of keys by block of keys
    rope     rotary position embedding, and storing keys and values
    kv_f16   the cache in float16
    kv_q8    the cache in int8 with scales
    sizes    sizes of work items
    args     the argument words of this folder's ops

A *tile* is a few queries that share the work of reading keys and values. A *panel* is what they are multiplied by at a
time, as float32: sixteen keys, or sixteen dimensions of values.
"""
