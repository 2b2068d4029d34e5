"""float16 <-> float32 inside kernels. Numba has no float16 arithmetic on the CPU, so float16 travels as its 16 bits.

Where the target has the conversion (x86 with F16C, every 64-bit Arm) these become one instruction, and LLVM vectorizes
it. Elsewhere LLVM would call compiler-rt's ``__extendhfsf2``, which numba does not provide (it crashes), so the same
values are made with integer arithmetic, also without branches. Both round to nearest, ties to even, and keep
subnormals, infinities and signed zeros; a NaN stays a NaN, its payload is not promised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.engine.jit import intrinsic, ir, overload, types

_HALF, _FLOAT, _I16 = ir.HalfType(), ir.FloatType(), ir.IntType(16)

_SIGN = np.uint32(0x8000)
_NOT_SIGN = np.uint32(0x7FFF)
_INFINITY = np.uint32(0x7F800000)
_REBIAS = np.float32(2.0**112)  # float16 exponents are biased by 15, float32 by 127
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_REBIAS_BITS = np.uint32(112 << 23)
_HALF_MIN_NORMAL = np.uint32(113 << 23)  # 2**-14
_HALF_OVERFLOW = np.uint32(143 << 23)  # 2**16; [65520, 65536) rounds up to infinity by itself
_ROUND = np.uint32(0xFFF)
_ONE = np.uint32(1)
_SHIFT = np.uint32(13)
_TO_TOP = np.uint32(16)


def f16_to_f32(bits: Any) -> Any:
    """float32 value of the float16 with these 16 ``bits`` (uint16)."""
    wide = np.uint32(bits)
    shifted = np.uint32((wide & _NOT_SIGN) << _SHIFT)
    # Multiplying by a power of two is exact and turns float16 subnormals, here float32 subnormals, into normals.
    magnitude = np.float32(shifted.view(np.float32) * _REBIAS).view(np.uint32)
    special = np.uint32(shifted | _INFINITY)  # exponent 31: infinity, or a NaN with its payload
    chosen = special if shifted >= np.uint32(0x7C00 << 13) else magnitude
    return np.uint32(chosen | np.uint32((wide & _SIGN) << _TO_TOP)).view(np.float32)


def f32_to_f16(value: Any) -> Any:
    """The 16 bits (uint16) of the float16 nearest to the float32 ``value``, ties to even; infinity on overflow."""
    bits = np.float32(value).view(np.uint32)
    sign = np.uint32((bits >> _TO_TOP) & _SIGN)
    a = np.uint32(bits & _MAGNITUDE)
    # Subnormal results: adding 0.5, whose last place is 2**-24, rounds to the float16 grid; the low bits are the code.
    small = np.uint32(np.float32(a.view(np.float32) + np.float32(0.5)).view(np.uint32) & np.uint32(0xFFFF))
    # Normal results: add just under half of the last kept place, plus its own low bit for ties to even. Unsigned
    # wrap-around below 2**-14 does not matter, since ``small`` is taken there.
    normal = np.uint32(np.uint32(np.uint32(a - _REBIAS_BITS) + _ROUND + ((a >> _SHIFT) & _ONE)) >> _SHIFT)
    result = small if a < _HALF_MIN_NORMAL else normal
    result = np.uint32(0x7C00) if a >= _HALF_OVERFLOW else result
    result = np.uint32(0x7E00) if a > _INFINITY else result
    return np.uint16(result | sign)


# Plain copies for the compiler: the names above resolve to the overloads below.
_extend_portable, _truncate_portable = f16_to_f32, f32_to_f16


def _converts_natively(context: Any) -> bool:
    """Whether the target machine converts float16 by itself (decided per compilation, so a cache may be shared)."""
    triple, _, features = context.codegen().magic_tuple()
    return "+f16c" in features.split(",") or triple.startswith(("aarch64", "arm64"))


@intrinsic
def _extend(_typing: Any, _bits: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _converts_natively(context):
            return builder.fpext(builder.bitcast(args[0], _HALF), _FLOAT)
        return context.compile_internal(builder, _extend_portable, signature, args)

    return types.float32(types.uint16), build


@intrinsic
def _truncate(_typing: Any, _value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _converts_natively(context):
            return builder.bitcast(builder.fptrunc(args[0], _HALF), _I16)
        return context.compile_internal(builder, _truncate_portable, signature, args)

    return types.uint16(types.float32), build


@overload(f16_to_f32, inline="always")
def _f16_to_f32(bits: Any) -> Any:  # numba matches the argument names
    def convert(bits: Any) -> Any:
        return _extend(np.uint16(bits))

    return convert


@overload(f32_to_f16, inline="always")
def _f32_to_f16(value: Any) -> Any:
    def convert(value: Any) -> Any:
        return _truncate(np.float32(value))

    return convert
