"""Lanes that move: loads from sixteen places or of one value for all, neighbours drawn together, lanes doubled, all
lanes made one.

On the vectors of lanes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gguflike.kernels.engine.jit import intrinsic, types
from gguflike.kernels.vector.lanes import LANES, f32x16, i32x16

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_PLACES = ir.VectorType(_I32, LANES)


class _Addresses(ir.instructions.Instruction):  # type: ignore[misc]  # llvmlite's own takes no vector of indices
    """Addresses of the elements ``index`` (a vector of int64) of an array."""

    def __init__(self, block: Any, data: Any, index: Any, element: Any) -> None:
        self._element = element
        super().__init__(block, ir.VectorType(element.as_pointer(), LANES), "getelementptr", [data, index])

    def descr(self, buf: list[str]) -> None:
        data, index = self.operands
        places = f"{index.type} {index.get_reference()}"
        buf.append(f"getelementptr inbounds {self._element}, {data.type} {data.get_reference()}, {places}\n")


@intrinsic
def gather(typingctx: Any, array: Any, index: Any) -> Any:
    """Elements ``index`` (int32 lanes, not negative) of a one-dimensional float32 or int32 array."""
    result = f32x16 if array.dtype == types.float32 else i32x16
    name = f"llvm.masked.gather.v16{'f32' if result is f32x16 else 'i32'}.v16p0"

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        wide = builder.sext(args[1], ir.VectorType(_I64, LANES))
        places = _Addresses(builder.block, data, wide, result.llvm.element)
        builder._insert(places)
        all_lanes = ir.VectorType(ir.IntType(1), LANES)
        kind = ir.FunctionType(result.llvm, [places.type, _I32, all_lanes, result.llvm])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        mask = ir.Constant(all_lanes, [1] * LANES)
        return builder.call(function, [places, ir.Constant(_I32, 4), mask, ir.Constant(result.llvm, ir.Undefined)])

    return result(array, i32x16), build


@intrinsic
def everywhere(typingctx: Any, array: Any, place: Any) -> Any:
    """Element ``place`` (not negative) of a one-dimensional float32 array in every lane."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        one = builder.load(builder.gep(data, [args[1]]))
        undefined = ir.Constant(f32x16.llvm, ir.Undefined)
        first = builder.insert_element(undefined, one, ir.Constant(_I32, 0))
        return builder.shuffle_vector(first, undefined, ir.Constant(_PLACES, [0] * LANES))

    return f32x16(array, types.intp), build


def _fold(combine: Callable[..., Any]) -> Any:
    """A function of a float vector: its lanes combined into one, by halves (in the same order on every machine)."""

    @intrinsic
    def fold(typingctx: Any, a: Any) -> Any:
        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            [value] = args
            for half in (8, 4, 2, 1):
                places = ir.Constant(_PLACES, [lane ^ half for lane in range(LANES)])
                value = combine(builder, value, builder.shuffle_vector(value, value, places))
            return builder.extract_element(value, ir.Constant(_I32, 0))

        return types.float32(f32x16), build

    return fold


total = _fold(lambda b, x, y: b.fadd(x, y))
highest = _fold(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


@intrinsic
def square_root(typingctx: Any, a: Any) -> Any:
    """Square roots of lanes."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(f32x16.llvm, [f32x16.llvm])
        name = "llvm.sqrt.v16f32"
        return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), args)

    return f32x16(f32x16), build


def _shuffle(places: list[int]) -> Any:
    """A function of two float vectors: the lanes ``places`` of both end to end."""

    @intrinsic
    def shuffle(typingctx: Any, a: Any, b: Any) -> Any:
        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.shuffle_vector(*args, ir.Constant(_PLACES, places))

        return f32x16(f32x16, f32x16), build

    return shuffle


evens = _shuffle([2 * lane for lane in range(LANES)])  # the even lanes of a, then those of b
odds = _shuffle([2 * lane + 1 for lane in range(LANES)])
double_low = _shuffle([lane // 2 for lane in range(LANES)])  # a[0], a[0], a[1], a[1], ... a[7], a[7]; b is ignored
double_high = _shuffle([LANES // 2 + lane // 2 for lane in range(LANES)])  # a[8], a[8], ... a[15], a[15]
