"""Sixteen blocks at a time: numba values that are LLVM vectors, one block per lane.

Encoders run the same search on every block, so the natural vector holds the same weight of sixteen blocks. ``f32x16``,
``i32x16`` and ``mask`` (their comparison) are numba types with the usual operators; Python and numpy scalars broadcast.
LLVM turns one value into one AVX-512 register, two of AVX2 or four of Neon, so the same source is right everywhere and
its results do not depend on the machine's vector width.

Arrays of vectors are plain one-dimensional arrays ("tiles"); ``load(tile, i)`` reads elements ``16*i .. 16*i+15``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba.core.cgutils
import numba.core.imputils
import numba.core.typeconv
import numba.core.typing.templates
import numba.extending
import numpy as np
from llvmlite import ir

from gguflike.kernels.engine.jit import inner, intrinsic, types
from gguflike.kernels.vector.simd import Emitter
from gguflike.kernels.vector.sizes import LANES as LANES

# Untyped on purpose: what numba declares about these does not survive their use as decorators and base classes.
_templates: Any = numba.core.typing.templates
_lowering: Any = numba.core.imputils
_extending: Any = numba.extending
_cgutils: Any = numba.core.cgutils
_safe: Any = numba.core.typeconv.Conversion.safe  # type: ignore[attr-defined]
signature: Any = _templates.signature


_I32, _I64 = ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()
_QUARTER = ir.VectorType(_F32, 4)
_VF, _VI, _VM = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES), ir.VectorType(ir.IntType(1), LANES)


class _Lanes(types.Type):  # type: ignore[misc]  # numba ships no types
    """A vector of ``LANES`` values; scalars of ``accepts`` convert to it by broadcasting."""

    def __init__(self, name: str, llvm: ir.Type, scalar: types.Type | None, accepts: tuple[type, ...]) -> None:
        self.llvm, self.scalar, self.accepts = llvm, scalar, accepts
        super().__init__(name=name)

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:  # noqa: ARG002  # numba's signature
        return _safe if isinstance(other, self.accepts) else None


class _FloatLanes(_Lanes):
    """float32 lanes."""


class _IntLanes(_Lanes):
    """int32 lanes."""


class _MaskLanes(_Lanes):
    """One bit per lane."""


f32x16 = _FloatLanes("f32x16", _VF, types.float32, (types.Float, types.Integer))
i32x16 = _IntLanes("i32x16", _VI, types.int32, (types.Integer,))
mask = _MaskLanes("mask16", _VM, None, ())


@_extending.register_model(_FloatLanes)
@_extending.register_model(_IntLanes)
@_extending.register_model(_MaskLanes)
class _LanesModel(_extending.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: _Lanes) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


def _splat(builder: Any, value: Any, vector: ir.Type) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(_VI, [0] * LANES))


@_lowering.lower_cast(types.Number, _Lanes)
def _broadcast(context: Any, builder: Any, fromty: Any, toty: Any, value: Any) -> Any:
    return _splat(builder, context.cast(builder, value, fromty, toty.scalar), toty.llvm)


@_lowering.lower_cast(types.IntegerLiteral, _Lanes)
def _broadcast_literal(context: Any, builder: Any, fromty: Any, toty: Any, value: Any) -> Any:
    return _broadcast(context, builder, fromty.literal_type, toty, value)


def define(op: Any, result: Any, operands: tuple[Any, ...], build: Callable[..., Any]) -> None:
    """Give ``op`` a meaning on lanes: its type and its LLVM instruction."""

    @_templates.infer_global(op)
    class _Template(_templates.ConcreteTemplate):  # type: ignore[misc]
        cases = (signature(result, *operands),)

    @_lowering.lower_builtin(op, *operands)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:  # numba's signature
        return build(builder, *args)


def _float_compare(relation: str) -> Callable[..., Any]:
    return lambda b, x, y: b.fcmp_ordered(relation, x, y)


def _int_compare(relation: str) -> Callable[..., Any]:
    return lambda b, x, y: b.icmp_signed(relation, x, y)


for _op, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    define(_op, f32x16, (f32x16, f32x16), lambda b, x, y, _name=_name: getattr(b, _name)(x, y))
define(operator.neg, f32x16, (f32x16,), lambda b, x: b.fneg(x))
define(operator.neg, i32x16, (i32x16,), lambda b, x: b.neg(x))


def define_integers(kind: Any) -> None:
    """Give lanes of signed integers the usual operators. They wrap around."""
    for op, name in (
        (operator.add, "add"),
        (operator.sub, "sub"),
        (operator.mul, "mul"),
        (operator.and_, "and_"),
        (operator.or_, "or_"),
        (operator.xor, "xor"),
        (operator.lshift, "shl"),
        (operator.rshift, "ashr"),
    ):
        define(op, kind, (kind, kind), lambda b, x, y, name=name: getattr(b, name)(x, y))


define_integers(i32x16)
for _op, _name in ((operator.and_, "and_"), (operator.or_, "or_")):
    define(_op, mask, (mask, mask), lambda b, x, y, _name=_name: getattr(b, _name)(x, y))
define(operator.invert, mask, (mask,), lambda b, x: b.not_(x))
for _op, _name in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    define(_op, mask, (f32x16, f32x16), _float_compare(_name))
    define(_op, mask, (i32x16, i32x16), _int_compare(_name))


def _llvm(builder: Any, name: str, vector: ir.Type, *args: Any) -> Any:
    kind = ir.FunctionType(vector, [a.type for a in args])
    suffix = "v16f32" if vector is _VF else "v16i32"
    return builder.call(_cgutils.get_or_insert_function(builder.module, kind, f"{name}.{suffix}"), args)


def _code(build: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's code generator that calls ``build(builder, *operands)``."""
    return lambda _context, builder, _signature, args: build(builder, *args)


def _function(result: Any, operands: tuple[Any, ...], build: Callable[..., Any]) -> Any:
    """A function on lanes for kernels; scalars that are given for lanes are broadcast."""
    typed = signature(result, *operands), _code(build)

    def one(typingctx: Any, a: Any) -> Any:
        return typed

    def two(typingctx: Any, a: Any, b: Any) -> Any:
        return typed

    def three(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return typed

    return intrinsic((one, two, three)[len(operands) - 1])


@intrinsic
def where(typingctx: Any, condition: Any, a: Any, b: Any) -> Any:
    """``a`` in the lanes where ``condition`` holds, else ``b``; float lanes or int lanes."""
    result = i32x16 if i32x16 in (a, b) else f32x16
    return signature(result, mask, result, result), _code(lambda b_, *args: b_.select(*args))


def _any(builder: Any, value: Any) -> Any:
    whole = ir.IntType(LANES)
    return builder.icmp_unsigned("!=", builder.bitcast(value, whole), ir.Constant(whole, 0))


_F, _FF = (f32x16,), (f32x16, f32x16)
# a * b + c, in one rounding where the machine has it
fma = _function(f32x16, (f32x16, f32x16, f32x16), lambda b, *args: _llvm(b, "llvm.fmuladd", _VF, *args))
# one compare and select, which is one instruction on x86
minimum = _function(f32x16, _FF, lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
maximum = _function(f32x16, _FF, lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))
magnitude = _function(f32x16, _F, lambda b, x: _llvm(b, "llvm.fabs", _VF, x))
# a scalar in every lane
lanes = _function(f32x16, _F, lambda b, x: x)  # noqa: ARG005
int_lanes = _function(i32x16, (i32x16,), lambda b, x: x)  # noqa: ARG005
# conversions of values (to_int, truncate: toward zero), and of the bits as they are
to_int = _function(i32x16, _F, lambda b, x: b.fptosi(x, _VI))
truncate = _function(f32x16, _F, lambda b, x: _llvm(b, "llvm.trunc", _VF, x))
to_float = _function(f32x16, (i32x16,), lambda b, x: b.sitofp(x, _VF))
bits = _function(i32x16, _F, lambda b, x: b.bitcast(x, _VI))
from_bits = _function(f32x16, (i32x16,), lambda b, x: b.bitcast(x, _VF))
# the lanes of a mask as the low bits of an integer, the number of the lowest bit set; whether any lane is set
mask_bits = _function(types.int64, (mask,), lambda b, x: b.zext(b.bitcast(x, ir.IntType(LANES)), _I64))
trailing_zeros = _function(types.int64, (types.int64,), lambda b, x: b.cttz(x, ir.Constant(ir.IntType(1), 1)))
any_lane = _function(types.boolean, (mask,), _any)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: ir.Type) -> Any:
    """Pointer to element ``index`` of a one-dimensional array, as a vector."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typingctx: Any, tile: Any, i: Any) -> Any:
    """Vector ``i`` of a tile of float32 or int32."""
    result = f32x16 if tile.dtype == types.float32 else i32x16

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = builder.shl(args[1], ir.Constant(_I64, 4))
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], start, sig.return_type.llvm))
        value.align = 4
        return value

    return signature(result, tile, types.intp), build


@intrinsic
def store(typingctx: Any, tile: Any, i: Any, value: Any) -> Any:
    """Write vector ``i`` of a tile of float32 or int32."""
    kind = f32x16 if tile.dtype == types.float32 else i32x16

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = builder.shl(args[1], ir.Constant(_I64, 4))
        target = _pointer(context, builder, sig.args[0], args[0], start, sig.args[2].llvm)
        builder.store(args[2], target).align = 4
        return context.get_dummy_value()

    return signature(types.void, tile, types.intp, kind), build


# Lanes 4g .. 4g + 3 of two vectors: one of each in turn, the first two or the last two; then both of each.
_QUARTERS = range(0, LANES, 4)
_FIRST_TWO = [place for g in _QUARTERS for place in (g, LANES + g, g + 1, LANES + g + 1)]
_LAST_TWO = [place for g in _QUARTERS for place in (g + 2, LANES + g + 2, g + 3, LANES + g + 3)]
_FIRST_PAIRS = [place for g in _QUARTERS for place in (g, g + 1, LANES + g, LANES + g + 1)]
_LAST_PAIRS = [place for g in _QUARTERS for place in (g + 2, g + 3, LANES + g + 2, LANES + g + 3)]


def _shuffled(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Four vectors: vector k holds, in its lanes 4g .. 4g + 3, lane 4g + k of each of ``rows``."""
    a, b, c, d = rows
    low, high = _shuffled(builder, a, b, _FIRST_TWO), _shuffled(builder, a, b, _LAST_TWO)
    low2, high2 = _shuffled(builder, c, d, _FIRST_TWO), _shuffled(builder, c, d, _LAST_TWO)
    return [
        _shuffled(builder, *pair, places)
        for pair in ((low, low2), (high, high2))
        for places in (_FIRST_PAIRS, _LAST_PAIRS)
    ]


def _put_columns(context: Any, builder: Any, sig: Any, args: Any, first: int, places: list[Any]) -> None:
    """tile rows ``row + first .. + 3``: element k of the four at each of sixteen ``places`` of ``source``.

    ``args`` begin with tile, row, source.
    """
    tile, row, source = args[:3]
    parts = []
    for place in places:
        parts.append(builder.load(_pointer(context, builder, sig.args[2], source, place, _QUARTER)))
        parts[-1].align = 4
    # Lanes k, k + 4, ... end to end: so no shuffle crosses 128 bits.
    rows = []
    for k in range(4):
        low, high = (_shuffled(builder, parts[k + g], parts[k + g + 4], list(range(8))) for g in (0, 8))
        rows.append(_shuffled(builder, low, high, list(range(LANES))))
    for k, value in enumerate(_transposed(builder, rows)):
        index = builder.shl(builder.add(row, ir.Constant(_I64, first + k)), ir.Constant(_I64, 4))
        builder.store(value, _pointer(context, builder, sig.args[0], tile, index, _VF)).align = 4


@intrinsic
def load_transposed(typingctx: Any, tile: Any, row: Any, source: Any, starts: Any, column: Any) -> Any:
    """tile rows ``row .. row+15`` = the 16 values of ``source`` from ``starts[lane] + column`` on, lane by lane."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        starts_, column_ = args[3:]
        begins = context.make_array(sig.args[3])(context, builder, starts_).data
        places = [builder.load(builder.gep(begins, [ir.Constant(_I32, lane)])) for lane in range(LANES)]
        for r in range(0, LANES, 4):
            at = builder.add(column_, ir.Constant(_I64, r))
            _put_columns(context, builder, sig, args, r, [builder.add(place, at) for place in places])
        return context.get_dummy_value()

    return signature(types.void, tile, types.intp, source, starts, types.intp), build


@intrinsic
def load_octets(typingctx: Any, tile: Any, row: Any, source: Any, start: Any) -> Any:
    """tile rows ``row .. row+7`` = values 0 .. 7 of sixteen times eight values of ``source`` from ``start`` on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for r in (0, 4):
            places = [builder.add(args[3], ir.Constant(_I64, 8 * lane + r)) for lane in range(LANES)]
            _put_columns(context, builder, sig, args, r, places)
        return context.get_dummy_value()

    return signature(types.void, tile, types.intp, source, types.intp), build


@intrinsic
def prefetch(typingctx: Any, source: Any, place: Any) -> Any:
    """Ask for the cache line of element ``place``, which need not be in the array."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        Emitter(builder).prefetch(builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return signature(types.void, source, types.intp), build


@intrinsic
def store_transposed(typingctx: Any, out: Any, offset: Any, stride: Any, tile: Any, row: Any) -> Any:
    """Rows ``row .. row+3`` of an int32 tile, lane by lane, into 16 bytes of a uint8 array from ``offset + lane *
    stride`` on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        out_, offset_, stride_, tile_, row_ = args
        rows = []
        for k in range(4):
            start = builder.shl(builder.add(row_, ir.Constant(_I64, k)), ir.Constant(_I64, 4))
            rows.append(builder.load(_pointer(context, builder, sig.args[3], tile_, start, _VI)))
            rows[-1].align = 4
        for k, value in enumerate(_transposed(builder, rows)):
            for g in _QUARTERS:
                at = builder.add(offset_, builder.mul(stride_, ir.Constant(_I64, g + k)))
                words = _shuffled(builder, value, value, list(range(g, g + 4)))
                builder.store(words, _pointer(context, builder, sig.args[0], out_, at, words.type)).align = 1
        return context.get_dummy_value()

    return signature(types.void, out, types.intp, types.intp, tile, types.intp), build


@intrinsic
def store_word(typingctx: Any, out: Any, offset: Any, value: Any) -> Any:
    """Write an unsigned integer at byte ``offset`` of a uint8 array, unaligned, little-endian."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        target = builder.bitcast(builder.gep(data, [args[1]]), args[2].type.as_pointer())
        builder.store(args[2], target).align = 1
        return context.get_dummy_value()

    return signature(types.void, out, types.intp, value), build


@inner
def make_tile(rows: int) -> Any:
    """Uninitialized float32 tile of ``rows`` vectors, aligned to a vector."""
    raw = np.empty(rows * LANES + LANES, np.float32)
    skip = (-(raw.ctypes.data >> 2)) & (LANES - 1)
    return raw[skip : skip + rows * LANES]


@inner
def make_int_tile(rows: int) -> Any:
    """Uninitialized int32 tile of ``rows`` vectors, aligned to a vector."""
    raw = np.empty(rows * LANES + LANES, np.int32)
    skip = (-(raw.ctypes.data >> 2)) & (LANES - 1)
    return raw[skip : skip + rows * LANES]
