"""Rows normalized, weighted, scaled and added to others: all that stands around a mixer beside its matrices.

``out = added + scale * (normalized(x) * weight + bias)``. Items are rows; words: ``NORM``, ``NORM_Q8`` (args.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.rows.args import LAYER, NORM, NORM_Q8, PLAIN
from gguflike.kernels.vector.lanes import first_lanes, fma, reduce_add, splat, where
from gguflike.kernels.vector.memory import load_f32x16, load_first, store_f32x16, store_first
from gguflike.kernels.vector.quantize import quantize_block
from gguflike.kernels.vector.types import Address, F32x16
from gguflike.kernels.vector.unpack import f32_of

ZERO, ONE = np.float32(0), np.float32(1)


class Row(NamedTuple):
    """What is done with a row: the addresses of its values, the weight, the bias and what is added (0 where there is
    none), and the numbers."""

    x: int
    weight: int
    bias: int
    added: int
    mean: np.float32
    factor: np.float32
    scale: np.float32


@inner(inline="always")
def _load(place: Address, left: int) -> F32x16:
    """Load sixteen values, or those that are left of a row."""
    return load_f32x16(place) if left >= 16 else load_first(place, left)


@inner
def _sum(x: Address, columns: int) -> np.float32:
    """Return the sum of a row."""
    total = splat(ZERO)
    for i in range(0, columns, 16):
        total = total + _load(x + 4 * i, columns - i)
    result: np.float32 = reduce_add(total)
    return result


@inner
def _sum_of_squares(x: Address, columns: int, mean: np.float32) -> np.float32:
    """Return the sum of (x - mean)**2 over a row."""
    total, whole = splat(ZERO), columns // 16 * 16
    for i in range(0, whole, 16):
        v = load_f32x16(x + 4 * i) - splat(mean)
        total = fma(v, v, total)
    if whole < columns:
        left = columns - whole
        v = where(first_lanes(left), load_first(x + 4 * whole, left) - splat(mean), splat(ZERO))
        total = fma(v, v, total)
    result: np.float32 = reduce_add(total)
    return result


@inner
def _row(
    x: Address,
    columns: int,
    kind: int,
    eps: np.float32,
    weight: Address,
    bias: Address,
    added: Address,
    scale: np.float32,
) -> Row:
    """Return what is to be done with the row at ``x``."""
    mean, factor = ZERO, ONE
    if kind == LAYER:
        mean = np.float32(_sum(x, columns) / np.float32(columns))
    if kind != PLAIN:
        mean_square = np.float32(_sum_of_squares(x, columns, mean) / np.float32(columns))
        factor = np.float32(ONE / np.sqrt(np.float32(mean_square + eps)))
    return Row(x, weight, bias, added, mean, factor, scale)


@inner(inline="always")
def _result(row: Row, i: int, left: int) -> F32x16:
    """Return values i to i + 16 of a row's result, ``left`` of which are there."""
    v = (_load(row.x + 4 * i, left) - splat(row.mean)) * splat(row.factor)
    if row.weight:
        v = v * _load(row.weight + 4 * i, left)
    if row.bias:
        v = v + _load(row.bias + 4 * i, left)
    v = v * splat(row.scale)
    if row.added:
        v = v + _load(row.added + 4 * i, left)
    return v


@op("rows.norms:norm")
def norm(args: Address, state: Address, start: int, stop: int) -> None:
    """Write the results of rows as float32."""
    a = load_args(NORM, args)
    columns, whole, size = a.columns, a.columns // 16 * 16, 4 * a.columns
    for r in range(start, stop):
        weight = a.weight + size * (r % a.groups) if a.weight else 0
        added = a.added + size * r if a.added else 0
        row = _row(a.x + size * r, columns, a.kind, f32_of(a.eps), weight, a.bias, added, f32_of(a.scale))
        target = a.out + size * r
        for i in range(0, whole, 16):
            store_f32x16(target + 4 * i, _result(row, i, 16))
        if whole < columns:
            store_first(target + 4 * whole, _result(row, whole, columns - whole), columns - whole)


@op("rows.norms:norm_q8")
def norm_q8(args: Address, state: Address, start: int, stop: int) -> None:
    """Write the results of rows as int8, as the matmul ops read them."""
    a = load_args(NORM_Q8, args)
    columns, blocks, size = a.columns, a.columns // 32, 4 * a.columns
    for r in range(start, stop):
        weight = a.weight + size * (r % a.groups) if a.weight else 0
        added = a.added + size * r if a.added else 0
        row = _row(a.x + size * r, columns, a.kind, f32_of(a.eps), weight, a.bias, added, f32_of(a.scale))
        for i in range(blocks):
            low, high = _result(row, 32 * i, 16), _result(row, 32 * i + 16, 16)
            block = blocks * r + i
            quantize_block(low, high, a.codes + 32 * block, a.scales + 4 * block, a.sums + 8 * block)
