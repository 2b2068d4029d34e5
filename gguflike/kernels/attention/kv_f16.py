"""Keys and values of the cache as float16: how ops store and read them (layout: runner/cache.py).

``cached`` is the index of a key head's first element in the arrays of its layer. What is read becomes a panel of
float32 (attention/tile.py).
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels.attention import words as w
from gguflike.kernels.attention.tile import columns, halves
from gguflike.kernels.attention.tile import make_scores as tile_scores
from gguflike.kernels.attention.tile import make_values as tile_values
from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.memory import load_f16x16, load_f32x16, prefetch, scatter_f16, store_f32x16

AHEAD = 4096  # bytes that are asked of memory in advance


@inner
def store(
    keys: int, key_scales: int, values: int, value_scales: int, cached: int, position: int, dim: int, k: int, v: int
) -> None:
    """Store one head's key and value, ``dim`` float32 at addresses ``k`` and ``v``."""
    block = keys + 2 * (cached + position // 16 * 16 * dim + position % 16)
    row = values + 2 * (cached + position * dim)
    for i in range(0, dim, 16):
        scatter_f16(block + 32 * i, 32, load_f32x16(k + 4 * i))
        scatter_f16(row + 2 * i, 2, load_f32x16(v + 4 * i))


@inner
def expand_keys(keys: int, key_scales: int, cached: int, first: int, dim: int, panel: int) -> None:
    """Sixteen keys from number ``first`` on, a multiple of 16."""
    block = keys + 2 * (cached + first * dim)
    for d in range(dim):
        store_f32x16(panel + 64 * d, load_f16x16(block + 32 * d))


@inner
def expand_values(
    values: int, value_scales: int, cached: int, first: int, count: int, dim: int, d: int, panel: int
) -> None:
    """Sixteen dimensions from ``d`` on, a multiple of 16, of ``count`` values from number ``first`` on."""
    row = values + 2 * (cached + first * dim + d)
    for i in range(count):
        store_f32x16(panel + 64 * i, load_f16x16(row + 2 * dim * i))


def make_scores(rows: int) -> Any:
    """A kernel: the scores of ``count`` keys (attention/tile.py) from number ``first`` on, a multiple of 16."""
    wide = columns(rows)
    score = tile_scores(rows, wide, halves)

    @inner
    def scores_of(args: int, queries: int, cached: int, first: int, count: int, dim: int, panel: int, out: int) -> None:
        keys, values = load_word(args + w.KEYS), load_word(args + w.VALUES)
        for i in range(0, count, 16 * wide):
            at = 2 * (cached + dim * (first + i))
            for line in range(0, 32 * dim * wide, 64):
                prefetch(keys + at + AHEAD + line)
                prefetch(values + at + line)
            score(queries, keys + at, dim, out + 4 * i)

    return scores_of


def make_values(rows: int) -> Any:
    """A kernel: out (rows, dim) = the weighted sum of ``count`` values from number ``first`` on."""
    wide = columns(rows)
    add, add_last = tile_values(rows, wide, halves), tile_values(rows, 1, halves)

    @inner
    def add_values(
        weights: int, values: int, scales: int, cached: int, first: int, count: int, dim: int, panel: int, out: int
    ) -> None:
        base, most = values + 2 * (cached + dim * first), dim // (16 * wide) * 16 * wide
        for d in range(0, most, 16 * wide):
            add(weights, base + 2 * d, 2 * dim, count, 0, out + 4 * d, 4 * dim)
        for d in range(most, dim, 16):
            add_last(weights, base + 2 * d, 2 * dim, count, 0, out + 4 * d, 4 * dim)

    return add_values
