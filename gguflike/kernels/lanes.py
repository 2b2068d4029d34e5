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

from gguflike.kernels._jit import inner, intrinsic, types

# Untyped on purpose: what numba declares about these does not survive their use as decorators and base classes.
_templates: Any = numba.core.typing.templates
_lowering: Any = numba.core.imputils
_extending: Any = numba.extending
_cgutils: Any = numba.core.cgutils
_safe: Any = numba.core.typeconv.Conversion.safe  # type: ignore[attr-defined]
signature: Any = _templates.signature

LANES = 16

_I32 = ir.IntType(32)
_F32 = ir.FloatType()
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


def _operator(op: Any, result: Any, operands: tuple[Any, ...], build: Callable[..., Any]) -> None:
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
    _operator(_op, f32x16, (f32x16, f32x16), lambda b, x, y, _name=_name: getattr(b, _name)(x, y))
_operator(operator.neg, f32x16, (f32x16,), lambda b, x: b.fneg(x))
_operator(operator.neg, i32x16, (i32x16,), lambda b, x: b.neg(x))
for _op, _name in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.and_, "and_"),
    (operator.or_, "or_"),
    (operator.xor, "xor"),
    (operator.lshift, "shl"),
    (operator.rshift, "ashr"),
):
    _operator(_op, i32x16, (i32x16, i32x16), lambda b, x, y, _name=_name: getattr(b, _name)(x, y))
for _op, _name in ((operator.and_, "and_"), (operator.or_, "or_")):
    _operator(_op, mask, (mask, mask), lambda b, x, y, _name=_name: getattr(b, _name)(x, y))
_operator(operator.invert, mask, (mask,), lambda b, x: b.not_(x))
for _op, _name in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _operator(_op, mask, (f32x16, f32x16), _float_compare(_name))
    _operator(_op, mask, (i32x16, i32x16), _int_compare(_name))


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
# whether a mask is set in any lane
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
        start = builder.shl(args[1], ir.Constant(ir.IntType(64), 4))
        value = builder.load(_pointer(context, builder, sig.args[0], args[0], start, sig.return_type.llvm))
        value.align = 4
        return value

    return signature(result, tile, types.intp), build


@intrinsic
def store(typingctx: Any, tile: Any, i: Any, value: Any) -> Any:
    """Write vector ``i`` of a tile of float32 or int32."""
    kind = f32x16 if tile.dtype == types.float32 else i32x16

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = builder.shl(args[1], ir.Constant(ir.IntType(64), 4))
        target = _pointer(context, builder, sig.args[0], args[0], start, sig.args[2].llvm)
        builder.store(args[2], target).align = 4
        return context.get_dummy_value()

    return signature(types.void, tile, types.intp, kind), build


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The 16x16 matrix of 16 vectors, transposed in four rounds of pairwise shuffles."""
    for step in (1, 2, 4, 8):
        low = [i if not i & step else LANES + i - step for i in range(LANES)]
        high = [i + step if not i & step else LANES + i for i in range(LANES)]
        swapped = list(rows)
        for r in range(LANES):
            if not r & step:
                a, b = rows[r], rows[r + step]
                swapped[r] = builder.shuffle_vector(a, b, ir.Constant(_VI, low))
                swapped[r + step] = builder.shuffle_vector(a, b, ir.Constant(_VI, high))
        rows = swapped
    return rows


@intrinsic
def load_transposed(typingctx: Any, tile: Any, row: Any, source: Any, starts: Any, column: Any) -> Any:
    """tile rows ``row .. row+15`` = the 16 values of ``source`` from ``starts[lane] + column`` on, lane by lane."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tile_, row_, source_, starts_, column_ = args
        begins = context.make_array(sig.args[3])(context, builder, starts_).data
        rows = []
        for lane in range(LANES):
            begin = builder.load(builder.gep(begins, [ir.Constant(_I32, lane)]))
            place = _pointer(context, builder, sig.args[2], source_, builder.add(begin, column_), _VF)
            value = builder.load(place)
            value.align = 4
            rows.append(value)
        for r, value in enumerate(_transposed(builder, rows)):
            index = builder.shl(builder.add(row_, ir.Constant(ir.IntType(64), r)), ir.Constant(ir.IntType(64), 4))
            builder.store(value, _pointer(context, builder, sig.args[0], tile_, index, _VF)).align = 4
        return context.get_dummy_value()

    return signature(types.void, tile, types.intp, source, starts, types.intp), build


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
