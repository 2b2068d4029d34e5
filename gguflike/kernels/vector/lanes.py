"""Vectors as numba values: their types, operators, and functions of whole vectors.

Encoders run the same search on every block, so the natural vector holds the same weight of sixteen blocks. ``f32x16``,
``i32x16`` and ``mask`` (their comparison) are numba types with the usual operators, as is ``i16x32`` (int16.py); Python
and numpy scalars become vectors with the scalar in every lane. LLVM turns one value into one AVX-512 register, two of
AVX2 or four of Neon, so one source serves all, and results do not depend on the width of the machine's vectors.

``operation`` makes a function for kernels of one that emits LLVM code.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba.core.imputils
import numba.core.typeconv
import numba.core.typing.templates
import numpy as np
from llvmlite import ir

from gguflike.kernels.engine.jit import PrimitiveModel, inner, intrinsic, register_model, types
from gguflike.kernels.vector.emitter import I1, I64, V16F32, V16I1, V16I32, V32I16, Emitter
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import F32x16, Value

# Untyped on purpose: what numba declares about these does not survive their use as decorators and base classes.
_templates: Any = numba.core.typing.templates
_lowering: Any = numba.core.imputils
_safe: Any = numba.core.typeconv.Conversion.safe  # type: ignore[attr-defined]


class Vector(types.Type):  # type: ignore[misc]  # numba ships no types
    """The numba type of an LLVM vector. Scalars of the numba kinds ``accepts`` convert to it, into every lane."""

    def __init__(self, name: str, llvm: ir.Type, scalar: types.Type | None, accepts: tuple[type, ...]) -> None:
        self.llvm, self.scalar, self.accepts = llvm, scalar, accepts
        super().__init__(name=name)

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:  # noqa: ARG002  # numba's signature
        """Tell numba whether a scalar will do where this type is asked for."""
        return _safe if isinstance(other, self.accepts) else None


f32x16 = Vector("f32x16", V16F32, types.float32, (types.Float, types.Integer))
i32x16 = Vector("i32x16", V16I32, types.int32, (types.Integer,))
i16x32 = Vector("i16x32", V32I16, types.int16, (types.Integer,))
mask = Vector("mask", V16I1, None, ())
boolean, float32, void = types.boolean, types.float32, types.void
int64, uint16, uint64 = types.int64, types.uint16, types.uint64


@register_model(Vector)
class _VectorModel(PrimitiveModel):  # type: ignore[misc]
    """Tells numba that a vector is its LLVM value."""

    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


@_lowering.lower_cast(types.Number, Vector)
def _splat_number(context: Any, builder: Any, fromty: Any, toty: Any, value: Value) -> Value:
    """Convert a scalar to a vector where numba finds one for the other."""
    return Emitter(builder).splat(toty.llvm, context.cast(builder, value, fromty, toty.scalar))


@_lowering.lower_cast(types.IntegerLiteral, Vector)
def _splat_literal(context: Any, builder: Any, fromty: Any, toty: Any, value: Value) -> Value:
    """Convert an integer that stands in the source, whose type numba holds apart."""
    return _splat_number(context, builder, fromty.literal_type, toty, value)


# In the head of an operation, for types that depend on the arguments: any array; an argument's own type, whatever it
# is; and f32x16 or i32x16, by the elements of the first array or by the vectors among the arguments.
array, own, vector = object(), object(), object()


class Array(NamedTuple):
    """A one-dimensional array as an emitting function gets it."""

    data: Value  # pointer to the first element
    vector: ir.Type  # sixteen of its elements


def _vector_of(kinds: Sequence[Any]) -> Any:
    """Return what ``vector`` stands for with arguments of these types."""
    for kind in kinds:
        if isinstance(kind, types.Array):
            if kind.dtype not in (float32, types.int32):
                raise TypeError(f"no vectors of {kind.dtype}; expected an array of float32 or int32")
            return f32x16 if kind.dtype == float32 else i32x16
    return i32x16 if i32x16 in kinds else f32x16


def operation(result: Any, *operands: Any) -> Callable[[Callable[..., Value]], Any]:
    """Decorate ``emit(emitter, *values)``, which emits LLVM code, to make it a function for kernels.

    ``result`` and ``operands`` are its numba types, or ``array``, ``own`` and ``vector``. Scalars are accepted for
    vectors. ``emit`` gets an ``Array`` for an array. It returns the LLVM value, or None where the result is ``void``.
    """

    def decorate(emit: Callable[..., Value]) -> Any:
        def lower(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            arguments = list(values)
            for i, kind in enumerate(signature.args):
                if isinstance(kind, types.Array):
                    data = context.make_array(kind)(context, builder, values[i]).data
                    arguments[i] = Array(data, ir.VectorType(context.get_data_type(kind.dtype), LANES))
            value = emit(Emitter(builder), *arguments)
            return context.get_dummy_value() if value is None else value

        def typer(typingctx: Any, *kinds: Any) -> Any:
            def actual(declared: Any, kind: Any = None) -> Any:
                if declared is vector:
                    return _vector_of(kinds)
                return kind if declared in (array, own) else declared

            return actual(result)(*map(actual, operands, kinds)), lower

        # Numba takes the name from these, and the number of operands from the signature.
        typer.__name__, typer.__doc__ = emit.__name__, emit.__doc__
        names = ["typingctx", *(f"operand{i}" for i in range(len(operands)))]
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        typer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return intrinsic(typer)

    return decorate


def _define(operator_: Any, result: Any, operands: tuple[Any, ...], build: Callable[..., Value]) -> None:
    """Give an operator of Python a meaning on vectors: its types, and ``build(builder, *operands)`` to emit it."""

    @_templates.infer_global(operator_)
    class _Template(_templates.ConcreteTemplate):  # type: ignore[misc]
        cases = (_templates.signature(result, *operands),)

    @_lowering.lower_builtin(operator_, *operands)
    def _lower(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        return build(builder, *args)


# Operators and the methods of llvmlite's builder that emit them. Integers wrap around.
_FLOAT = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"}
_BITWISE = {operator.and_: "and_", operator.or_: "or_"}
_INTEGER = _BITWISE | {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.xor: "xor",
    operator.lshift: "shl",
    operator.rshift: "ashr",
}
_COMPARISONS = {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}
for _kind, _methods in ((f32x16, _FLOAT), (i32x16, _INTEGER), (i16x32, _INTEGER), (mask, _BITWISE)):
    for _operator, _method in _methods.items():
        _define(_operator, _kind, (_kind, _kind), lambda b, x, y, _method=_method: getattr(b, _method)(x, y))
_define(operator.neg, f32x16, (f32x16,), lambda b, x: b.fneg(x))
_define(operator.neg, i32x16, (i32x16,), lambda b, x: b.neg(x))
_define(operator.invert, mask, (mask,), lambda b, x: b.not_(x))
for _operator, _relation in _COMPARISONS.items():
    _define(_operator, mask, (f32x16, f32x16), lambda b, x, y, _relation=_relation: b.fcmp_ordered(_relation, x, y))
    _define(_operator, mask, (i32x16, i32x16), lambda b, x, y, _relation=_relation: b.icmp_signed(_relation, x, y))


@operation(f32x16, f32x16)
def splat(e: Emitter, x: Value) -> Value:
    """Put a scalar into every lane, as float32."""
    return x


@operation(i32x16, i32x16)
def splat_i32(e: Emitter, x: Value) -> Value:
    """Put an integer into every lane, as int32."""
    return x


@operation(vector, mask, vector, vector)
def where(e: Emitter, condition: Value, a: Value, b: Value) -> Value:
    """Take ``a`` in the lanes where ``condition`` holds, else ``b``: float32 lanes or int32 lanes."""
    return e.b.select(condition, a, b)


@operation(f32x16, f32x16, f32x16, f32x16)
def fma(e: Emitter, a: Value, b: Value, c: Value) -> Value:
    """Compute ``a * b + c``, rounded once on every machine: encoders give the same bytes everywhere."""
    return e.fma(a, b, c)


@operation(f32x16, f32x16, f32x16)
def minimum(e: Emitter, a: Value, b: Value) -> Value:
    """Take the smaller of two floats in each lane, ``b`` where one is NaN."""
    return e.minimum(a, b)


@operation(f32x16, f32x16, f32x16)
def maximum(e: Emitter, a: Value, b: Value) -> Value:
    """Take the larger of two floats in each lane, ``b`` where one is NaN."""
    return e.maximum(a, b)


@operation(f32x16, f32x16)
def magnitude(e: Emitter, x: Value) -> Value:
    """Take the absolute value of each lane."""
    return e.call("llvm.fabs.v16f32", V16F32, x)


@operation(f32x16, f32x16)
def sqrt(e: Emitter, x: Value) -> Value:
    """Take the square root of each lane."""
    return e.call("llvm.sqrt.v16f32", V16F32, x)


@operation(f32x16, f32x16)
def truncate(e: Emitter, x: Value) -> Value:
    """Round each lane to an integer toward zero, as float32."""
    return e.call("llvm.trunc.v16f32", V16F32, x)


@operation(f32x16, f32x16)
def round_even(e: Emitter, x: Value) -> Value:
    """Round each lane to the nearest integer, ties to even, as float32."""
    return e.round(x)


@operation(i32x16, f32x16)
def to_int(e: Emitter, x: Value) -> Value:
    """Convert each lane to int32, rounded toward zero."""
    return e.b.fptosi(x, V16I32)


@operation(f32x16, i32x16)
def to_float(e: Emitter, x: Value) -> Value:
    """Convert each int32 lane to the nearest float32."""
    return e.to_float(x)


@operation(i32x16, f32x16)
def bits(e: Emitter, x: Value) -> Value:
    """Take the bits of float32 lanes as int32 lanes."""
    return e.b.bitcast(x, V16I32)


@operation(f32x16, i32x16)
def from_bits(e: Emitter, x: Value) -> Value:
    """Take int32 lanes as the bits of float32 lanes."""
    return e.b.bitcast(x, V16F32)


@operation(mask, int64)
def first_lanes(e: Emitter, count: Value) -> Value:
    """Set the first ``count`` lanes of a mask."""
    return e.first_lanes(count)


@operation(int64, mask)
def mask_bits(e: Emitter, x: Value) -> Value:
    """Convert a mask to the low 16 bits of an integer, lane 0 lowest."""
    return e.b.zext(e.b.bitcast(x, ir.IntType(LANES)), I64)


@operation(boolean, mask)
def any_lane(e: Emitter, x: Value) -> Value:
    """Tell whether any lane of a mask is set."""
    whole = ir.IntType(LANES)
    return e.b.icmp_unsigned("!=", e.b.bitcast(x, whole), e.const(whole, 0))


@operation(int64, int64)
def trailing_zeros(e: Emitter, x: Value) -> Value:
    """Return the number of the lowest bit that is set; it is undefined for 0."""
    return e.b.cttz(x, e.const(I1, 1))


@operation(float32, f32x16)
def reduce_add(e: Emitter, x: Value) -> Value:
    """Add up the lanes, in the same order and so with the same result on every machine."""
    return e.reduce_add(x)


@operation(float32, f32x16)
def reduce_max(e: Emitter, x: Value) -> Value:
    """Find the largest lane."""
    return e.reduce_max(x)


@operation(f32x16, f32x16, f32x16)
def evens(e: Emitter, a: Value, b: Value) -> Value:
    """Take the even lanes of ``a``, then those of ``b``."""
    return e.shuffle(a, b, range(0, 2 * LANES, 2))


@operation(f32x16, f32x16, f32x16)
def odds(e: Emitter, a: Value, b: Value) -> Value:
    """Take the odd lanes of ``a``, then those of ``b``."""
    return e.shuffle(a, b, range(1, 2 * LANES, 2))


@operation(f32x16, f32x16)
def repeat_low(e: Emitter, x: Value) -> Value:
    """Take each of the lower eight lanes twice: x[0], x[0], x[1], x[1], ... x[7], x[7]."""
    return e.shuffle(x, x, [lane // 2 for lane in range(LANES)])


@operation(f32x16, f32x16)
def repeat_high(e: Emitter, x: Value) -> Value:
    """Take each of the upper eight lanes twice: x[8], x[8], ... x[15], x[15]."""
    return e.shuffle(x, x, [LANES // 2 + lane // 2 for lane in range(LANES)])


@operation(f32x16, f32x16)
def swap_pairs(e: Emitter, x: Value) -> Value:
    """Exchange lanes 0 and 1, 2 and 3, ..."""
    return e.shuffle(x, x, [lane ^ 1 for lane in range(LANES)])


@operation(float32, uint16)
def f16_to_f32(e: Emitter, bits: Value) -> Value:
    """Convert the 16 bits of a float16 to its value as float32."""
    return e.f16_to_f32(bits)


@operation(uint16, float32)
def f32_to_f16(e: Emitter, value: Value) -> Value:
    """Convert a float32 to the 16 bits of the nearest float16, ties to even; overflow gives infinity."""
    return e.f32_to_f16(value)


LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP_LOWEST, EXP_HIGHEST = np.float32(-87.3), np.float32(88.3)


@inner(inline="always")
def exp(x: F32x16) -> F32x16:
    """Compute e**x within 2 units in the last place; x is limited to -87.3 .. 88.3, so no result is infinite.

    Range reduction by ln 2 in two parts and the polynomial are those of Cephes' expf.
    """
    x = minimum(maximum(x, EXP_LOWEST), EXP_HIGHEST)
    n = round_even(x * LOG2_E)
    r = fma(n, -LN2_HIGH, x)
    r = fma(n, -LN2_LOW, r)
    p = fma(r, np.float32(1.9875691500e-4), np.float32(1.3981999507e-3))
    p = fma(p, r, np.float32(8.3334519073e-3))
    p = fma(p, r, np.float32(4.1665795894e-2))
    p = fma(p, r, np.float32(1.6666665459e-1))
    p = fma(p, r, np.float32(5.0000001201e-1))
    p = fma(p, r * r, r + np.float32(1.0))
    return p * from_bits((to_int(n) + 127) << 23)
