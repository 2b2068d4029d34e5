"""Keys and values of the cache as int8 with a float16 scale per 32 dimensions ("q8_0"): see kv_float.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.attention.args import STORE_KV
from gguflike.kernels.attention.kv_expanded import values_by
from gguflike.kernels.attention.tile import make_scores as tile_scores
from gguflike.kernels.engine.atomics import load_args, load_word
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
from gguflike.kernels.vector.types import Address, F32x16

ZERO, ONE, LARGEST_CODE = np.float32(0), np.float32(1), np.float32(127)


@inner
def store_block(source: Address, codes: Address, stride: int, scale_at: Address) -> None:
    """Quantize 32 float32 to int8, ``stride`` bytes apart, and a float16 scale."""
    a, b = load_f32x16(source), load_f32x16(source + 64)
    store_f16(scale_at, np.float32(reduce_max(maximum(magnitude(a), magnitude(b))) / LARGEST_CODE))
    scale = load_f16(scale_at)  # as it will be read: the codes make up for its rounding
    inverse = splat(np.float32(ONE / scale) if scale > ZERO else ZERO)
    scatter_i8(codes, stride, to_int(round_even(_limited(a * inverse))))
    scatter_i8(codes + 16 * stride, stride, to_int(round_even(_limited(b * inverse))))


@inner(inline="always")
def _limited(codes: F32x16) -> F32x16:
    """Return codes within int8: a subnormal scale may be round_even down by much."""
    return minimum(maximum(codes, -LARGEST_CODE), LARGEST_CODE)


@inner
def store(args: Address, cached: int, position: int, k: Address, v: Address) -> None:
    """Store one head's key and value, float32 (head_dim,) each, at a position."""
    a = load_args(STORE_KV, args)
    dim = a.head_dim
    block, lane = cached + position // 16 * 16 * dim, position % 16
    row = cached + position * dim
    for i in range(0, dim, 32):
        store_block(k + 4 * i, a.keys + block + 16 * i + lane, 16, a.key_scales + 2 * (block // 32 + i // 2 + lane))
        store_block(v + 4 * i, a.values + row + i, 1, a.value_scales + 2 * ((row + i) // 32))


@inner
def expand_keys(args: Address, cached: int, first: int, panel: Address) -> None:
    """Expand sixteen keys from number ``first`` on, a multiple of 16, to a panel: float32 (head_dim, 16)."""
    a = load_args(STORE_KV, args)
    dim = a.head_dim
    block = cached + first * dim
    for start in range(0, dim, 32):
        scale = load_f16x16(a.key_scales + 2 * (block // 32 + start // 2))
        for d in range(start, start + 32):
            store_f32x16(panel + 64 * d, to_float(load_i8x16(a.keys + block + 16 * d)) * scale)


@inner
def expand_values(args: Address, cached: int, first: int, count: int, d: int, panel: Address) -> None:
    """Expand sixteen dimensions from ``d`` on, a multiple of 16, of ``count`` values: float32 (count, 16)."""
    a = load_args(STORE_KV, args)
    for i in range(count):
        at = cached + (first + i) * a.head_dim + d
        scale = splat(load_f16(a.value_scales + 2 * (at // 32)))
        store_f32x16(panel + 64 * i, to_float(load_i8x16(a.values + at)) * scale)


def make_scores(rows: int) -> Any:
    """Return a kernel that writes the scores of ``count`` keys (tile.py) from number ``first`` on, a multiple of 16."""
    score = tile_scores(rows, 1)

    @inner
    def scores_of(
        args: Address, queries: Address, cached: int, first: int, count: int, panel: Address, out: Address
    ) -> None:
        dim = load_word(args + STORE_KV.head_dim)
        for i in range(0, count, 16):
            expand_keys(args, cached, first + i, panel)
            score(queries, panel, dim, out + 4 * i)

    return scores_of


make_values = values_by(expand_values)
