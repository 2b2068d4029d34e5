"""Sizes of attention's work items. Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.memory import SCRATCH_BYTES

ATTENTION_KEYS = 128  # keys of a block, which is normalized by itself: their scores stay in the first-level cache
ATTENTION_HEADS = 8  # most heads of an item of attention for one token
ATTENTION_ROWS = 96  # queries that share the work of reading a key from the cache, as far as scratch memory has room


def attention_rows(head_dim: int) -> int:
    """Return the most queries that an item of attention may have: a multiple of every tile's rows."""
    room = SCRATCH_BYTES - 64 * max(head_dim, ATTENTION_KEYS)
    # Of one query: the query, its result, its scores, and its share of a softmax state.
    query_bytes = 4 * (2 * head_dim + ATTENTION_KEYS) + 64
    return min(ATTENTION_ROWS, room // query_bytes) // 12 * 12


def part_bytes(heads: int, head_dim: int) -> int:
    """Return the bytes that an item of attention for one token leaves: a softmax state, and float32 (heads, dim)."""
    return 2 * 64 + 4 * heads * head_dim
