"""The ops around the matrix products: normalization and activation.

Ops, in the sense of native.py, on float32 rows that stand side by side. Those ending in ``_q8`` hand their result on
as the matmul ops read it (matmul/integer.py: int8 codes, a scale per 32, sums per 16), which saves writing and
reading floats.

    rms_norm(_q8)   items are tokens                X, COLUMNS, WEIGHT, EPS (float bits), OUT or CODES, SCALES, SUMS
    silu_mul(_q8)   items are 32 values of a token  GATE, UP, OUT or CODES, SCALES, SUMS
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.vector.lanes import exp, fma, reduce_add, splat
from gguflike.kernels.vector.memory import float_of, load_f32, load_f32x16, store_f32, store_f32x16
from gguflike.kernels.vector.quantize import quantize_block

ONE = np.float32(1)


@inner(inline="always")
def _rms_factor(x: int, columns: int, eps: Any) -> Any:
    """1 / sqrt(mean(x**2) + eps) of one row at address ``x``."""
    vectors = columns // 16
    total = splat(np.float32(0))
    for i in range(vectors):
        v = load_f32x16(x + 64 * i)
        total = fma(v, v, total)
    rest = np.float32(0)
    for i in range(16 * vectors, columns):
        rest += load_f32(x + 4 * i) * load_f32(x + 4 * i)
    mean = np.float32((reduce_add(total) + rest) / np.float32(columns))
    return ONE / np.sqrt(np.float32(mean + eps))


@op("ops:rms_norm")
def rms_norm(args: int, state: int, start: int, stop: int) -> None:
    x, columns, weight, out = load_word(args), load_word(args + 8), load_word(args + 16), load_word(args + 32)
    eps = float_of(load_word(args + 24))
    vectors = columns // 16
    for token in range(start, stop):
        row, target = x + 4 * columns * token, out + 4 * columns * token
        factor = _rms_factor(row, columns, eps)
        for i in range(vectors):
            store_f32x16(target + 64 * i, load_f32x16(row + 64 * i) * splat(factor) * load_f32x16(weight + 64 * i))
        for i in range(16 * vectors, columns):
            store_f32(target + 4 * i, np.float32(load_f32(row + 4 * i) * factor * load_f32(weight + 4 * i)))


@op("ops:rms_norm_q8")
def rms_norm_q8(args: int, state: int, start: int, stop: int) -> None:
    x, columns, weight = load_word(args), load_word(args + 8), load_word(args + 16)
    eps = float_of(load_word(args + 24))
    codes, scales, sums = load_word(args + 32), load_word(args + 40), load_word(args + 48)
    blocks = columns // 32
    for token in range(start, stop):
        row = x + 4 * columns * token
        factor = splat(_rms_factor(row, columns, eps))
        for i in range(blocks):
            a = load_f32x16(row + 128 * i) * factor * load_f32x16(weight + 128 * i)
            b = load_f32x16(row + 128 * i + 64) * factor * load_f32x16(weight + 128 * i + 64)
            block = blocks * token + i
            quantize_block(a, b, codes + 32 * block, scales + 4 * block, sums + 8 * block)


@inner(inline="always")
def _silu_mul(gate: int, up: int) -> Any:
    """gate * sigmoid(gate) * up of sixteen values."""
    g = load_f32x16(gate)
    return g / (splat(ONE) + exp(-g)) * load_f32x16(up)


@op("ops:silu_mul")
def silu_mul(args: int, state: int, start: int, stop: int) -> None:
    gate, up, out = load_word(args), load_word(args + 8), load_word(args + 16)
    for i in range(2 * start, 2 * stop):
        store_f32x16(out + 64 * i, _silu_mul(gate + 64 * i, up + 64 * i))


@op("ops:silu_mul_q8")
def silu_mul_q8(args: int, state: int, start: int, stop: int) -> None:
    gate, up = load_word(args), load_word(args + 8)
    codes, scales, sums = load_word(args + 16), load_word(args + 24), load_word(args + 32)
    for block in range(start, stop):
        a = _silu_mul(gate + 128 * block, up + 128 * block)
        b = _silu_mul(gate + 128 * block + 64, up + 128 * block + 64)
        quantize_block(a, b, codes + 32 * block, scales + 4 * block, sums + 8 * block)
