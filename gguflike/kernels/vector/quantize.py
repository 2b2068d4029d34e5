"""Activations to int8, per token and 32 columns (see matmul/integer.py for the rule and the memory)."""

from __future__ import annotations

from collections.abc import Sequence

from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import jit, op
from gguflike.kernels.vector.args import QUANTIZE_ROWS
from gguflike.kernels.vector.emitter import F32, I32, V16F32, V16I8, V16I32, Emitter
from gguflike.kernels.vector.lanes import f32x16, int64, operation, void
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Address, Value

TINY = 1e-30  # a block whose largest value is below counts as zero, so that 1 / scale stays finite


def _emit_block(e: Emitter, values: Sequence[Value], codes: Value, scale_at: Value, sums_at: Value) -> None:
    """Store 32 float32, given in two vectors, as 32 int8, a float32 scale and two int32 sums.

    The scale is max |x| / 127 with its last 13 bits rounded off, and codes are x * 127 / max |x| to the nearest.
    """
    b = e.b
    # Bits of magnitudes order like the magnitudes, with NaN above all, so that NaN reaches the scale.
    bits = [b.and_(b.bitcast(v, V16I32), e.const(V16I32, 0x7FFFFFFF)) for v in values]
    larger = b.select(b.icmp_unsigned(">", *bits), *bits)
    largest = b.bitcast(e.reduce_int("umax", larger), F32)
    exact = b.bitcast(b.fdiv(largest, e.const(F32, 127.0)), I32)
    scale = b.bitcast(b.and_(b.add(exact, e.const(I32, 1 << 12)), e.const(I32, -1 << 13)), F32)
    is_zero, zero = b.fcmp_ordered("<", largest, e.const(F32, TINY)), e.const(F32, 0.0)
    inverse = e.splat(V16F32, b.select(is_zero, zero, b.fdiv(e.const(F32, 127.0), largest)))
    e.store(b.select(is_zero, zero, scale), scale_at)
    for half, value in enumerate(values):
        integers = b.fptosi(e.round(b.fmul(value, inverse)), V16I32)
        e.store(b.trunc(integers, V16I8), codes, LANES * half)
        e.store(e.reduce_int("add", integers), sums_at, 4 * half)


@operation(void, f32x16, f32x16, int64, int64, int64)
def quantize_block(e: Emitter, low: Value, high: Value, codes: Value, scale_at: Value, sums_at: Value) -> None:
    """Store 32 values as the matmuls read activations: int8 codes, a float32 scale, two int32 sums of 16 codes each."""
    _emit_block(e, (low, high), codes, scale_at, sums_at)


@operation(void, int64, int64, int64, int64)
def _quantize_from(e: Emitter, x: Value, codes: Value, scale_at: Value, sums_at: Value) -> None:
    """Do what ``quantize_block`` does with the 32 float32 at ``x``."""
    _emit_block(e, [e.load(V16F32, x, 64 * half) for half in range(2)], codes, scale_at, sums_at)


@jit
def quantize_row(x: Address, columns: int, codes: Address, scales: Address, sums: Address) -> None:
    """Quantize one token: ``columns`` float32 to codes (columns,), scales (columns / 32,), sums (columns / 16,)."""
    for block in range(columns // BLOCK):
        _quantize_from(x + 4 * BLOCK * block, codes + BLOCK * block, scales + 4 * block, sums + 8 * block)


@op("vector.quantize:rows")
def _rows(args: Address, state: Address, start: int, stop: int) -> None:
    """Quantize activations to int8. Items are tokens; words: ``QUANTIZE_ROWS``."""
    a = load_args(QUANTIZE_ROWS, args)
    columns, blocks = a.columns, a.columns // BLOCK
    for t in range(start, stop):
        scales, sums = a.scales + 4 * blocks * t, a.sums + 8 * blocks * t
        quantize_row(a.x + 4 * columns * t, columns, a.codes + columns * t, scales, sums)
