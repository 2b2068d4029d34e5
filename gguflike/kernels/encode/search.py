"""What every encoder shares: loading sixteen blocks, rounding to codes and to float16 scales, and packing.

An encoder fills a "symbol" tile, one row per number a block stores (codes, integer scales, float16 bits), one lane per
block. A ``Layout`` then says which bits of which symbol go where: packing is data, not code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels._jit import inner, overload, types
from gguflike.kernels.lanes import (
    LANES,
    any_lane,
    bits,
    fma,
    from_bits,
    int_lanes,
    lanes,
    load,
    load_transposed,
    magnitude,
    make_tile,
    maximum,
    minimum,
    store,
    store_word,
    to_int,
    where,
)

MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to the nearest integer, ties to even
LARGEST = np.float32(2.0**40)  # beyond what any float16-scaled block can hold; keeps sums of squares finite
F16_MAX = np.float32(65504.0)
F16_MIN_NORMAL = np.float32(2.0**-14)
F16_MIN = np.float32(2.0**-24)
SMALLEST = np.float32(2.0**-100)  # an importance below it counts as none
NEGLIGIBLE = np.float32(1e-9)
HALF = np.float32(0.5)
SIGN = -(1 << 31)  # the sign bit of int32 lanes


@inner(forceinline=True)
def nearest(x: Any, inverse: Any, lo: Any, hi: Any, book: Any) -> Any:
    """The level nearest to ``x * inverse``: an integer in [lo, hi], or an entry of ``book``.

    ``book`` is None or float32: the levels in ascending order, then the midpoints between them.
    """
    if book is None:
        return minimum(maximum(fma(x, inverse, MAGIC), lo + MAGIC), hi + MAGIC) - MAGIC
    t = x * inverse
    levels = (len(book) + 1) // 2
    level = lanes(book[0])
    for k in range(1, levels):
        level = where(t > book[levels + k - 1], lanes(book[k]), level)
    return level


@inner(forceinline=True)
def code_of(level: Any, offset: Any, book: Any) -> Any:
    """The stored code (int32 lanes) of a level that ``nearest`` returned: level + offset, or the place in ``book``."""
    if book is None:
        return to_int(level + offset)
    code = int_lanes(0)
    for k in range(1, (len(book) + 1) // 2):
        code = where(level >= book[k], code + 1, code)
    return code


@inner(forceinline=True)
def weight(tile: Any, j: Any) -> Any:
    """Importance of weight ``j`` in each lane; 1 where there is no importance."""
    if tile is None:
        return lanes(1.0)
    return load(tile, j)


@inner(forceinline=True)
def weighted(tile: Any, j: Any, value: Any) -> Any:
    """``value`` times the importance of weight ``j``."""
    if tile is None:
        return value
    return value * load(tile, j)


def weight_tile(weights: Any, rows: int) -> Any:  # resolved inside kernels only
    """A tile for the importance, or None without importance."""
    raise NotImplementedError


@overload(weight_tile)
def _weight_tile(weights: Any, rows: int) -> Any:
    def absent(weights: Any, rows: int) -> Any:
        return None

    def present(weights: Any, rows: int) -> Any:
        return make_tile(rows)

    return absent if weights == types.none else present


@inner
def load_blocks(group: int, blocks: int, size: int, x: Any, tile: Any, starts: Any) -> None:
    """Blocks ``16*group ..`` of flat ``x`` into the lanes of ``tile``; the last one is repeated in unused lanes."""
    for lane in range(LANES):
        starts[lane] = min(group * LANES + lane, blocks - 1) * size
    for j in range(0, size, LANES):
        load_transposed(tile, j, x, starts, j)


@inner
def load_weights(group: int, blocks: int, size: int, weights: Any, tile: Any, starts: Any) -> None:
    """The importance of the columns that ``load_blocks`` loaded, as a share of the largest in the block.

    None is quite zero, so that every part of a block has a best code; where all are, all count the same.
    """
    if weights is not None:
        for lane in range(LANES):
            starts[lane] = min(group * LANES + lane, blocks - 1) * size % len(weights)
        for j in range(0, size, LANES):
            load_transposed(tile, j, weights, starts, j)
        largest = lanes(0.0)
        for j in range(size):
            largest = maximum(load(tile, j), largest)
        counts = largest >= SMALLEST
        scale = where(counts, 1.0 / where(counts, largest, lanes(1.0)), lanes(0.0))
        for j in range(size):
            store(tile, j, where(counts, maximum(load(tile, j) * scale, lanes(NEGLIGIBLE)), lanes(1.0)))


@inner
def clamp_tile(tile: Any, size: int, largest: Any) -> None:
    """Bring values beyond ``LARGEST`` to it: they take the outermost code either way."""
    if any_lane(largest > LARGEST):
        for j in range(size):
            store(tile, j, minimum(maximum(load(tile, j), -LARGEST), LARGEST))


@inner(forceinline=True)
def power_of_two(exponent: Any) -> Any:
    """2**exponent for int lanes in -126 .. 127."""
    return from_bits((exponent + 127) << 23)


@inner(forceinline=True)
def times_power(value: Any, exponent: Any) -> Any:
    """value * 2**exponent for int lanes in -252 .. 254, in two exact steps (but for underflow)."""
    half = exponent >> 1
    return value * power_of_two(half) * power_of_two(exponent - half)


@inner
def normalize(tile: Any, size: int, largest: Any) -> Any:
    """Scale each lane by the power of two that brings ``largest`` into [1, 2): squares neither vanish nor overflow.

    Returns the exponent. For the types whose scales reach as far as float32 itself.
    """
    exponent = 127 - ((bits(largest) >> 23) & 255)
    for j in range(size):
        store(tile, j, times_power(load(tile, j), exponent))
    return exponent


@inner(forceinline=True)
def reciprocal(d: Any) -> Any:
    """1 / d, and 0 for d == 0. ``d`` is 0 or at least 2**-100 in magnitude."""
    return where(d == 0.0, lanes(0.0), 1.0 / where(d == 0.0, lanes(1.0), d))


@inner(forceinline=True)
def to_f16_grid(value: Any) -> Any:
    """Nearest value that float16 holds, ties to even; saturates instead of overflowing."""
    raw = bits(value)
    normal = from_bits((raw + ((raw >> 13) & 1) + 0xFFF) & ~0x1FFF)
    size = magnitude(value)
    small = (size + HALF) - HALF  # the last place of 0.5 is float16's smallest step
    small = from_bits(bits(small) | (raw & SIGN))
    rounded = where(size < F16_MIN_NORMAL, small, normal)
    return minimum(maximum(rounded, -F16_MAX), F16_MAX)


@inner(forceinline=True)
def stored_scale(d: Any) -> Any:
    """The float16 value that stands for scale ``d``: never infinite, and zero only where ``d`` is.

    A scale that would round to zero takes the smallest step instead: its codes are rounded anew, so it cannot do harm.
    """
    rounded = to_f16_grid(d)
    lost = (rounded == 0.0) & (d != 0.0)
    return where(lost, where(d < 0.0, lanes(-F16_MIN), lanes(F16_MIN)), rounded)


@inner(forceinline=True)
def f16_bits(value: Any) -> Any:
    """The 16 bits of a value on the float16 grid."""
    raw = bits(value)
    size = magnitude(value)
    normal = ((raw & 0x7FFFFFFF) - (112 << 23)) >> 13
    small = to_int(size * np.float32(2.0**24))
    return where(size < F16_MIN_NORMAL, small, normal) | ((raw >> 16) & 0x8000)


@inner(forceinline=True)
def round_to_int(value: Any) -> Any:
    """Nearest integer as float32; |value| < 2**22."""
    return (value + MAGIC) - MAGIC


@inner
def pack(group: int, blocks: int, symbols: Any, places: Any, out: Any, tile: Any) -> None:
    """Write the blocks in the lanes as the ``Layout`` ``places`` says; ``tile``: an int tile of one row to work in."""
    words = places.words
    slots = places.slots
    block_bytes = places.block_bytes
    count = min(LANES, blocks - group * LANES)
    for w in range(words.shape[0]):
        word = int_lanes(0)
        if words[w, 4] != 0:
            for s in range(words[w, 2], words[w, 3]):
                word = word | (load(symbols, slots[s, 0]) << slots[s, 3])
        else:
            for s in range(words[w, 2], words[w, 3]):
                word = word | (((load(symbols, slots[s, 0]) >> slots[s, 1]) & slots[s, 2]) << slots[s, 3])
        store(tile, 0, word)
        at = group * LANES * block_bytes + words[w, 0]
        if words[w, 1] == 4:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint32(tile[lane]))
        elif words[w, 1] == 2:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint16(tile[lane]))
        else:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint8(tile[lane]))


def groups_of(blocks: int) -> int:
    """Groups of ``LANES`` blocks that cover ``blocks``."""
    return -(-blocks // LANES)
