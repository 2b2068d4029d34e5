"""Thirty-two int16 lanes: twice the lanes of an ``f32x16`` in as many bytes.

``i16x32`` is one AVX-512 register, two of AVX2 or four of Neon. Where two int16 lanes belong to one int32 lane
(``bitcast_i16``), ``dot_pairs`` adds up products.
"""

from __future__ import annotations

from llvmlite import ir

from gguflike.kernels.vector import dot
from gguflike.kernels.vector.emitter import I32, V16I32, V32I16, Emitter
from gguflike.kernels.vector.lanes import f32x16, i16x32, i32x16, operation
from gguflike.kernels.vector.sizes import I16_LANES, LANES
from gguflike.kernels.vector.types import Value

_V32I32 = ir.VectorType(I32, I16_LANES)
_MAGIC = 0x4B400000  # the bits of 1.5 * 2**23: adding this float leaves the nearest integer in the low bits


@operation(i16x32, i16x32)
def splat_i16(e: Emitter, x: Value) -> Value:
    """Put the low 16 bits of an integer into every lane."""
    return x


@operation(i16x32, i16x32, i16x32)
def add_saturate(e: Emitter, a: Value, b: Value) -> Value:
    """Add, and limit the sums to what int16 holds."""
    return e.call("llvm.sadd.sat.v32i16", V32I16, a, b)


@operation(i16x32, i16x32, i16x32)
def max_i16(e: Emitter, a: Value, b: Value) -> Value:
    """Take the larger in each lane."""
    return e.call("llvm.smax.v32i16", V32I16, a, b)


@operation(i16x32, i16x32, i16x32)
def min_i16(e: Emitter, a: Value, b: Value) -> Value:
    """Take the smaller in each lane."""
    return e.call("llvm.smin.v32i16", V32I16, a, b)


@operation(i16x32, i16x32)
def abs_i16(e: Emitter, x: Value) -> Value:
    """Take the absolute value of each lane; -2**15 stays as it is."""
    return e.b.select(e.b.icmp_signed("<", x, e.zero(V32I16)), e.b.neg(x), x)


@operation(i16x32, i16x32, i16x32)
def rounded_product(e: Emitter, a: Value, b: Value) -> Value:
    """Compute ``a * b / 2**15``, rounded to nearest, halves up. -2**15 times itself is not allowed."""
    return dot.rounded_product(e, a, b)


@operation(i32x16, i32x16, i16x32, i16x32)
def dot_pairs(e: Emitter, total: Value, a: Value, b: Value) -> Value:
    """Add to each int32 lane of ``total`` the products of its two int16 lanes of ``a`` and ``b``."""
    return dot.WordSums(e).add([total], a, b)[0]


@operation(i16x32, i16x32, i16x32, i16x32, i16x32)
def where_greater(e: Emitter, a: Value, b: Value, x: Value, y: Value) -> Value:
    """Take ``x`` in the lanes where ``a > b``, else ``y``."""
    return e.b.select(e.b.icmp_signed(">", a, b), x, y)


@operation(i16x32, i16x32, i16x32, i16x32, i16x32)
def where_equal(e: Emitter, a: Value, b: Value, x: Value, y: Value) -> Value:
    """Take ``x`` in the lanes where ``a == b``, else ``y``."""
    return e.b.select(e.b.icmp_signed("==", a, b), x, y)


@operation(i16x32, f32x16, f32x16)
def narrow_magic(e: Emitter, low: Value, high: Value) -> Value:
    """Join two vectors of floats that 1.5 * 2**23 was added to: the integers before it, limited to what int16 holds."""
    wide = e.b.sub(e.b.bitcast(e.concat([low, high]), _V32I32), e.const(_V32I32, _MAGIC))
    wide = e.call("llvm.smax.v32i32", _V32I32, wide, e.const(_V32I32, -(1 << 15)))
    wide = e.call("llvm.smin.v32i32", _V32I32, wide, e.const(_V32I32, (1 << 15) - 1))
    return e.b.trunc(wide, V32I16)


@operation(i16x32, i32x16, i32x16)
def narrow(e: Emitter, low: Value, high: Value) -> Value:
    """Join the low 16 bits of the lanes of two vectors end to end."""
    return e.b.trunc(e.concat([low, high]), V32I16)


@operation(i32x16, i16x32)
def widen_low(e: Emitter, x: Value) -> Value:
    """Convert the lower sixteen lanes to int32."""
    return e.b.sext(e.shuffle(x, x, range(LANES)), V16I32)


@operation(i32x16, i16x32)
def widen_high(e: Emitter, x: Value) -> Value:
    """Convert the upper sixteen lanes to int32."""
    return e.b.sext(e.shuffle(x, x, range(LANES, I16_LANES)), V16I32)


@operation(i16x32, i32x16)
def bitcast_i16(e: Emitter, x: Value) -> Value:
    """Take both halves of each int32 lane, the low one first, as int16 lanes."""
    return e.b.bitcast(x, V32I16)
