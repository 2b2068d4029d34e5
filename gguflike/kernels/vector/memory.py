"""Loads and stores at addresses: scalars, and vectors of sixteen lanes.

Addresses are int64 and need no alignment: blocks are 2-byte aligned at best. Kernels get addresses rather than arrays,
because loads through them become single vector instructions, and because one machine-code version then serves arrays,
maps of files and the ops of the runner. Functions are named by what lies in memory; a load widens it to what its
description says.
"""

from __future__ import annotations

from gguflike.kernels.vector.emitter import F32, I8, I16, I32, I64, V16F32, V16I8, V16I16, V16I32, Emitter
from gguflike.kernels.vector.lanes import f32x16, float32, i32x16, int64, operation, uint64, void
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Value

# How far ahead of a store its cache line is asked for. Output is several times larger than the blocks and new memory;
# without this, decoding reached 60 to 80% of a plain copy's bandwidth, with it 85 to 105% (512 to 4096 bytes do alike).
_AHEAD = 1024


@operation(uint64, int64)
def load_u8(e: Emitter, place: Value) -> Value:
    """Load one uint8, as uint64."""
    return e.b.zext(e.load(I8, place), I64)


@operation(uint64, int64)
def load_u16(e: Emitter, place: Value) -> Value:
    """Load one uint16, as uint64."""
    return e.b.zext(e.load(I16, place), I64)


@operation(uint64, int64)
def load_u32(e: Emitter, place: Value) -> Value:
    """Load one uint32, as uint64."""
    return e.b.zext(e.load(I32, place), I64)


@operation(uint64, int64)
def load_u64(e: Emitter, place: Value) -> Value:
    """Load one uint64."""
    return e.load(I64, place)


@operation(int64, int64)
def load_i32(e: Emitter, place: Value) -> Value:
    """Load one int32, as int64."""
    return e.b.sext(e.load(I32, place), I64)


@operation(float32, int64)
def load_f32(e: Emitter, place: Value) -> Value:
    """Load one float32."""
    return e.load(F32, place)


@operation(float32, int64)
def load_f16(e: Emitter, place: Value) -> Value:
    """Load one float16, as float32."""
    return e.f16_to_f32(e.load(I16, place))


@operation(f32x16, int64)
def load_f32x16(e: Emitter, place: Value) -> Value:
    """Load sixteen float32."""
    return e.load(V16F32, place)


@operation(f32x16, int64)
def load_f16x16(e: Emitter, place: Value) -> Value:
    """Load sixteen float16, as float32."""
    return e.f16_to_f32(e.load(V16I16, place))


@operation(i32x16, int64)
def load_u8x16(e: Emitter, place: Value) -> Value:
    """Load sixteen uint8, as int32."""
    return e.b.zext(e.load(V16I8, place), V16I32)


@operation(i32x16, int64)
def load_i8x16(e: Emitter, place: Value) -> Value:
    """Load sixteen int8, as int32."""
    return e.b.sext(e.load(V16I8, place), V16I32)


@operation(i32x16, int64)
def load_u16x16(e: Emitter, place: Value) -> Value:
    """Load sixteen uint16, as int32."""
    return e.b.zext(e.load(V16I16, place), V16I32)


@operation(void, int64, int64)
def store_i32(e: Emitter, place: Value, value: Value) -> None:
    """Store the low half of a word."""
    e.store(e.b.trunc(value, I32), place)


@operation(void, int64, float32)
def store_f32(e: Emitter, place: Value, value: Value) -> None:
    """Store one float32."""
    e.store(value, place)


@operation(void, int64, float32)
def store_f16(e: Emitter, place: Value, value: Value) -> None:
    """Store one float32 as float16, rounded to nearest, ties to even."""
    e.store(e.f32_to_f16(value), place)


@operation(void, int64, f32x16)
def store_f32x16(e: Emitter, place: Value, value: Value) -> None:
    """Store sixteen float32."""
    e.store(value, place)


@operation(f32x16, int64, int64)
def load_first(e: Emitter, place: Value, count: Value) -> Value:
    """Load the first ``count`` of sixteen float32; the others are 0, and not read."""
    return e.load_masked(V16F32, place, 0, e.first_lanes(count))


@operation(void, int64, f32x16, int64)
def store_first(e: Emitter, place: Value, value: Value, count: Value) -> None:
    """Store the first ``count`` of sixteen float32."""
    e.store_masked(value, place, 0, e.first_lanes(count))


@operation(void, int64, f32x16)
def store_ahead(e: Emitter, place: Value, value: Value) -> None:
    """Store sixteen float32 of output that is written from end to end, and ask for the cache line of a later store."""
    e.prefetch(e.b.add(place, e.int64(_AHEAD)), for_writing=True)
    e.store(value, place)


def _scatter(e: Emitter, place: Value, stride: Value, vector: Value) -> None:
    """Store the elements of a vector, ``stride`` bytes apart."""
    for lane in range(LANES):
        e.store(e.extract(vector, lane), place)
        place = e.b.add(place, stride)


@operation(void, int64, int64, f32x16)
def scatter_f32(e: Emitter, place: Value, stride: Value, value: Value) -> None:
    """Store sixteen float32, ``stride`` bytes apart."""
    _scatter(e, place, stride, value)


@operation(void, int64, int64, f32x16)
def scatter_f16(e: Emitter, place: Value, stride: Value, value: Value) -> None:
    """Store sixteen float32 as float16, rounded to nearest, ties to even, ``stride`` bytes apart."""
    _scatter(e, place, stride, e.f32_to_f16(value))


@operation(void, int64, int64, i32x16)
def scatter_i8(e: Emitter, place: Value, stride: Value, value: Value) -> None:
    """Store the low bytes of sixteen int32, ``stride`` bytes apart."""
    _scatter(e, place, stride, e.b.trunc(value, V16I8))


@operation(void, int64)
def prefetch(e: Emitter, place: Value) -> None:
    """Ask for the cache line at any address. This never faults."""
    e.prefetch(place)


@operation(int64, f32x16)
def spill(e: Emitter, value: Value) -> Value:
    """Copy sixteen floats to the stack, where a variable can select a lane, and return the address.

    It is the same each time in a kernel.
    """
    with e.b.goto_entry_block():
        place = e.b.alloca(value.type)
    e.b.store(value, place)
    return e.b.ptrtoint(place, I64)
