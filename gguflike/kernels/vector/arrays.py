"""Vectors in numpy arrays: tiles, and what moves between them and other arrays.

A tile is a plain one-dimensional array of float32 or int32 that holds vectors: row ``i`` is its elements ``16*i ..
16*i+15``. Encoders keep a block of weights in each lane of a tile: row j is weight j of sixteen blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from gguflike.kernels.engine.jit import inner, intrinsic, types
from gguflike.kernels.vector.emitter import F32, I32, I64, V16F32, V16I1, V16I32, V32I16, Emitter
from gguflike.kernels.vector.lanes import f32x16, i16x32, i32x16
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Value

_BLOCK = ir.VectorType(F32, 4)  # what a transposition moves at once: 128 bits


def _kind(array: Any) -> Any:
    """The numba type of the vectors of an array of float32 or int32."""
    return f32x16 if array.dtype == types.float32 else i32x16


def _place(context: Any, builder: Any, array_type: Any, array: Value, index: Value) -> Value:
    """Pointer to element ``index`` of a one-dimensional array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(builder: Any, kind: ir.Type, place: Value, align: int) -> Value:
    """Load a vector."""
    value = builder.load(builder.bitcast(place, kind.as_pointer()))
    value.align = align
    return value


def _store(builder: Any, value: Value, place: Value, align: int) -> None:
    """Store a vector."""
    builder.store(value, builder.bitcast(place, value.type.as_pointer())).align = align


def _row(builder: Any, row: Value, further: int = 0) -> Value:
    """The first element of row ``row + further`` of a tile."""
    return builder.shl(builder.add(row, ir.Constant(I64, further)) if further else row, ir.Constant(I64, 4))


@intrinsic
def load(typingctx: Any, tile: Any, row: Any) -> Any:
    """Row ``row`` of a tile of float32 or int32."""
    result = _kind(tile)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        return _load(builder, result.llvm, _place(context, builder, tile, args[0], _row(builder, args[1])), 4)

    return result(tile, types.intp), build


@intrinsic
def store(typingctx: Any, tile: Any, row: Any, value: Any) -> Any:
    """Write row ``row`` of a tile of float32 or int32."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        _store(builder, args[2], _place(context, builder, tile, args[0], _row(builder, args[1])), 4)
        return context.get_dummy_value()

    return types.void(tile, types.intp, _kind(tile)), build


@intrinsic
def load_i16(typingctx: Any, array: Any, place: Any) -> Any:
    """Elements ``place .. place + 31`` of an int16 array."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        return _load(builder, V32I16, _place(context, builder, array, *args), 2)

    return i16x32(array, types.intp), build


@intrinsic
def store_i16(typingctx: Any, array: Any, place: Any, value: Any) -> Any:
    """Write elements ``place .. place + 31`` of an int16 array."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        _store(builder, args[2], _place(context, builder, array, *args[:2]), 2)
        return context.get_dummy_value()

    return types.void(array, types.intp, i16x32), build


@intrinsic
def load_splat(typingctx: Any, array: Any, place: Any) -> Any:
    """Element ``place`` (not negative) of a float32 array in every lane."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        return Emitter(builder).splat(V16F32, builder.load(_place(context, builder, array, *args)))

    return f32x16(array, types.intp), build


class _Addresses(ir.instructions.Instruction):  # type: ignore[misc]  # llvmlite's own takes no vector of indices
    """Addresses of the elements ``index`` (a vector of int64) of an array."""

    def __init__(self, block: Any, data: Value, index: Value, element: ir.Type) -> None:
        self._element = element
        super().__init__(block, ir.VectorType(element.as_pointer(), LANES), "getelementptr", [data, index])

    def descr(self, buf: list[str]) -> None:
        """Append the instruction as text, as llvmlite asks for it."""
        data, index = self.operands
        places = f"{index.type} {index.get_reference()}"
        buf.append(f"getelementptr inbounds {self._element}, {data.type} {data.get_reference()}, {places}\n")


@intrinsic
def gather(typingctx: Any, array: Any, index: Any) -> Any:
    """Elements ``index`` (int32 lanes, not negative) of a one-dimensional float32 or int32 array."""
    result = _kind(array)
    name = f"llvm.masked.gather.v16{'f32' if result is f32x16 else 'i32'}.v16p0"

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        data = context.make_array(array)(context, builder, args[0]).data
        places = _Addresses(builder.block, data, builder.sext(args[1], ir.VectorType(I64, LANES)), result.llvm.element)
        builder._insert(places)
        e = Emitter(builder)
        nothing = ir.Constant(result.llvm, ir.Undefined)
        return e.call(name, result.llvm, places, e.const(I32, 4), e.const(V16I1, 1), nothing)

    return result(array, i32x16), build


def _put_columns(
    context: Any, builder: Any, sig: Any, args: Sequence[Value], first: int, places: Sequence[Value]
) -> None:
    """Rows ``row + first .. + 3`` of a tile: element k of the four at each of sixteen ``places`` of ``source``.

    ``args`` begin with tile, row, source.
    """
    tile, row, source = args[:3]
    blocks = [_load(builder, _BLOCK, _place(context, builder, sig.args[2], source, place), 4) for place in places]
    for k, value in enumerate(Emitter(builder).transposed(blocks)):
        _store(builder, value, _place(context, builder, sig.args[0], tile, _row(builder, row, first + k)), 4)


@intrinsic
def load_transposed(typingctx: Any, tile: Any, row: Any, source: Any, starts: Any, column: Any) -> Any:
    """Rows ``row .. row+15`` of a tile: the 16 values of ``source`` from ``starts[lane] + column`` on, lane by lane."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        starts_, column_ = args[3:]
        begins = context.make_array(sig.args[3])(context, builder, starts_).data
        places = [builder.load(builder.gep(begins, [ir.Constant(I32, lane)])) for lane in range(LANES)]
        for r in range(0, LANES, 4):
            at = builder.add(column_, ir.Constant(I64, r))
            _put_columns(context, builder, sig, args, r, [builder.add(place, at) for place in places])
        return context.get_dummy_value()

    return types.void(tile, types.intp, source, starts, types.intp), build


@intrinsic
def load_octets(typingctx: Any, tile: Any, row: Any, source: Any, start: Any) -> Any:
    """Rows ``row .. row+7`` of a tile: the values 0 .. 7 of sixteen times eight values of ``source`` from ``start``."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        for r in (0, 4):
            places = [builder.add(args[3], ir.Constant(I64, 8 * lane + r)) for lane in range(LANES)]
            _put_columns(context, builder, sig, args, r, places)
        return context.get_dummy_value()

    return types.void(tile, types.intp, source, types.intp), build


@intrinsic
def store_transposed(typingctx: Any, out: Any, offset: Any, stride: Any, tile: Any, row: Any) -> Any:
    """Rows ``row .. row+3`` of an int32 tile, lane by lane, into 16 bytes of a uint8 array from ``offset + lane *
    stride`` on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        out_, offset_, stride_, tile_, row_ = args
        e = Emitter(builder)
        rows = [
            _load(builder, V16I32, _place(context, builder, tile, tile_, _row(builder, row_, k)), 4) for k in range(4)
        ]
        for k, value in enumerate(e.transposed_blocks(rows)):
            for g in range(0, LANES, 4):
                at = builder.add(offset_, builder.mul(stride_, ir.Constant(I64, g + k)))
                _store(builder, e.shuffle(value, value, range(g, g + 4)), _place(context, builder, out, out_, at), 1)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, tile, types.intp), build


@intrinsic
def store_word(typingctx: Any, out: Any, offset: Any, value: Any) -> Any:
    """Write an unsigned integer at byte ``offset`` of a uint8 array, unaligned, little-endian."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        _store(builder, args[2], _place(context, builder, out, *args[:2]), 1)
        return context.get_dummy_value()

    return types.void(out, types.intp, value), build


@inner
def make_tile(rows: int) -> npt.NDArray[np.float32]:
    """Uninitialized float32 tile of ``rows`` vectors, aligned to a vector."""
    raw = np.empty(rows * LANES + LANES, np.float32)
    skip = (-(raw.ctypes.data >> 2)) & (LANES - 1)
    return raw[skip : skip + rows * LANES]


@inner
def make_int_tile(rows: int) -> npt.NDArray[np.int32]:
    """Uninitialized int32 tile of ``rows`` vectors, aligned to a vector."""
    raw = np.empty(rows * LANES + LANES, np.int32)
    skip = (-(raw.ctypes.data >> 2)) & (LANES - 1)
    return raw[skip : skip + rows * LANES]
