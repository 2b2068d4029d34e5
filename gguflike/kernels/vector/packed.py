"""Packed bytes to lanes and back: how decoding kernels read blocks and write floats.

Memory is given as addresses (int64). Blocks are 2-byte aligned at best, so every access is unaligned. Addresses rather
than arrays, because loads through them become single vector instructions, and because one machine-code version then
serves arrays, maps of files and the ops of the runner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gguflike.kernels.engine.jit import intrinsic, ir, jit, types
from gguflike.kernels.vector.half import f16_to_f32
from gguflike.kernels.vector.lanes import LANES, f32x16, i32x16, mask

# How far ahead of a store its cache line is asked for. Output is several times larger than the blocks and new memory;
# without this, decoding reached 60 to 80% of a plain copy's bandwidth, with it 85 to 105% (512 to 4096 bytes do alike).
_AHEAD = 1024

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTE = _I8.as_pointer()
_I32X16 = ir.VectorType(_I32, LANES)
_I8X16 = ir.VectorType(_I8, LANES)


def _load(builder: Any, address: Any, kind: ir.Type) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def _function(result: Any, operands: tuple[Any, ...], emit: Callable[..., Any]) -> Any:
    """An intrinsic of fixed types, one or two; ``emit(builder, *values)`` returns the LLVM value."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # numba's signature
        return emit(builder, *args)

    def unary(typing_context: Any, a: Any) -> Any:
        return result(*operands), lower

    def binary(typing_context: Any, a: Any, b: Any) -> Any:
        return result(*operands), lower

    return intrinsic(unary if len(operands) == 1 else binary)


u8 = _function(types.uint64, (types.int64,), lambda b, at: b.zext(_load(b, at, _I8), _I64))
u16 = _function(types.uint64, (types.int64,), lambda b, at: b.zext(_load(b, at, _I16), _I64))
u32 = _function(types.uint64, (types.int64,), lambda b, at: b.zext(_load(b, at, _I32), _I64))
u64 = _function(types.uint64, (types.int64,), lambda b, at: _load(b, at, _I64))
f32 = _function(types.float32, (types.int64,), lambda b, at: _load(b, at, ir.FloatType()))


def _bytes_of(builder: Any, low: Any, high: Any) -> Any:
    """Two 64-bit words as 16 bytes, in memory order."""
    words = ir.Constant(ir.VectorType(_I64, 2), ir.Undefined)
    words = builder.insert_element(words, low, ir.Constant(_I32, 0))
    words = builder.insert_element(words, high, ir.Constant(_I32, 1))
    return builder.bitcast(words, _I8X16)


def _repeated(builder: Any, word: Any) -> Any:
    """The low 32 bits of a word in every lane."""
    one = builder.insert_element(ir.Constant(_I32X16, ir.Undefined), builder.trunc(word, _I32), ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(_I32X16, ir.Undefined), ir.Constant(_I32X16, [0] * LANES))


def _four_bytes(builder: Any, word: Any) -> Any:
    """The 4 bytes of a 32-bit word, four times over."""
    four = builder.bitcast(builder.trunc(word, _I32), ir.VectorType(_I8, 4))
    order = ir.Constant(_I32X16, [lane % 4 for lane in range(LANES)])
    return builder.shuffle_vector(four, ir.Constant(ir.VectorType(_I8, 4), ir.Undefined), order)


def _fields(width: int) -> Callable[[Any, Any], Any]:
    """Lane k = bits ``width * k`` and up of the low 32 bits of a word; what lies above the field is left in place."""

    def emit(builder: Any, word: Any) -> Any:
        shifts = ir.Constant(_I32X16, [width * lane for lane in range(LANES)])
        return builder.lshr(_repeated(builder, word), shifts)

    return emit


def _lookup(builder: Any, table: Any, codes: Any) -> Any:
    """16-entry table of int8. LLVM has no shuffle by variable; it makes one (pshufb, tbl) of this pattern."""
    entries = _load(builder, table, _I8X16)
    indices = builder.trunc(codes, _I8X16)
    result = ir.Constant(_I8X16, ir.Undefined)
    for lane in range(LANES):
        place = ir.Constant(_I32, lane)
        entry = builder.extract_element(entries, builder.extract_element(indices, place))
        result = builder.insert_element(result, entry, place)
    return builder.sext(result, _I32X16)


def _in_memory(builder: Any, value: Any) -> Any:
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return builder.ptrtoint(place, _I64)


def _store(builder: Any, address: Any, value: Any) -> Any:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 4
    return ir.Constant(_BYTE, None)


def _store_ahead(builder: Any, address: Any, value: Any) -> Any:
    ahead = builder.inttoptr(builder.add(address, ir.Constant(address.type, _AHEAD)), _BYTE)
    kind = ir.FunctionType(ir.VoidType(), [_BYTE, _I32, _I32, _I32])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE], kind)
    for_writing, all_levels, data = ir.Constant(_I32, 1), ir.Constant(_I32, 3), ir.Constant(_I32, 1)
    builder.call(prefetch, [ahead, for_writing, all_levels, data])
    return _store(builder, address, value)


_word, _address = types.uint64, types.int64

# 16 consecutive bytes, or 16-bit words, as int32 lanes.
bytes16 = _function(i32x16, (_address,), lambda b, at: b.zext(_load(b, at, _I8X16), _I32X16))
signed16 = _function(i32x16, (_address,), lambda b, at: b.sext(_load(b, at, _I8X16), _I32X16))
words16 = _function(i32x16, (_address,), lambda b, at: b.zext(_load(b, at, ir.VectorType(_I16, LANES)), _I32X16))
# The bytes of two words, or of one 32-bit word four times.
bytes_of = _function(i32x16, (_word, _word), lambda b, low, high: b.zext(_bytes_of(b, low, high), _I32X16))
signed_of = _function(i32x16, (_word, _word), lambda b, low, high: b.sext(_bytes_of(b, low, high), _I32X16))
four_bytes = _function(i32x16, (_word,), lambda b, word: b.zext(_four_bytes(b, word), _I32X16))
# The low 16 bits as a mask; 16 fields of 2 bits.
bit_mask = _function(
    mask, (_word,), lambda b, word: b.bitcast(b.trunc(word, _I16), ir.VectorType(ir.IntType(1), LANES))
)
pairs = _function(i32x16, (_word,), _fields(2))
# Entries of a table of 16 int8 at an address.
lookup = _function(i32x16, (_address, i32x16), _lookup)
# Address of a copy of sixteen floats, the same each time in a kernel: a lane that a variable names is read from memory.
in_memory = _function(_address, (f32x16,), _in_memory)
store16 = _function(types.void, (_address, f32x16), _store_ahead)
store1 = _function(types.void, (_address, types.float32), _store)


@jit
def half(at: int) -> Any:
    """The float16 at an address, as float32."""
    return f16_to_f32(np.uint16(u16(at)))
