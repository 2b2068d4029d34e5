"""What happens to the heads of a token between its matrices and attention, where that is more than a rotation.

    prepare  queries, keys or values, from wherever a matrix left them: clamped, normalized, rotated, multiplied by a
             factor of their position, and padded with zeros to the dimensions that attention works on (``HEADS``)
    open     what the heads found, without the padding, times its gate (``OPEN``)

Items are tokens. general_args.py has the argument words, reference/parts.py the definitions.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.attention.general_args import HEADS, LAYER, OPEN
from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import ROW, ROW_BYTES
from gguflike.kernels.vector.activations import limited, sigmoid, softplus
from gguflike.kernels.vector.lanes import fma, reduce_add, splat, swap_pairs
from gguflike.kernels.vector.memory import load_f32, load_f32x16, load_first, store_f32x16, store_first
from gguflike.kernels.vector.types import Address, F32x16
from gguflike.kernels.vector.unpack import f32_of

ZERO, ONE = np.float32(0), np.float32(1)


@inner
def _copy(source: Address, dim: int, limit: np.float32, target: Address, padded: int) -> None:
    """Write a head's values, clamped, and zeros behind them."""
    whole = dim // 16 * 16
    for i in range(0, whole, 16):
        store_f32x16(target + 4 * i, limited(load_f32x16(source + 4 * i), limit))
    for i in range(whole, padded, 16):
        store_f32x16(target + 4 * i, splat(ZERO))
    if whole < dim:
        store_f32x16(target + 4 * whole, limited(load_first(source + 4 * whole, dim - whole), limit))


@inner
def _sum(x: Address, dim: int, mean: np.float32, squares: bool) -> np.float32:
    """Return the sum of x - mean over a head, or of its squares."""
    total, rest, whole = splat(ZERO), ZERO, dim // 16 * 16
    for i in range(0, whole, 16):
        v = load_f32x16(x + 4 * i) - splat(mean)
        total = fma(v, v, total) if squares else total + v
    for i in range(whole, dim):
        one = np.float32(load_f32(x + 4 * i) - mean)
        rest = np.float32(rest + (one * one if squares else one))
    result: np.float32 = np.float32(reduce_add(total) + rest)
    return result


@inner
def _sum_of_heads(x: Address, args: Address, heads: int, mean: np.float32, squares: bool) -> np.float32:
    """Return the sum of `_sum` over ``heads`` heads that stand side by side, padded."""
    dim, padded = load_word(args + HEADS.dim), load_word(args + HEADS.padded)
    total = ZERO
    for head in range(heads):
        total = np.float32(total + _sum(x + 4 * padded * head, dim, mean, squares))
    result: np.float32 = total
    return result


@inner
def _scale(x: Address, dim: int, mean: np.float32, factor: np.float32, weight: Address, bias: Address) -> None:
    """Replace x of a head by (x - mean) * factor * weight + bias."""
    for i in range(0, dim, 16):
        count = dim - i
        v = (load_f32x16(x + 4 * i) - splat(mean)) * splat(factor)
        if weight:
            v = v * load_first(weight + 4 * i, count)
        if bias:
            v = v + load_first(bias + 4 * i, count)
        store_first(x + 4 * i, v, count)


@inner
def _normalize(x: Address, args: Address, first: int, heads: int) -> None:
    """Normalize ``heads`` heads from number ``first`` on, at ``x``, as one."""
    a = load_args(HEADS, args)
    size, mean = np.float32(heads * a.dim), ZERO
    if a.kind == LAYER:
        mean = np.float32(_sum_of_heads(x, args, heads, ZERO, False) / size)
    variance = np.float32(_sum_of_heads(x, args, heads, mean, True) / size)
    factor = np.float32(ONE / np.sqrt(np.float32(variance + f32_of(a.eps))))
    for head in range(heads):
        at = 4 * a.weight_step * (first + head)
        weight = a.weight + at if a.weight else 0
        _scale(x + 4 * a.padded * head, a.dim, mean, factor, weight, a.bias + at if a.bias else 0)


@inner
def _rotate(head: Address, cos_sin: Address, n_rot: int, neox: int) -> None:
    """Rotate a head where it stands."""
    if neox:
        half = n_rot // 2
        for i in range(0, half, 16):
            count, low, high = half - i, head + 4 * i, head + 4 * (half + i)
            a, b = load_first(low, count), load_first(high, count)
            cos, sin = load_first(cos_sin + 4 * i, count), load_first(cos_sin + 4 * (n_rot + half + i), count)
            store_first(low, fma(b, -sin, a * cos), count)
            store_first(high, fma(a, sin, b * cos), count)
    else:
        for i in range(0, n_rot, 16):
            count, place = n_rot - i, head + 4 * i
            v = load_first(place, count)
            cos, sin = load_first(cos_sin + 4 * i, count), load_first(cos_sin + 4 * (n_rot + i), count)
            store_first(place, fma(swap_pairs(v), sin, v * cos), count)


@inner
def _rotate_all(row: Address, args: Address, position: int) -> None:
    """Rotate the heads of a token."""
    a = load_args(HEADS, args)
    for head in range(a.heads):
        _rotate(row + 4 * a.padded * head, a.cos_sin + 8 * a.n_rot * position, a.n_rot, a.neox)


@op("attention.heads:prepare")
def prepare(args: Address, state: Address, start: int, stop: int) -> None:
    """Prepare queries, keys or values. Items are tokens; words: ``HEADS``."""
    a = load_args(HEADS, args)
    for token in range(start, stop):
        position, row = load_word(a.rows + ROW_BYTES * token + ROW.position), a.out + 4 * a.padded * a.heads * token
        for head in range(a.heads):
            source = a.x + 4 * (a.stride * token + a.step * head)
            _copy(source, a.dim, f32_of(a.limit), row + 4 * a.padded * head, a.padded)
        if a.turned_first:
            _rotate_all(row, args, position)
        if a.kind:
            together = a.heads if a.whole else 1
            for head in range(0, a.heads, together):
                _normalize(row + 4 * a.padded * head, args, head, together)
        if not a.turned_first:
            _rotate_all(row, args, position)
        if a.factors:
            factor = splat(load_f32(a.factors + 4 * position))
            for i in range(0, a.padded * a.heads, 16):
                store_f32x16(row + 4 * i, load_f32x16(row + 4 * i) * factor)


@inner(inline="always")
def _opened(gate: F32x16, softplus_: int) -> F32x16:
    """Return what a gate lets through."""
    return softplus(gate) if softplus_ else sigmoid(gate)


@op("attention.heads:open")
def open_heads(args: Address, state: Address, start: int, stop: int) -> None:
    """Multiply what the heads found by their gates. Items are tokens; words: ``OPEN``."""
    a = load_args(OPEN, args)
    for token in range(start, stop):
        for head in range(a.heads):
            row, target = a.heads * token + head, a.out + 4 * a.dim * (a.heads * token + head)
            gate = a.gate + 4 * (a.stride * token + a.step * head)
            for i in range(0, a.dim, 16):
                count, v = a.dim - i, load_f32x16(a.x + 4 * (a.padded * row + i))
                if a.gate:
                    if a.each:
                        v = v * _opened(load_first(gate + 4 * i, count), a.softplus)
                    else:
                        v = v * _opened(splat(load_f32(gate)), a.softplus)
                store_first(target + 4 * i, v, count)
