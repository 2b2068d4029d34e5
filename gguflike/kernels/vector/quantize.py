"""Activations to int8, per token and 32 columns (see matmul/integer.py for the rule and the memory)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import jit, op
from gguflike.kernels.vector.simd import F32, FLOATS, I8, I32, INTS, Emitter, address, operation, void
from gguflike.kernels.vector.sizes import BLOCK, LANES

TINY = 1e-30  # a block whose largest value is below counts as zero, so that 1 / scale stays finite


def emit_block(e: Emitter, values: Sequence[Any], codes: Any, scale_at: Any, sums_at: Any) -> None:
    """32 float32 in two vectors to 32 int8, a float32 scale and two int32 sums in memory."""
    b = e.b
    # Bits of magnitudes order like the magnitudes, with NaN above all, so that NaN reaches the scale.
    bits = [b.and_(b.bitcast(v, INTS), e.const(INTS, 0x7FFFFFFF)) for v in values]
    larger = b.select(b.icmp_unsigned(">", *bits), *bits)
    largest = b.bitcast(e.reduce("umax", larger), F32)
    exact = b.bitcast(b.fdiv(largest, ir.Constant(F32, 127.0)), I32)
    scale = b.bitcast(b.and_(b.add(exact, ir.Constant(I32, 1 << 12)), ir.Constant(I32, -1 << 13)), F32)
    is_zero = b.fcmp_ordered("<", largest, ir.Constant(F32, TINY))
    zero = ir.Constant(F32, 0.0)
    scale = b.select(is_zero, zero, scale)
    inverse = e.splat(FLOATS, b.select(is_zero, zero, b.fdiv(ir.Constant(F32, 127.0), largest)))
    e.store(scale, scale_at)
    for half, value in enumerate(values):
        integers = b.fptosi(e.round(b.fmul(value, inverse)), INTS)
        e.store(b.trunc(integers, ir.VectorType(I8, LANES)), codes, LANES * half)
        e.store(e.reduce("add", integers), sums_at, 4 * half)


@operation(void, address, address, address, address)
def _quantize_block(e: Emitter, x: Any, codes: Any, scale_at: Any, sums_at: Any) -> None:
    emit_block(e, [e.load(FLOATS, x, 64 * half) for half in range(2)], codes, scale_at, sums_at)


@jit
def quantize_row(x: int, columns: int, codes: int, scales: int, sums: int) -> None:
    """One token: ``columns`` float32 at ``x`` to codes (columns,), scales (columns / 32,), sums (columns / 16,)."""
    for block in range(columns // BLOCK):
        _quantize_block(x + 4 * BLOCK * block, codes + BLOCK * block, scales + 4 * block, sums + 8 * block)


@op("vector.quantize:rows")
def _rows(args: int, state: int, start: int, stop: int) -> None:
    x, columns, codes = load_word(args), load_word(args + 8), load_word(args + 16)
    scales, sums = load_word(args + 24), load_word(args + 32)
    blocks = columns // BLOCK
    for t in range(start, stop):
        quantize_row(x + 4 * columns * t, columns, codes + columns * t, scales + 4 * blocks * t, sums + 8 * blocks * t)
