"""Thirty-two int16 lanes: twice the lanes of lanes.py in as many bytes.

``i16x32`` is one AVX-512 register, two of AVX2 or four of Neon. Tiles are one-dimensional int16 arrays; places in them
are numbers of elements. Where two int16 lanes belong to one int32 lane (``as_shorts``), ``pair_sums`` adds up products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gguflike.kernels.engine.jit import PrimitiveModel, intrinsic, register_model, types
from gguflike.kernels.vector import dot
from gguflike.kernels.vector.lanes import LANES, define_integers, f32x16, i32x16
from gguflike.kernels.vector.simd import Emitter

SHORTS = 2 * LANES
_I16, _I32 = ir.IntType(16), ir.IntType(32)
_VS, _WIDE, _PLACES = (ir.VectorType(kind, SHORTS) for kind in (_I16, _I32, _I32))
_MAGIC = 0x4B400000  # the bits of 1.5 * 2**23: adding this float leaves the nearest integer in the low bits


class _Shorts(types.Type):  # type: ignore[misc]  # numba ships no types
    """int16 lanes."""


i16x32 = _Shorts("i16x32")


@register_model(_Shorts)
class _ShortsModel(PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: _Shorts) -> None:
        super().__init__(manager, fe_type, _VS)


def _function(result: Any, operands: tuple[Any, ...], build: Callable[..., Any]) -> Any:
    """An intrinsic with operands of fixed types: ``build(builder, *operands)``."""
    typed = result(*operands), lambda _context, builder, _signature, args: build(builder, *args)

    def one(typingctx: Any, a: Any) -> Any:
        return typed

    def two(typingctx: Any, a: Any, b: Any) -> Any:
        return typed

    def three(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return typed

    def four(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return typed

    return intrinsic((one, two, three, four)[len(operands) - 1])


def _call(builder: Any, name: str, *args: Any) -> Any:
    vector = args[0].type
    name = f"{name}.v{vector.count}i{vector.element.width}"
    kind = ir.FunctionType(vector, [vector] * len(args))
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), args)


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_VS, ir.Undefined), builder.trunc(value, _I16), ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(_VS, ir.Undefined), ir.Constant(_PLACES, [0] * SHORTS))


def _narrow(builder: Any, low: Any, high: Any) -> Any:
    """Both vectors of floats plus 1.5 * 2**23, end to end."""
    both = builder.shuffle_vector(low, high, ir.Constant(_PLACES, list(range(SHORTS))))
    wide = builder.sub(builder.bitcast(both, _WIDE), ir.Constant(_WIDE, [_MAGIC] * SHORTS))
    wide = _call(builder, "llvm.smax", wide, ir.Constant(_WIDE, [-(1 << 15)] * SHORTS))
    wide = _call(builder, "llvm.smin", wide, ir.Constant(_WIDE, [(1 << 15) - 1] * SHORTS))
    return builder.trunc(wide, _VS)


def _half(first: int) -> Callable[..., Any]:
    places = ir.Constant(ir.VectorType(_I32, LANES), list(range(first, first + LANES)))

    def build(builder: Any, value: Any) -> Any:
        half = builder.shuffle_vector(value, ir.Constant(_VS, ir.Undefined), places)
        return builder.sext(half, i32x16.llvm)

    return build


def _pair_sums(builder: Any, total: Any, x: Any, y: Any) -> Any:
    return dot.WordSums(Emitter(builder)).add([total], x, y)[0]


def _join(builder: Any, low: Any, high: Any) -> Any:
    return builder.trunc(builder.shuffle_vector(low, high, ir.Constant(_PLACES, list(range(SHORTS)))), _VS)


define_integers(i16x32)

_S, _SS, _SSSS = (i16x32,), (i16x32,) * 2, (i16x32,) * 4
shorts = _function(i16x32, (types.intp,), _splat)  # the low 16 bits of an integer in every lane
plus = _function(i16x32, _SS, lambda b, x, y: _call(b, "llvm.sadd.sat", x, y))  # saturates
larger = _function(i16x32, _SS, lambda b, x, y: _call(b, "llvm.smax", x, y))
smaller = _function(i16x32, _SS, lambda b, x, y: _call(b, "llvm.smin", x, y))
# x * y / 2**15, rounded to nearest, halves up; not for -2**15 times itself
rounded_product = _function(i16x32, _SS, lambda b, x, y: dot.rounded_product(Emitter(b), x, y))
# pair_sums(total, x, y): int32 lanes, to each the products of its two int16 lanes added
pair_sums = _function(i32x16, (i32x16, i16x32, i16x32), _pair_sums)
# where_more(a, b, x, y): x in the lanes where a > b, else y; where_same: where a == b
where_more = _function(i16x32, _SSSS, lambda b, p, q, x, y: b.select(b.icmp_signed(">", p, q), x, y))
where_same = _function(i16x32, _SSSS, lambda b, p, q, x, y: b.select(b.icmp_signed("==", p, q), x, y))
narrow = _function(i16x32, (f32x16, f32x16), _narrow)  # of floats that 1.5 * 2**23 was added to; saturates
as_shorts = _function(i16x32, (i32x16,), lambda b, x: b.bitcast(x, _VS))
absolute = _function(i16x32, _S, lambda b, x: b.select(b.icmp_signed("<", x, ir.Constant(_VS, None)), b.neg(x), x))
join = _function(i16x32, (i32x16, i32x16), _join)  # the low 16 bits of int32 lanes, end to end
low_lanes = _function(i32x16, _S, _half(0))
high_lanes = _function(i32x16, _S, _half(LANES))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, place: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), _VS.as_pointer())


@intrinsic
def load_shorts(typingctx: Any, tile: Any, place: Any) -> Any:
    """Elements ``place .. place + 31`` of a tile."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(_pointer(context, builder, sig.args[0], *args))
        value.align = 2
        return value

    return i16x32(tile, types.intp), build


@intrinsic
def store_shorts(typingctx: Any, tile: Any, place: Any, value: Any) -> Any:
    """Write elements ``place .. place + 31`` of a tile."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, sig.args[0], *args[:2])).align = 2
        return context.get_dummy_value()

    return types.void(tile, types.intp, i16x32), build
