"""Vectors in numpy arrays: tiles, and what moves between them and other arrays.

A tile is a plain one-dimensional array of float32 or int32 that holds vectors: row ``i`` is its elements ``16*i ..
16*i+15``. Encoders keep a block of weights in each lane of a tile: row j is weight j of sixteen blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from gguflike.kernels.engine.jit import intrinsic, types
from gguflike.kernels.vector.emitter import F32, I32, I64, V16F32, V16I1, V16I32, V32I16, Emitter
from gguflike.kernels.vector.lanes import Array, array, f32x16, i16x32, i32x16, int64, operation, own, vector, void
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Value

_V4F32 = ir.VectorType(F32, 4)


def _load(e: Emitter, kind: ir.Type, source: Array, index: Value, align: int) -> Value:
    """Load a vector that begins with element ``index``, which is aligned to ``align`` bytes."""
    value = e.b.load(e.b.bitcast(e.b.gep(source.data, [index]), kind.as_pointer()))
    value.align = align
    return value


def _store(e: Emitter, value: Value, source: Array, index: Value, align: int) -> None:
    """Store a vector that begins with element ``index``, which is aligned to ``align`` bytes."""
    e.b.store(value, e.b.bitcast(e.b.gep(source.data, [index]), value.type.as_pointer())).align = align


def _row(e: Emitter, row: Value, further: int = 0) -> Value:
    """Return the index of the first element of row ``row + further`` of a tile."""
    return e.b.shl(e.b.add(row, e.int64(further)) if further else row, e.int64(LANES.bit_length() - 1))


@operation(vector, array, int64)
def load(e: Emitter, tile: Array, row: Value) -> Value:
    """Load row ``row`` of a tile of float32 or int32."""
    return _load(e, tile.vector, tile, _row(e, row), 4)


@operation(void, array, int64, vector)
def store(e: Emitter, tile: Array, row: Value, value: Value) -> None:
    """Store row ``row`` of a tile of float32 or int32."""
    _store(e, value, tile, _row(e, row), 4)


@operation(i16x32, array, int64)
def load_i16(e: Emitter, source: Array, index: Value) -> Value:
    """Load elements ``index .. index + 31`` of an int16 array."""
    return _load(e, V32I16, source, index, 2)


@operation(void, array, int64, i16x32)
def store_i16(e: Emitter, source: Array, index: Value, value: Value) -> None:
    """Store elements ``index .. index + 31`` of an int16 array."""
    _store(e, value, source, index, 2)


@operation(f32x16, array, int64)
def load_splat(e: Emitter, source: Array, index: Value) -> Value:
    """Load element ``index`` (not negative) of a float32 array into every lane."""
    return e.splat(V16F32, e.b.load(e.b.gep(source.data, [index])))


class _Addresses(ir.instructions.Instruction):  # type: ignore[misc]  # llvmlite's own takes no vector of indices
    """The addresses of the elements ``index`` (a vector of int64) of an array."""

    def __init__(self, block: ir.Block, data: Value, index: Value, element: ir.Type) -> None:
        self._element = element
        super().__init__(block, ir.VectorType(element.as_pointer(), LANES), "getelementptr", [data, index])

    def descr(self, buf: list[str]) -> None:
        """Append the instruction as text, as llvmlite asks for it."""
        data, index = self.operands
        places = f"{index.type} {index.get_reference()}"
        buf.append(f"getelementptr inbounds {self._element}, {data.type} {data.get_reference()}, {places}\n")


@operation(vector, array, i32x16)
def gather(e: Emitter, source: Array, index: Value) -> Value:
    """Load the elements ``index`` (int32 lanes, not negative) of a float32 or int32 array."""
    kind = source.vector
    places = _Addresses(e.b.block, source.data, e.b.sext(index, ir.VectorType(I64, LANES)), kind.element)
    e.b._insert(places)
    name = f"llvm.masked.gather.v16{'f32' if kind == V16F32 else 'i32'}.v16p0"
    return e.call(name, kind, places, e.const(I32, 4), e.const(V16I1, 1), ir.Constant(kind, ir.Undefined))


def _store_columns(e: Emitter, tile: Array, row: Value, source: Array, places: Sequence[Value]) -> None:
    """Store rows ``row .. row+3`` of a tile: row ``row + k`` is the elements ``place + k`` of the sixteen places."""
    for k, column in enumerate(e.transposed([_load(e, _V4F32, source, place, 4) for place in places])):
        _store(e, column, tile, _row(e, row, k), 4)


@operation(void, array, int64, array, array, int64)
def load_transposed(e: Emitter, tile: Array, row: Value, source: Array, starts: Array, column: Value) -> None:
    """Fill rows ``row .. row+15`` of a tile: row ``row + k`` has ``source[starts[lane] + column + k]`` in each lane."""
    begins = [e.b.load(e.b.gep(starts.data, [e.const(I32, lane)])) for lane in range(LANES)]
    for r in range(0, LANES, 4):
        at = e.b.add(column, e.int64(r))
        _store_columns(e, tile, e.b.add(row, e.int64(r)), source, [e.b.add(begin, at) for begin in begins])


@operation(void, array, int64, array, int64)
def load_octets(e: Emitter, tile: Array, row: Value, source: Array, start: Value) -> None:
    """Fill rows ``row .. row+7`` of a tile: row ``row + k`` has ``source[start + 8 * lane + k]`` in each lane."""
    for r in (0, 4):
        places = [e.b.add(start, e.int64(8 * lane + r)) for lane in range(LANES)]
        _store_columns(e, tile, e.b.add(row, e.int64(r)), source, places)


@operation(void, array, int64, int64, array, int64)
def store_transposed(e: Emitter, out: Array, offset: Value, stride: Value, tile: Array, row: Value) -> None:
    """Store rows ``row .. row+3`` of an int32 tile, lane by lane: 16 bytes at ``offset + lane * stride`` of ``out``."""
    rows = [_load(e, V16I32, tile, _row(e, row, k), 4) for k in range(4)]
    for k, value in enumerate(e.transposed_blocks(rows)):
        for lane in range(0, LANES, 4):
            at = e.b.add(offset, e.b.mul(stride, e.int64(lane + k)))
            _store(e, e.shuffle(value, value, range(lane, lane + 4)), out, at, 1)


@operation(void, array, int64, own)
def store_word(e: Emitter, out: Array, offset: Value, value: Value) -> None:
    """Store an unsigned integer at byte ``offset`` of a uint8 array, unaligned, little-endian."""
    _store(e, value, out, offset, 1)


def _view(e: Any, context: Any, kind: Any, data: Value, count: Value) -> Value:
    """An array (count,) of the numba type ``kind`` over the memory at the pointer ``data``, which is not its own."""
    made = context.make_array(kind)(context, e.b)
    size = ir.Constant(I64, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    made.data = e.b.bitcast(data, made.data.type)
    made.nitems, made.itemsize = count, size
    made.shape, made.strides = (e.b.insert_value(ir.Constant(ir.ArrayType(I64, 1), None), n, 0) for n in (count, size))
    made.meminfo, made.parent = ir.Constant(made.meminfo.type, None), ir.Constant(made.parent.type, None)
    return made._getvalue()


def _viewer(dtype: Any) -> Any:
    """Return an intrinsic (address, count) that views memory as an array of elements of a numba type."""
    kind = types.Array(dtype, 1, "C")

    @intrinsic
    def view(typing_context: Any, address: Any, count: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Value:
            data = builder.inttoptr(args[0], context.get_data_type(dtype).as_pointer())
            return _view(Emitter(builder), context, kind, data, args[1])

        return kind(types.int64, types.int64), build

    return view


floats_at, ints_at, words_at, bytes_at = map(_viewer, (types.float32, types.int32, types.int64, types.uint8))


@intrinsic
def float_rows(typing_context: Any, tile: Any, first: Any, rows: Any) -> Any:
    """View ``rows`` rows of an int32 tile from row ``first`` on as a float32 tile."""
    kind = types.Array(types.float32, 1, "C")

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        e = Emitter(builder)
        source = context.make_array(signature.args[0])(context, builder, args[0])
        return _view(e, context, kind, builder.gep(source.data, [_row(e, args[1])]), _row(e, args[2]))

    return kind(tile, types.int64, types.int64), build
