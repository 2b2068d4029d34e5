"""Loads and stores at addresses, for ops: scalars, and sixteen lanes (``f32x16`` and ``i32x16`` of lanes.py).

Addresses are int64 and need no alignment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from gguflike.kernels.engine.jit import inner, types
from gguflike.kernels.vector import lanes
from gguflike.kernels.vector.quantize import emit_block
from gguflike.kernels.vector.simd import (
    F32,
    FLOATS,
    HALVES,
    I16,
    I32,
    INTS,
    LANES,
    QUADS,
    SHORTS,
    Emitter,
    address,
    operation,
    void,
)

f32x16 = lanes.f32x16
fma: Any = lanes.fma
magnitude: Any = lanes.magnitude
maximum: Any = lanes.maximum
minimum: Any = lanes.minimum
to_int: Any = lanes.to_int
from_bits: Any = lanes.from_bits


@operation(f32x16, address)
def load_lanes(e: Emitter, place: Any) -> Any:
    """Sixteen float32."""
    return e.load(FLOATS, place)


@operation(f32x16, address)
def load_half_lanes(e: Emitter, place: Any) -> Any:
    """Sixteen float16, widened."""
    return e.halves_to_float(e.load(SHORTS, place))


@operation(f32x16, address)
def load_byte_lanes(e: Emitter, place: Any) -> Any:
    """Sixteen int8, as float32."""
    return e.to_float(e.b.sext(e.load(QUADS, place), INTS))


@operation(types.float32, address)
def load_f32(e: Emitter, place: Any) -> Any:
    return e.load(F32, place)


@operation(types.int64, address)
def load_i32(e: Emitter, place: Any) -> Any:
    return e.b.sext(e.load(I32, place), ir.IntType(64))


@operation(types.float32, address)
def float_of(e: Emitter, word: Any) -> Any:
    """The float32 whose bits are in the low half of an argument word."""
    return e.b.bitcast(e.b.trunc(word, I32), F32)


@operation(types.float32, address)
def load_half(e: Emitter, place: Any) -> Any:
    """One float16, widened."""
    first = e.b.insert_element(e.zero(SHORTS), e.load(I16, place), ir.Constant(I32, 0))
    return e.b.extract_element(e.halves_to_float(first), ir.Constant(I32, 0))


@operation(void, address, types.float32)
def store_half(e: Emitter, place: Any, value: Any) -> None:
    """One float32 as float16."""
    first = e.b.insert_element(e.zero(FLOATS), value, ir.Constant(I32, 0))
    e.store(e.b.extract_element(_to_halves(e, first), ir.Constant(I32, 0)), place)


@operation(void, address, address, f32x16)
def store_apart(e: Emitter, place: Any, stride: Any, value: Any) -> None:
    """Sixteen float32, ``stride`` bytes apart."""
    for lane in range(LANES):
        e.store(e.b.extract_element(value, ir.Constant(I32, lane)), place)
        place = e.b.add(place, stride)


@operation(void, address, address, lanes.i32x16)
def store_byte_lanes(e: Emitter, place: Any, stride: Any, value: Any) -> None:
    """The low bytes of sixteen int32, ``stride`` bytes apart."""
    codes = e.b.trunc(value, QUADS)
    for lane in range(LANES):
        e.store(e.b.extract_element(codes, ir.Constant(I32, lane)), place)
        place = e.b.add(place, stride)


@operation(void, address, types.float32)
def store_f32(e: Emitter, place: Any, value: Any) -> None:
    e.store(value, place)


@operation(void, address, f32x16)
def store_lanes(e: Emitter, place: Any, value: Any) -> None:
    """Sixteen float32."""
    e.store(value, place)


def _to_halves(e: Emitter, value: Any) -> Any:
    """FLOATS as the bits of float16, to nearest even: half.py's integer arithmetic where the CPU has no conversion."""
    if e.arm or "f16c" in e.features or "avx512f" in e.features:
        return e.b.bitcast(e.b.fptrunc(value, HALVES), SHORTS)
    bits = e.b.bitcast(value, INTS)
    size = e.b.and_(bits, e.const(INTS, 0x7FFFFFFF))
    small = e.b.bitcast(e.b.fadd(e.b.bitcast(size, FLOATS), e.const(FLOATS, 0.5)), INTS)
    odd = e.b.and_(e.b.lshr(size, e.const(INTS, 13)), e.const(INTS, 1))
    normal = e.b.lshr(e.b.add(e.b.add(size, e.const(INTS, 0xFFF - (112 << 23))), odd), e.const(INTS, 13))
    result = e.b.select(e.b.icmp_unsigned("<", size, e.const(INTS, 113 << 23)), small, normal)
    for limit, code in ((143 << 23, 0x7C00), ((255 << 23) + 1, 0x7E00)):  # overflow, then NaN
        result = e.b.select(e.b.icmp_unsigned(">=", size, e.const(INTS, limit)), e.const(INTS, code), result)
    sign = e.b.and_(e.b.lshr(bits, e.const(INTS, 16)), e.const(INTS, 0x8000))
    return e.b.trunc(e.b.or_(result, sign), SHORTS)


@operation(void, address, address, f32x16)
def store_half_lanes(e: Emitter, place: Any, stride: Any, value: Any) -> None:
    """Sixteen float32 as float16, ``stride`` bytes apart."""
    bits = _to_halves(e, value)
    for lane in range(LANES):
        e.store(e.b.extract_element(bits, ir.Constant(I32, lane)), place)
        place = e.b.add(place, stride)


@operation(f32x16, types.float32)
def spread(e: Emitter, value: Any) -> Any:
    """A float32 in every lane."""
    return e.splat(FLOATS, value)


@operation(f32x16, f32x16)
def rounded(e: Emitter, value: Any) -> Any:
    """Nearest integers, ties to even."""
    return e.b.call(e.function("llvm.nearbyint.v16f32", ir.FunctionType(FLOATS, [FLOATS])), [value])


@operation(f32x16, f32x16)
def swap_pairs(e: Emitter, value: Any) -> Any:
    """Exchange lanes 0 and 1, 2 and 3, ..."""
    return e.b.shuffle_vector(value, value, ir.Constant(INTS, [lane ^ 1 for lane in range(LANES)]))


def _fold(e: Emitter, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Reduce the lanes by halves: always in the same order, so with the same result on every machine."""
    for step in (8, 4, 2, 1):
        order = ir.Constant(INTS, [lane ^ step for lane in range(LANES)])
        value = combine(value, e.b.shuffle_vector(value, value, order))
    return e.b.extract_element(value, ir.Constant(I32, 0))


@operation(types.float32, f32x16)
def sum_lanes(e: Emitter, value: Any) -> Any:
    return _fold(e, value, e.b.fadd)


@operation(void, f32x16, f32x16, address, address, address)
def quantize_lanes(e: Emitter, a: Any, b: Any, codes: Any, scale_at: Any, sums_at: Any) -> None:
    """32 values as the matmul ops read activations: int8 codes, a float32 scale, two int32 sums (quantize.py)."""
    emit_block(e, (a, b), codes, scale_at, sums_at)


@operation(types.float32, f32x16)
def max_lanes(e: Emitter, value: Any) -> Any:
    return _fold(e, value, lambda x, y: e.b.select(e.b.fcmp_ordered(">", x, y), x, y))


LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP_LOWEST, EXP_HIGHEST = np.float32(-87.3), np.float32(88.3)


@inner(inline="always")
def exp_lanes(x: Any) -> Any:
    """e**x within 2 units in the last place; arguments beyond float32's range are clamped, so never infinite.

    Range reduction by ln 2 in two parts and the polynomial are those of Cephes' expf.
    """
    x = minimum(maximum(x, EXP_LOWEST), EXP_HIGHEST)
    n = rounded(x * LOG2_E)
    r = fma(n, -LN2_HIGH, x)
    r = fma(n, -LN2_LOW, r)
    p = fma(r, np.float32(1.9875691500e-4), np.float32(1.3981999507e-3))
    p = fma(p, r, np.float32(8.3334519073e-3))
    p = fma(p, r, np.float32(4.1665795894e-2))
    p = fma(p, r, np.float32(1.6666665459e-1))
    p = fma(p, r, np.float32(5.0000001201e-1))
    p = fma(p, r * r, r + np.float32(1.0))
    return p * from_bits((to_int(n) + 127) << 23)
