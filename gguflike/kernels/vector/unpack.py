"""Packed fields of words to lanes: how kernels read the codes of blocks. Names say what the words hold."""

from __future__ import annotations

from llvmlite import ir

from gguflike.kernels.vector.emitter import F32, I8, I16, I32, I64, V16I1, V16I8, V16I32, Emitter
from gguflike.kernels.vector.lanes import float32, i32x16, int64, mask, operation, uint64
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Value

_V2I64, _V4I8 = ir.VectorType(I64, 2), ir.VectorType(I8, 4)


def _bytes_of(e: Emitter, low: Value, high: Value) -> Value:
    """Take two 64-bit words as 16 bytes, the lowest first."""
    words = e.b.insert_element(ir.Constant(_V2I64, ir.Undefined), low, e.const(I32, 0))
    return e.b.bitcast(e.b.insert_element(words, high, e.const(I32, 1)), V16I8)


@operation(float32, int64)
def f32_of(e: Emitter, word: Value) -> Value:
    """Take the low 32 bits of a word as a float32."""
    return e.b.bitcast(e.b.trunc(word, I32), F32)


@operation(i32x16, uint64, uint64)
def u8x16_of(e: Emitter, low: Value, high: Value) -> Value:
    """Take the bytes of two words, the lowest first, as int32."""
    return e.b.zext(_bytes_of(e, low, high), V16I32)


@operation(i32x16, uint64, uint64)
def i8x16_of(e: Emitter, low: Value, high: Value) -> Value:
    """Take the signed bytes of two words, the lowest first, as int32."""
    return e.b.sext(_bytes_of(e, low, high), V16I32)


@operation(i32x16, uint64)
def u8x4_of(e: Emitter, word: Value) -> Value:
    """Take the bytes of the low 32 bits of a word, four times over, as int32."""
    four = e.b.bitcast(e.b.trunc(word, I32), _V4I8)
    return e.b.zext(e.shuffle(four, four, [lane % 4 for lane in range(LANES)]), V16I32)


@operation(i32x16, uint64)
def u2x16_of(e: Emitter, word: Value) -> Value:
    """Shift the low 32 bits of a word right by 2 k bits in lane k: field k becomes lowest, later ones stay above."""
    shifts = e.const(V16I32, range(0, 2 * LANES, 2))
    return e.b.lshr(e.splat(V16I32, e.b.trunc(word, I32)), shifts)


@operation(mask, uint64)
def mask_of(e: Emitter, word: Value) -> Value:
    """Convert the low 16 bits of a word to a mask, lane 0 lowest."""
    return e.b.bitcast(e.b.trunc(word, I16), V16I1)


@operation(i32x16, int64, i32x16)
def lookup(e: Emitter, table: Value, codes: Value) -> Value:
    """Look up codes 0..15 in a table of 16 int8 at an address; the entries become int32."""
    entries, indices = e.load(V16I8, table), e.b.trunc(codes, V16I8)
    result = ir.Constant(V16I8, ir.Undefined)
    for lane in range(LANES):  # LLVM has no shuffle by variable; it makes one (pshufb, tbl) of this pattern
        entry = e.b.extract_element(entries, e.extract(indices, lane))
        result = e.b.insert_element(result, entry, e.const(I32, lane))
    return e.b.sext(result, V16I32)
