"""Sizes of attention's work items, and its argument words as byte offsets (causal.py says what they are)."""

from __future__ import annotations

from gguflike.kernels.engine.program import SCRATCH_BYTES

Q, TABLE, N_ROT, NEOX = range(0, 32, 8)
KEYS, KEY_SCALES, VALUES, VALUE_SCALES = range(32, 64, 8)
N_HEAD, N_HEAD_KV, HEAD_DIM, CONTEXT, HEADS, SCALE = range(64, 112, 8)
K, V = 112, 120
SPAN, OUT, CODES, SCALES, SUMS = range(128, 168, 8)  # of several tokens
PARTS = 128  # of one token

ATTENTION_KEYS = 128  # keys of a block, which is normalized by itself: their scores stay in the first-level cache
ATTENTION_HEADS = 8  # most heads of an item of attention for one token
ATTENTION_ROWS = 96  # queries that share the work of reading a key from the cache, as far as scratch memory has room


def attention_rows(head_dim: int) -> int:
    """Most queries of an item of attention: a multiple of every tile's rows."""
    room = SCRATCH_BYTES - 64 * max(head_dim, ATTENTION_KEYS)
    each = 4 * (2 * head_dim + ATTENTION_KEYS) + 64  # the query, the result, the scores, and its share of a state
    return min(ATTENTION_ROWS, room // each) // 12 * 12


def attention_part(heads: int, head_dim: int) -> int:
    """Bytes that an item of attention for one token leaves (attention.py)."""
    return 128 + 4 * heads * head_dim
