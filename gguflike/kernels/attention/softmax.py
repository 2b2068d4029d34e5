"""The softmax of attention, block of keys by block of keys, for a tile of up to sixteen rows of scores.

Scores are in units of log2 e (causal.py scales the queries so), and weights are powers of two of them. After Milakov
and Gimelshein, "Online normalizer calculation for softmax" (2018): each block is normalized by its own maximum, and
merged into what came before by two factors per row. Blocks begin at the same keys however a pass is cut among threads
and batches, and are merged in order, so that results are the same for every cut.

The state of a tile is six vectors in memory, a row per lane.
"""

from __future__ import annotations

from gguflike.kernels.attention.sizes import ATTENTION_KEYS
from gguflike.kernels.vector.emitter import V16F32, V16I32, Emitter
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Value

LOG2_E = 1.4426950408889634
MASKED = -1e30
ROW = 4 * ATTENTION_KEYS  # bytes of a row of scores
VECTOR_BYTES = 4 * LANES
# Byte offsets of the vectors of a state.
TOP, TOTAL = 0, VECTOR_BYTES  # the latest block: maximum and sum of its scores
ALL_TOP, ALL_TOTAL = 2 * VECTOR_BYTES, 3 * VECTOR_BYTES  # all blocks
SHRINK, GROW = 4 * VECTOR_BYTES, 5 * VECTOR_BYTES  # the latest merge: factors of what came before, and of the block
STATE_BYTES = 6 * VECTOR_BYTES
PART_BYTES = 2 * VECTOR_BYTES  # of a state that only describes one block

# Fit of (2**r - 1) / r on [-0.5, 0.5], lowest power first: 2**0 is exactly 1, and the relative error at most 1e-7.
_POWERS = (0.693147004, 0.240222424, 0.0555073358, 0.00967151299, 0.00132647296)
_LOWEST = -126.0  # 2**-126 is the smallest normal float32


def exp2(e: Emitter, x: Value) -> Value:
    """Return 2**x for x up to 127; 0 below -126, so that what is masked weighs nothing at all."""
    lowest = e.const(V16F32, _LOWEST)
    is_normal = e.b.fcmp_ordered(">=", x, lowest)
    whole = e.round(e.b.select(is_normal, x, lowest))
    rest = e.b.fsub(x, whole)
    power = e.const(V16F32, _POWERS[-1])
    for factor in (*reversed(_POWERS[:-1]), 1.0):
        power = e.fma(power, rest, e.const(V16F32, factor))
    exponent = e.b.shl(e.b.fptosi(whole, V16I32), e.const(V16I32, 23))
    return e.b.select(is_normal, e.b.bitcast(e.b.add(e.b.bitcast(power, V16I32), exponent), V16F32), e.zero(V16F32))


@operation(void, int64, int64)
def mask_lanes(e: Emitter, place: Value, keep: Value) -> None:
    """Mask the sixteen scores at ``place`` but the first ``keep``."""
    e.store(e.b.select(e.first_lanes(keep), e.load(V16F32, place), e.const(V16F32, MASKED)), place)


@operation(void, int64, int64)
def hide_lanes(e: Emitter, place: Value, count: Value) -> None:
    """Mask the first ``count`` of the sixteen scores at ``place``."""
    e.store(e.b.select(e.first_lanes(count), e.const(V16F32, MASKED), e.load(V16F32, place)), place)


@operation(void, int64)
def start(e: Emitter, state: Value) -> None:
    """Write the state of a tile before its first block."""
    for field in (TOP, ALL_TOP):
        e.store(e.const(V16F32, MASKED), state, field)
    for field in (TOTAL, ALL_TOTAL):
        e.store(e.zero(V16F32), state, field)


@operation(void, int64, int64, int64, int64)
def softmax(e: Emitter, scores: Value, rows: Value, count: Value, state: Value) -> None:
    """Turn ``count`` scores (a multiple of 16) of each row into weights; TOP and TOTAL of ``state`` describe them."""
    b, zero = e.b, e.int64(0)

    def row(index: Value, nothing: list[Value]) -> list[Value]:
        here = e.pointer(scores, b.mul(index, e.int64(ROW)))
        lane = e.pointer(state, b.shl(index, e.int64(2)))

        def at(key: Value) -> Value:
            return e.pointer(here, b.shl(key, e.int64(2)))

        def raise_top(key: Value, values: list[Value]) -> list[Value]:
            return [e.maximum(values[0], e.load(V16F32, at(key)))]

        def weigh(key: Value, values: list[Value]) -> list[Value]:
            weight = exp2(e, b.fsub(e.load(V16F32, at(key)), top))
            e.store(weight, at(key))
            return [b.fadd(values[0], weight)]

        highest = e.loop(zero, count, LANES, [e.const(V16F32, MASKED)], raise_top)[0]
        top = e.combine_lanes(highest, e.maximum)
        total = e.loop(zero, count, LANES, [e.zero(V16F32)], weigh)[0]
        e.store(e.extract(top, 0), lane, TOP)
        e.store(e.reduce_add(total), lane, TOTAL)
        return nothing

    e.loop(zero, rows, 1, [], row)


@operation(void, int64, int64)
def merge(e: Emitter, state: Value, part: Value) -> None:
    """Merge the block that ``part`` describes (often ``state`` itself) into what ``state`` says of all blocks."""
    before, top = e.load(V16F32, state, ALL_TOP), e.load(V16F32, part, TOP)
    now = e.maximum(before, top)
    shrink, grow = exp2(e, e.b.fsub(before, now)), exp2(e, e.b.fsub(top, now))
    total = e.fma(e.load(V16F32, state, ALL_TOTAL), shrink, e.b.fmul(e.load(V16F32, part, TOTAL), grow))
    for field, value in ((ALL_TOP, now), (ALL_TOTAL, total), (SHRINK, shrink), (GROW, grow)):
        e.store(value, state, field)
