"""Keys and values of the cache as int8 with a float16 scale per 32 dimensions ("q8_0"): see kv_f16.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.attention import words as w
from gguflike.kernels.attention.tile import PANEL
from gguflike.kernels.attention.tile import make_scores as tile_scores
from gguflike.kernels.attention.tile import make_values as tile_values
from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.lanes import magnitude, maximum, minimum, reduce_max, round_even, splat, to_float, to_int
from gguflike.kernels.vector.memory import (
    load_f16,
    load_f16x16,
    load_f32x16,
    load_i8x16,
    scatter_i8,
    store_f16,
    store_f32x16,
)

ZERO, ONE, LARGEST_CODE = np.float32(0), np.float32(1), np.float32(127)


@inner
def _store_block(source: int, codes: int, stride: int, scale_at: int) -> None:
    """32 float32 to codes ``stride`` bytes apart and a float16 scale."""
    a, b = load_f32x16(source), load_f32x16(source + 64)
    store_f16(scale_at, np.float32(reduce_max(maximum(magnitude(a), magnitude(b))) / LARGEST_CODE))
    scale = load_f16(scale_at)  # as it will be read: the codes make up for its rounding
    inverse = splat(np.float32(ONE / scale) if scale > ZERO else ZERO)
    scatter_i8(codes, stride, to_int(round_even(_limited(a * inverse))))
    scatter_i8(codes + 16 * stride, stride, to_int(round_even(_limited(b * inverse))))


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


@inner
def expand_keys(keys: int, key_scales: int, cached: int, first: int, dim: int, panel: int) -> None:
    """Sixteen keys from number ``first`` on, a multiple of 16."""
    block = cached + first * dim
    for start in range(0, dim, 32):
        scale = load_f16x16(key_scales + 2 * (block // 32 + start // 2))
        for d in range(start, start + 32):
            store_f32x16(panel + 64 * d, to_float(load_i8x16(keys + block + 16 * d)) * scale)


@inner
def expand_values(
    values: int, value_scales: int, cached: int, first: int, count: int, dim: int, d: int, panel: int
) -> None:
    """Sixteen dimensions from ``d`` on, a multiple of 16, of ``count`` values from number ``first`` on."""
    for i in range(count):
        at = cached + (first + i) * dim + d
        store_f32x16(panel + 64 * i, to_float(load_i8x16(values + at)) * splat(load_f16(value_scales + 2 * (at // 32))))


def make_scores(rows: int) -> Any:
    """A kernel: the scores of ``count`` keys (attention/tile.py) from number ``first`` on, a multiple of 16."""
    score = tile_scores(rows, 1)

    @inner
    def scores_of(args: int, queries: int, cached: int, first: int, count: int, dim: int, panel: int, out: int) -> None:
        keys, key_scales = load_word(args + w.KEYS), load_word(args + w.KEY_SCALES)
        for i in range(0, count, 16):
            expand_keys(keys, key_scales, cached, first + i, dim, panel)
            score(queries, panel, dim, out + 4 * i)

    return scores_of


def make_values(rows: int) -> Any:
    """A kernel: out (rows, dim) = the weighted sum of ``count`` values from number ``first`` on."""
    add = tile_values(rows, 1)

    @inner
    def add_values(
        weights: int, values: int, scales: int, cached: int, first: int, count: int, dim: int, panel: int, out: int
    ) -> None:
        for d in range(0, dim, 16):
            expand_values(values, scales, cached, first, count, dim, d, panel)
            add(weights, panel, PANEL, count, 0, out + 4 * d, 4 * dim)

    return add_values
