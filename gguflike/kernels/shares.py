"""The ops of sampling from a whole vocabulary: what logits weigh, and about where a share of all weights ends.

Ops, in the sense of native.py, which are called without a team; args.py has their argument words.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from gguflike.kernels.args import DIVIDE, LIST_FLAGGED, MASK, SHARE_BUCKETS, SHARE_COLUMNS, SHARE_SUMS, WEIGH
from gguflike.kernels.engine.args import WORD_BYTES
from gguflike.kernels.engine.atomics import load_args, store_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.vector.emitter import I64, V16F32, V16I16, Emitter
from gguflike.kernels.vector.lanes import (
    EXP_LOWEST,
    exp,
    float32,
    i32x16,
    int64,
    magnitude,
    maximum,
    minimum,
    operation,
    splat,
    to_int,
    void,
    where,
)
from gguflike.kernels.vector.memory import (
    load_f32,
    load_f32x16,
    load_first,
    load_u8,
    load_u8x16,
    load_u16,
    store_f32,
    store_f32x16,
    store_first,
)
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address, F32x16, Value
from gguflike.kernels.vector.unpack import f32_of

LAST = np.float32(SHARE_BUCKETS - 1)
STRETCH = 32  # vectors between the two halves of divide
FORBIDDEN = np.float32(-np.inf)
FAR = np.float32(-1e30)  # below the greatest logit: it weighs nothing


@inner(inline="always")
def _weight(x: F32x16) -> F32x16:
    """Return e**x, 0 where that is less than float32 holds with all its digits, and NaN for NaN."""
    return where(x < EXP_LOWEST, splat(np.float32(0)), exp(x) + (x - x))


@inner(inline="always")
def _product(x: F32x16, weight: F32x16) -> F32x16:
    """Return x * weight, where 0 times infinity is 0."""
    return maximum(x, FAR) * weight


@op("shares:weigh")
def weigh(args: Address, state: Address, start: int, stop: int) -> None:
    """Write e**(logit - most) of each logit, and add number i to sum i modulo SHARE_COLUMNS, one row of sums after the
    other; and the products of both to other sums. It has one item; words: ``WEIGH``."""
    a = load_args(WEIGH, args)
    most = splat(f32_of(a.most))
    whole = a.n // LANES * LANES
    for row in range(0, whole, SHARE_COLUMNS):
        for i in range(row, min(row + SHARE_COLUMNS, whole), LANES):
            sums = a.sums + 4 * (i - row)
            products = sums + 4 * SHARE_COLUMNS
            x = load_f32x16(a.logits + 4 * i) - most
            weight = _weight(x)
            store_f32x16(a.weights + 4 * i, weight)
            store_f32x16(sums, load_f32x16(sums) + weight)
            store_f32x16(products, load_f32x16(products) + _product(x, weight))
    if whole < a.n:
        count, sums = a.n - whole, a.sums + 4 * (whole % SHARE_COLUMNS)
        products = sums + 4 * SHARE_COLUMNS
        x = load_first(a.logits + 4 * whole, count) - most
        weight = _weight(x)
        store_first(a.weights + 4 * whole, weight, count)
        store_first(sums, load_first(sums, count) + weight, count)
        store_first(products, load_first(products, count) + _product(x, weight), count)


@operation(void, int64, i32x16)
def _store_i16x16(e: Emitter, place: Value, value: Value) -> None:
    """Store the low halves of sixteen int32."""
    e.store(e.b.trunc(value, V16I16), place)


@operation(void, int64, float32)
def _add(e: Emitter, place: Value, value: Value) -> None:
    """Add a float32 to a float64 in memory."""
    double = ir.DoubleType()
    e.store(e.b.fadd(e.load(double, place), e.b.fpext(value, double)), place)


@operation(int64)
def _room(e: Emitter) -> Value:
    """Return the address of float32 (STRETCH, LANES) on the stack, the same each time in a kernel."""
    with e.b.goto_entry_block():
        place = e.b.alloca(ir.ArrayType(V16F32, STRETCH))
    return e.b.ptrtoint(place, I64)


@inner(inline="always")
def _add_up(buckets: Address, weights: Address, sums: Address, count: int) -> None:
    """Add the first ``count`` of sixteen weights to the sums of their buckets."""
    for lane in range(count):
        # Neighbours are often of one bucket: with several sums in turn, none waits for the one before.
        place = SHARE_BUCKETS * (lane % SHARE_SUMS) + np.int64(load_u16(buckets + 2 * lane))
        _add(sums + 8 * place, load_f32(weights + 4 * lane))


@op("shares:divide")
def divide(args: Address, state: Address, start: int, stop: int) -> None:
    """Write the number of each logit's bucket, |logit - centre| * scale as a whole number, the last for what is further
    away and for what is no number; and add its weight, e**(logit - most), to a sum of that bucket. It has one item;
    words: ``DIVIDE``."""
    a, room = load_args(DIVIDE, args), _room()
    most, centre, scale = splat(f32_of(a.most)), splat(f32_of(a.centre)), splat(f32_of(a.scale))
    # One after the other: a vector takes so long to its weights that few are under way at the same time.
    for first in range(0, a.n, LANES * STRETCH):
        stop = min(first + LANES * STRETCH, a.n)
        for i in range(first, stop, LANES):
            place = a.logits + 4 * i
            logits = load_f32x16(place) if i + LANES <= a.n else load_first(place, a.n - i)
            _store_i16x16(a.buckets + 2 * i, to_int(minimum(magnitude(logits - centre) * scale, LAST)))
            store_f32x16(room + 4 * (i - first), _weight(logits - most))
        for i in range(first, stop // LANES * LANES, LANES):
            _add_up(a.buckets + 2 * i, room + 4 * (i - first), a.sums, LANES)
        whole = max(first, stop // LANES * LANES)
        _add_up(a.buckets + 2 * whole, room + 4 * (whole - first), a.sums, stop - whole)


@op("shares:mask")
def mask(args: Address, state: Address, start: int, stop: int) -> None:
    """Write each logit, minus infinity where its flag is 0. It has one item; words: ``MASK``."""
    a = load_args(MASK, args)
    whole = a.n // LANES * LANES
    for i in range(0, whole, LANES):
        flags = load_u8x16(a.flags + i)
        logits = load_f32x16(a.logits + 4 * i)
        store_f32x16(a.out + 4 * i, where(flags > np.int32(0), logits, splat(FORBIDDEN)))
    for i in range(whole, a.n):
        store_f32(a.out + 4 * i, load_f32(a.logits + 4 * i) if load_u8(a.flags + i) > 0 else FORBIDDEN)


@op("shares:list_flagged")
def list_flagged(args: Address, state: Address, start: int, stop: int) -> None:
    """Write the numbers of the flags that are 1, in order. It has one item; words: ``LIST_FLAGGED``."""
    a = load_args(LIST_FLAGGED, args)
    place = a.places
    for i in range(a.n):  # without a branch, which no processor could foresee
        store_word(place, i)
        place += WORD_BYTES * np.int64(load_u8(a.flags + i))
