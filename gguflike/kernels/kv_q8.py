"""Keys and values of the cache as int8 with a float16 scale per 32 dimensions ("q8_0"): see kv_f16.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels._jit import inner
from gguflike.kernels.address import (
    byte_lanes,
    float_lanes,
    half_lanes,
    load_half,
    load_lanes,
    magnitude,
    max_lanes,
    maximum,
    minimum,
    rounded,
    spread,
    store_byte_lanes,
    store_half,
    tile_add_scaled,
    tile_loader,
    tile_outer,
    tile_scaled,
    tile_storer,
    tile_zero,
    to_int,
)
from gguflike.kernels.softmax import ROW

ZERO, ONE, LARGEST_CODE = np.float32(0), np.float32(1), np.float32(127)

_load_values = tile_loader(byte_lanes, 1, 2, step=16)
_scaled_pair = tile_scaled(1, 2)


@inner
def _store_block(source: int, codes: int, stride: int, scale_at: int) -> None:
    """32 float32 to codes ``stride`` bytes apart and a float16 scale."""
    a, b = load_lanes(source), load_lanes(source + 64)
    store_half(scale_at, np.float32(max_lanes(maximum(magnitude(a), magnitude(b))) / LARGEST_CODE))
    scale = load_half(scale_at)  # as it will be read: the codes make up for its rounding
    inverse = spread(np.float32(ONE / scale) if scale > ZERO else ZERO)
    store_byte_lanes(codes, stride, to_int(rounded(_limited(a * inverse))))
    store_byte_lanes(codes + 16 * stride, stride, to_int(rounded(_limited(b * inverse))))


@inner(inline="always")
def _limited(codes: Any) -> Any:
    """A subnormal scale may be rounded down by much."""
    return minimum(maximum(codes, -LARGEST_CODE), LARGEST_CODE)


@inner
def store(
    keys: int, key_scales: int, values: int, value_scales: int, cached: int, position: int, dim: int, k: int, v: int
) -> None:
    """Store one head's key and value, ``dim`` float32 at addresses ``k`` and ``v``."""
    block, lane = cached + position // 16 * 16 * dim, position % 16
    row = cached + position * dim
    for i in range(0, dim, 32):
        _store_block(k + 4 * i, keys + block + 16 * i + lane, 16, key_scales + 2 * (block // 32 + i // 2 + lane))
        _store_block(v + 4 * i, values + row + i, 1, value_scales + 2 * ((row + i) // 32))


def make_scores(rows: int) -> Any:
    """A kernel: scores[r, i] = queries[r] . key[first + i], for ``count`` keys, 32 at a time."""
    zero, outer, store_scores = tile_zero(rows, 2), tile_outer(rows, 2), tile_storer(rows, 2)
    add_scaled = tile_add_scaled(rows, 2)
    load_keys, load_scales = tile_loader(byte_lanes, 2, 1), tile_loader(half_lanes, 2, 1)

    @inner
    def scores_of(
        queries: int, keys: int, key_scales: int, cached: int, first: int, count: int, dim: int, scores: int
    ) -> None:
        for i in range(0, count, 32):
            block = cached + dim * (first + i)
            sums = zero(0)
            for start in range(0, dim, 32):
                part = zero(0)
                for d in range(start, start + 32):
                    part = outer(part, load_keys(keys + block + 16 * d, 16 * dim), queries + 4 * d, 4 * dim)
                sums = add_scaled(sums, part, load_scales(key_scales + 2 * (block // 32 + start // 2), dim))
            store_scores(scores + 4 * i, ROW, sums)

    return scores_of


def make_sums(rows: int) -> Any:
    """A kernel: out[r] += sum over i of weights[r, i] * value[first + i], for ``count`` values."""
    load_pairs, outer, store_pairs = (
        tile_loader(float_lanes, rows, 2, step=64),
        tile_outer(rows, 2),
        tile_storer(rows, 2),
    )

    @inner
    def add_values(
        weights: int, values: int, value_scales: int, cached: int, first: int, count: int, dim: int, out: int
    ) -> None:
        for d in range(0, dim, 32):
            pairs = load_pairs(out + 4 * d, 4 * dim)
            for i in range(count):
                at = cached + (first + i) * dim + d
                value = _scaled_pair(_load_values(values + at, 0), load_half(value_scales + 2 * (at // 32)))
                pairs = outer(pairs, value, weights + 4 * i, ROW)
            store_pairs(out + 4 * d, 4 * dim, pairs)

    return add_values
