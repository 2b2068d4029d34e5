"""Keys and values of the cache as float16: how ops store them, score them and add them up (layout: runner/cache.py).

``cached`` is the index of a key head's first element in the arrays of its layer, ``rows`` the queries of a tile.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels._jit import inner
from gguflike.kernels.address import (
    float_lanes,
    half_lanes,
    load_lanes,
    store_half_lanes,
    tile_loader,
    tile_outer,
    tile_storer,
    tile_zero,
)
from gguflike.kernels.softmax import ROW

_load_values = tile_loader(half_lanes, 1, 2, step=32)
_load_value = tile_loader(half_lanes, 1, 1)


@inner
def store(
    keys: int, key_scales: int, values: int, value_scales: int, cached: int, position: int, dim: int, k: int, v: int
) -> None:
    """Store one head's key and value, ``dim`` float32 at addresses ``k`` and ``v``."""
    block = keys + 2 * (cached + position // 16 * 16 * dim + position % 16)
    row = values + 2 * (cached + position * dim)
    for i in range(0, dim, 16):
        store_half_lanes(block + 32 * i, 32, load_lanes(k + 4 * i))
        store_half_lanes(row + 2 * i, 2, load_lanes(v + 4 * i))


def make_scores(rows: int) -> Any:
    """A kernel: scores[r, i] = queries[r] . key[first + i], for ``count`` keys, 32 at a time."""
    zero, outer, store_scores = tile_zero(rows, 2), tile_outer(rows, 2), tile_storer(rows, 2)
    load_keys = tile_loader(half_lanes, 2, 1)

    @inner
    def scores_of(
        queries: int, keys: int, key_scales: int, cached: int, first: int, count: int, dim: int, scores: int
    ) -> None:
        for i in range(0, count, 32):
            block = keys + 2 * (cached + dim * (first + i))
            sums = zero(0)
            for d in range(dim):
                sums = outer(sums, load_keys(block + 32 * d, 32 * dim), queries + 4 * d, 4 * dim)
            store_scores(scores + 4 * i, ROW, sums)

    return scores_of


def make_sums(rows: int) -> Any:
    """A kernel: out[r] += sum over i of weights[r, i] * value[first + i], for ``count`` values."""
    load_pairs, load_singles = tile_loader(float_lanes, rows, 2, step=64), tile_loader(float_lanes, rows, 1)
    outer_pairs, outer_singles = tile_outer(rows, 2), tile_outer(rows, 1)
    store_pairs, store_singles = tile_storer(rows, 2), tile_storer(rows, 1)

    @inner
    def add_values(
        weights: int, values: int, value_scales: int, cached: int, first: int, count: int, dim: int, out: int
    ) -> None:
        base = values + 2 * (cached + first * dim)
        for d in range(0, dim - 16, 32):
            pairs = load_pairs(out + 4 * d, 4 * dim)
            for i in range(count):
                pairs = outer_pairs(pairs, _load_values(base + 2 * (i * dim + d), 0), weights + 4 * i, ROW)
            store_pairs(out + 4 * d, 4 * dim, pairs)
        if dim % 32:
            d = dim - 16
            singles = load_singles(out + 4 * d, 4 * dim)
            for i in range(count):
                singles = outer_singles(singles, _load_value(base + 2 * (i * dim + d), 0), weights + 4 * i, ROW)
            store_singles(out + 4 * d, 4 * dim, singles)

    return add_values
