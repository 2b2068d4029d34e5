"""The ops around the matrix products: normalization and activation.

Ops, in the sense of native.py, on float32 rows that stand side by side; args.py has their argument words. Those ending
in ``_q8`` hand their result on as the matmul ops read it (matmul/integer.py: int8 codes, a scale per 32, sums per 16),
which saves writing and reading floats.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from gguflike.kernels.args import RMS_NORM, RMS_NORM_Q8, SILU_MUL, SILU_MUL_Q8
from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.vector.emitter import I64, V16F32, Emitter
from gguflike.kernels.vector.lanes import exp, fma, int64, operation, reduce_add, splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32, store_f32x16
from gguflike.kernels.vector.quantize import quantize_block
from gguflike.kernels.vector.types import Address, F32x16, Value
from gguflike.kernels.vector.unpack import f32_of

ONE = np.float32(1)
STRETCH = 16  # blocks of 32 values between the two halves of silu_mul_q8


@inner(inline="always")
def _rms_factor(x: Address, columns: int, eps: np.float32) -> np.float32:
    """Return 1 / sqrt(mean(x**2) + eps) of one row, float32 (columns,)."""
    vectors = columns // 16
    total = splat(np.float32(0))
    for i in range(vectors):
        v = load_f32x16(x + 64 * i)
        total = fma(v, v, total)
    rest = np.float32(0)
    for i in range(16 * vectors, columns):
        rest += load_f32(x + 4 * i) * load_f32(x + 4 * i)
    mean = np.float32((reduce_add(total) + rest) / np.float32(columns))
    inverse: np.float32 = ONE / np.sqrt(np.float32(mean + eps))
    return inverse


@op("ops:rms_norm")
def rms_norm(args: Address, state: Address, start: int, stop: int) -> None:
    """Write x * weight / sqrt(mean(x**2) + eps) of each token as float32. Items are tokens; words: ``RMS_NORM``."""
    a = load_args(RMS_NORM, args)
    columns, vectors, eps = a.columns, a.columns // 16, f32_of(a.eps)
    for token in range(start, stop):
        row, target = a.x + 4 * columns * token, a.out + 4 * columns * token
        factor = _rms_factor(row, columns, eps)
        for i in range(vectors):
            store_f32x16(target + 64 * i, load_f32x16(row + 64 * i) * splat(factor) * load_f32x16(a.weight + 64 * i))
        for i in range(16 * vectors, columns):
            store_f32(target + 4 * i, np.float32(load_f32(row + 4 * i) * factor * load_f32(a.weight + 4 * i)))


@op("ops:rms_norm_q8")
def rms_norm_q8(args: Address, state: Address, start: int, stop: int) -> None:
    """As ``rms_norm``, quantized to int8 like activations. Items are tokens; words: ``RMS_NORM_Q8``."""
    a = load_args(RMS_NORM_Q8, args)
    columns, blocks, eps = a.columns, a.columns // 32, f32_of(a.eps)
    for token in range(start, stop):
        row = a.x + 4 * columns * token
        factor = splat(_rms_factor(row, columns, eps))
        for i in range(blocks):
            low = load_f32x16(row + 128 * i) * factor * load_f32x16(a.weight + 128 * i)
            high = load_f32x16(row + 128 * i + 64) * factor * load_f32x16(a.weight + 128 * i + 64)
            block = blocks * token + i
            quantize_block(low, high, a.codes + 32 * block, a.scales + 4 * block, a.sums + 8 * block)


@inner(inline="always")
def _silu_mul(gate: Address, up: Address) -> F32x16:
    """Return silu(gate) * up of sixteen values, where silu(x) = x * sigmoid(x)."""
    g = load_f32x16(gate)
    return g / (splat(ONE) + exp(-g)) * load_f32x16(up)


@op("ops:silu_mul")
def silu_mul(args: Address, state: Address, start: int, stop: int) -> None:
    """Write silu(gate) * up as float32. Items are 32 values; words: ``SILU_MUL``."""
    a = load_args(SILU_MUL, args)
    for i in range(2 * start, 2 * stop):
        store_f32x16(a.out + 64 * i, _silu_mul(a.gate + 64 * i, a.up + 64 * i))


@operation(int64)
def _room(e: Emitter) -> Value:
    """Return the address of float32 (STRETCH, 32) on the stack, the same each time in a kernel."""
    with e.b.goto_entry_block():
        place = e.b.alloca(ir.ArrayType(V16F32, 2 * STRETCH))
    return e.b.ptrtoint(place, I64)


@op("ops:silu_mul_q8")
def silu_mul_q8(args: Address, state: Address, start: int, stop: int) -> None:
    """As ``silu_mul``, quantized to int8 like activations. Items are 32 values; words: ``SILU_MUL_Q8``."""
    a, room = load_args(SILU_MUL_Q8, args), _room()
    # One after the other: a block takes so long from its values to its codes that few are under way at the same time.
    for first in range(start, stop, STRETCH):
        count = min(STRETCH, stop - first)
        for i in range(2 * count):
            at = 128 * first + 64 * i
            store_f32x16(room + 64 * i, _silu_mul(a.gate + at, a.up + at))
        for i in range(count):
            low, high, block = load_f32x16(room + 128 * i), load_f32x16(room + 128 * i + 64), first + i
            quantize_block(low, high, a.codes + 32 * block, a.scales + 4 * block, a.sums + 8 * block)
