"""Activations to int8 by a step that is known before (static quantization).

Codes are ``round(x / step)``, kept within -127 and 127. A token of which a value is larger than ``massive``, or NaN, is
quantized by what it holds (quantize.py): a text's first token is often a hundred times as large as the others.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import jit, op
from gguflike.kernels.vector.args import FIXED_ROWS
from gguflike.kernels.vector.emitter import F32, V16F32, V16I8, V16I32, Emitter
from gguflike.kernels.vector.lanes import f32x16, float32, int64, operation, splat
from gguflike.kernels.vector.memory import store_f32
from gguflike.kernels.vector.quantize import quantize_row
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Address, F32x16, Value
from gguflike.kernels.vector.unpack import f32_of

MOST = 127.0


@operation(f32x16, int64, int64, int64, f32x16, f32x16)
def _fix_block(e: Emitter, x: Value, codes: Value, sums_at: Value, inverse: Value, largest: Value) -> Value:
    """Store the 32 float32 at ``x`` times ``inverse`` as int8, and two int32 sums; the larger of their magnitudes and
    ``largest``, in each lane."""
    b = e.b
    for half in range(2):
        values = e.load(V16F32, x, 64 * half)
        bits = b.and_(b.bitcast(values, V16I32), e.const(V16I32, 0x7FFFFFFF))  # NaN is above all
        before = b.bitcast(largest, V16I32)
        largest = b.bitcast(b.select(b.icmp_unsigned(">", bits, before), bits, before), V16F32)
        scaled = e.round(b.fmul(values, inverse))
        kept = e.maximum(e.minimum(scaled, e.const(V16F32, MOST)), e.const(V16F32, -MOST))
        integers = b.fptosi(kept, V16I32)
        e.store(b.trunc(integers, V16I8), codes, LANES * half)
        e.store(e.reduce_int("add", integers), sums_at, 4 * half)
    return largest


@operation(float32, f32x16)
def _largest(e: Emitter, magnitudes: Value) -> Value:
    """Find the largest of magnitudes, or NaN."""
    return e.b.bitcast(e.reduce_int("umax", e.b.bitcast(magnitudes, V16I32)), F32)


@jit
def fix_row(
    x: Address, columns: int, codes: Address, scales: Address, sums: Address, step: np.float32, massive: np.float32
) -> None:
    """Quantize one token by ``step``, or as ``quantize_row`` does where a value is larger than ``massive``."""
    inverse: F32x16 = splat(np.float32(np.float32(1) / step))
    largest: F32x16 = splat(np.float32(0))
    for block in range(columns // BLOCK):
        largest = _fix_block(x + 4 * BLOCK * block, codes + BLOCK * block, sums + 8 * block, inverse, largest)
        store_f32(scales + 4 * block, step)
    if not _largest(largest) <= massive:
        quantize_row(x, columns, codes, scales, sums)


@op("vector.fixed:rows")
def _rows(args: Address, state: Address, start: int, stop: int) -> None:
    """Quantize activations to int8 by a fixed step. Items are tokens; words: ``FIXED_ROWS``."""
    a = load_args(FIXED_ROWS, args)
    columns, blocks = a.columns, a.columns // BLOCK
    for t in range(start, stop):
        scales, sums = a.scales + 4 * blocks * t, a.sums + 8 * blocks * t
        fix_row(a.x + 4 * columns * t, columns, a.codes + columns * t, scales, sums, f32_of(a.step), f32_of(a.massive))
