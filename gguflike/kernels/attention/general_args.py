"""Argument words of attention's general form, and of what prepares its heads. Imports no numba.

Apart from args.py, since a model without any of this need not load it.
"""

from __future__ import annotations

from gguflike.kernels.attention.args import ATTENTION, ATTENTION_EACH, MERGE, QUERIES
from gguflike.kernels.engine.args import Args

_SEEN = {
    "back": "keys before a query's own that it sees at most",
    "ahead": "keys behind its own that it sees at most",
    "chunk": "positions of a stretch: a query sees no key before its own stretch. EVERYWHERE: there is only one",
}
EVERYWHERE = 1 << 40  # more keys than there are
_CHANGED = {
    "cap": "float bits: scores are cap * tanh(score / cap); 0: they stay as they are",
    "sinks": "address of float32 (n_head,): a score for each head that has no value; or 0",
}
GENERAL = ATTENTION.extended("attention.general:<cache type>", **_SEEN, **_CHANGED)
GENERAL_EACH = ATTENTION_EACH.extended("attention.general:each_<cache type>_<heads>", **_SEEN, **_CHANGED)
GENERAL_ONE = QUERIES.extended(
    "attention.general:<cache type>_<heads>",
    **_SEEN,
    **_CHANGED,
    stores="1: the key and value at k and v are stored; 0: the cache has them already",
    parts="address of what the items leave for merge: part_bytes(heads, head_dim) each (sizes.py)",
)
GENERAL_MERGE = MERGE.extended("attention.general:merge", **_SEEN, sinks=_CHANGED["sinks"])
NONE, RMS, LAYER = 0, 1, 2  # kinds of normalization
HEADS = Args(
    "attention.heads:prepare",
    rows="address of what the rows of the pass are: ROW_TYPE (tokens,), see args.py",
    x="address of float32 values of all tokens",
    stride="values from one token's to the next",
    step="values from one head's to the next",
    heads="heads of a token",
    dim="dimensions of a head",
    out="address of float32 (tokens, heads, padded)",
    padded="dimensions of a head there, a multiple of 16: zeros behind dim",
    limit="float bits: the largest magnitude, to which values are clamped first; infinity for none",
    kind="NONE, RMS or LAYER: how heads are normalized",
    whole="1: all heads of a token are normalized as one",
    weight="address of the norm's weights, or 0",
    bias="address of its biases, or 0",
    weight_step="weights from one head's to the next: dim, or 0 where all heads have the same",
    eps="float bits",
    turned_first="1: heads are rotated before they are normalized; 0: afterwards",
    cos_sin="address of float32 (positions, 2, n_rot), see rope.py",
    n_rot="dimensions of a head that are rotated, an even number; 0 for none",
    neox="1: dimension i is rotated with i + n_rot / 2; 0: with its neighbour",
    factors="address of float32 (positions,): what heads are multiplied by at last; or 0",
)
OPEN = Args(
    "attention.heads:open",
    x="address of float32 (tokens, heads, padded)",
    heads="heads of a token",
    dim="dimensions of a head",
    padded="dimensions of a head in x",
    gate="address of float32 values of all tokens, or 0",
    stride="values of the gate from one token's to the next",
    step="values of the gate from one head's to the next",
    each="1: a gate for each value of a head; 0: one for all",
    softplus="1: softplus of the gate; 0: its sigmoid",
    out="address of float32 (tokens, heads, dim)",
)
