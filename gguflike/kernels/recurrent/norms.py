"""Normalization of heads and groups of values.

    unit   queries and keys to length 1, in place; items are the heads of queries and keys of all tokens
    gated  groups times silu of another product; items are the groups of all tokens
    slice  rows of a wide matrix, normalized or only copied; items are tokens

Argument words: ``UNIT_HEADS``, ``GATED_NORM``, ``SLICE``.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.recurrent.args import GATED_NORM, SLICE, UNIT_HEADS
from gguflike.kernels.vector.activations import silu
from gguflike.kernels.vector.lanes import fma, reduce_add, splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32, store_f32x16
from gguflike.kernels.vector.types import Address, F32x16
from gguflike.kernels.vector.unpack import f32_of

ONE, ZERO = np.float32(1), np.float32(0)
UNIT_EPS = np.float32(1e-6)  # of the delta rule's authors, added to the sum of squares


@inner
def _sum_of_squares(x: Address, size: int) -> np.float32:
    """Return the sum of the squares of float32 (size,), a multiple of 16."""
    total = splat(ZERO)
    for i in range(0, size, 16):
        value = load_f32x16(x + 4 * i)
        total = fma(value, value, total)
    result: np.float32 = reduce_add(total)
    return result


@op("recurrent.norms:unit")
def unit(args: Address, state: Address, start: int, stop: int) -> None:
    """Divide heads by sqrt(sum(x**2) + 1e-6); multiply those of queries by ``scale``."""
    a = load_args(UNIT_HEADS, args)
    for item in range(start, stop):
        token, head = item // (2 * a.heads), item % (2 * a.heads)
        row = a.x + 4 * (a.channels * token + a.head_dim * head)
        factor = ONE / np.sqrt(np.float32(_sum_of_squares(row, a.head_dim) + UNIT_EPS))
        if head < a.heads:
            factor = np.float32(factor * f32_of(a.scale))
        for i in range(0, a.head_dim, 16):
            store_f32x16(row + 4 * i, load_f32x16(row + 4 * i) * splat(factor))


@inner(inline="always")
def _opened(z: Address) -> F32x16:
    return silu(load_f32x16(z))


@op("recurrent.norms:gated")
def gated(args: Address, state: Address, start: int, stop: int) -> None:
    """Write norm(y * silu(z)), norm(y) * silu(z), or y * silu(z)."""
    a = load_args(GATED_NORM, args)
    for item in range(start, stop):
        token, group = item // a.groups, item % a.groups
        y, out = a.y + 4 * a.size * item, a.out + 4 * a.size * item
        z = a.z + 4 * (a.stride * token + a.size * group)
        if a.gate_first or not a.weight:
            for i in range(0, a.size, 16):
                store_f32x16(out + 4 * i, load_f32x16(y + 4 * i) * _opened(z + 4 * i))
            y = out
        if a.weight:
            mean = np.float32(_sum_of_squares(y, a.size) / np.float32(a.size))
            factor = splat(ONE / np.sqrt(np.float32(mean + f32_of(a.eps))))
            weight = a.weight + a.next_weight * group
            for i in range(0, a.size, 16):
                value = load_f32x16(y + 4 * i) * factor * load_f32x16(weight + 4 * i)
                if not a.gate_first:
                    value = value * _opened(z + 4 * i)
                store_f32x16(out + 4 * i, value)


@op("recurrent.norms:slice")
def slice_(args: Address, state: Address, start: int, stop: int) -> None:
    """Copy rows, normalized to a mean square of 1 and multiplied by a weight where the words say so."""
    a = load_args(SLICE, args)
    for token in range(start, stop):
        row, out = a.x + 4 * a.stride * token, a.out + 4 * a.out_stride * token
        factor = ONE
        if a.normed:
            total = ZERO
            for i in range(a.columns):
                total += load_f32(row + 4 * i) * load_f32(row + 4 * i)
            factor = np.float32(ONE / np.sqrt(np.float32(total / np.float32(a.columns) + f32_of(a.eps))))
        for i in range(a.columns):
            value = np.float32(load_f32(row + 4 * i) * factor)
            if a.weight:
                value = np.float32(value * load_f32(a.weight + 4 * i))
            store_f32(out + 4 * i, value)
