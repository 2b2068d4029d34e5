"""Argument words of attention's ops. Imports no numba.

The words of ``STORE_KV`` begin those of the others, so that their kernels can store a key and a value, too.

A pass computes rows of one or several sequences. ``rows`` (``ROW_TYPE`` in engine/memory.py) says of each row which
position of which sequence it is, by the number of the sequence's slot in the cache: each array of a layer's cache holds
one slot behind the other, (slots, n_head_kv, context, head_dim) elements in all. Runs of several rows are computed by
the op for several tokens, in tiles that share what is read of the keys and values; runs of one row by an op of their
own (``ATTENTION_EACH``), or by the former where ``least`` is 1. A row's result is the same to the bit in either, and
whatever other rows the pass has; so is that of the op for one token.
"""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

STORE_KV = Args(
    "attention.rope:store",
    cos_sin="address of float32 (positions, 2, n_rot), see rope.py",
    n_rot="dimensions of a head that are rotated, a multiple of 16 (of 32 where neox is 1)",
    neox="1: dimension i is rotated with i + n_rot / 2; 0: with its neighbour",
    keys="address of the layer's keys in the cache (layouts: runner/state.py)",
    key_scales="address of their scales, or 0",
    values="address of the layer's values",
    value_scales="address of their scales, or 0",
    n_head_kv="heads of keys and values",
    head_dim="dimensions of a head, a multiple of 16",
    context="positions of a slot of the cache",
    rows="address of what the rows of the pass are: ROW_TYPE (tokens,)",
    k="address of float32 (tokens, n_head_kv, head_dim): new keys, not rotated yet",
    v="address of float32 (tokens, n_head_kv, head_dim): new values",
)
QUERIES = STORE_KV.extended(
    "attention.causal",
    q="address of float32 (tokens, n_head, head_dim), not rotated yet",
    n_head="heads of queries, a multiple of n_head_kv",
    heads="query heads of an item, a divisor of n_head / n_head_kv",
    scale="float bits of what scores are multiplied by",
)
_RESULT = {
    "out": "address of float32 (tokens, n_head, head_dim)",
    "codes": "address of int8 (tokens, n_head * head_dim), then the result goes here and not to out; or 0",
    "scales": "address of float32 (tokens, n_head * head_dim / 32); 0 where codes is 0",
    "sums": "address of int32 (tokens, n_head * head_dim / 16); 0 where codes is 0",
}
ATTENTION_EACH = QUERIES.extended("attention.causal:each_<cache type>_<heads>", **_RESULT)
ATTENTION = QUERIES.extended(
    "attention.causal:<cache type>",
    span="successive tokens of an item",
    least="rows of a run that it computes: shorter ones are left to another op",
    **_RESULT,
)
ATTENTION_ONE = QUERIES.extended(
    "attention.causal:<cache type>_<heads>",
    parts="address of what the items leave for merge: part_bytes(heads, head_dim) each (sizes.py)",
)
MERGE = Args(
    "attention.causal:merge",
    parts="address of what the items of ATTENTION_ONE left",
    heads="query heads of an item",
    n_head="heads of queries",
    head_dim="dimensions of a head",
    out="address of float32 (n_head, head_dim)",
    codes="address of int8 (n_head * head_dim,), then the result goes here and not to out; or 0",
    scales="address of float32 (n_head * head_dim / 32,); 0 where codes is 0",
    sums="address of int32 (n_head * head_dim / 16,); 0 where codes is 0",
)
