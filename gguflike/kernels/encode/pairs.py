"""Blocks of 32 weights in 16-bit fixed point, two weights to a lane: a search tries scales at twice float32's speed.

``pairs`` is an int32 tile whose ``ROWS`` rows from row ``at`` on hold 32 int16 numbers of a block: those of weights 4k
and 4k + 2 in row 2k (the first in the low half), of weights 4k + 1 and 4k + 3 in row 2k + 1::

    row at + 0   low half: 0    high half: 2        row at + 2   low half: 4    high half: 6
    row at + 1   low half: 1    high half: 3        row at + 3   low half: 5    high half: 7   ...

So row 2k | row 2k + 1 << 8 is the word of the codes 4k .. 4k + 3 as bytes, in their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.rounding import MAGIC
from gguflike.kernels.encode.tiles import IntTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.int16 import (
    add_saturate,
    bitcast_i16,
    dot_pairs,
    min_i16,
    rounded_product,
    splat_i16,
    where_greater,
)
from gguflike.kernels.vector.lanes import bits, fma, maximum, minimum, splat, splat_i32, to_float
from gguflike.kernels.vector.types import F32x16, I32x16

SIZE = 32
ROWS = SIZE // 2
LOW = 0xFFFF
NIBBLES = 0x000F000F
FIRST_BITS = 0x00010001
BYTES_FLIP = -0x7F7F7F80  # 0x80808080 as int32


class Candidates(NamedTuple):
    """Candidate scales of a block whose range (or extreme value) is ``unit`` in ``pairs``.

    ``table`` int64 (n, 2): the multiplier after which 2**15 is one code, and what is added before it. The first
    candidate is the absmax rule's scale.
    """

    unit: np.float32
    table: npt.NDArray[np.int64]


def make_candidates(unit: int, ranges: Iterable[tuple[float, float]]) -> Candidates:
    """Candidates from pairs (range in codes, code of its start); rounded to multiples of ``unit / 2**15``."""
    rows = [(round(codes * 2**15 / unit), round(start / codes * unit)) for codes, start in ranges]
    return Candidates(np.float32(unit), np.array(rows, np.int64))


@lean(forceinline=True)
def store_pairs(
    tile: Tile, pairs: IntTile, at: int, origin: F32x16 | None, factor: F32x16, zero: np.float32,
    limits: tuple[np.float32, np.float32] | None,
) -> I32x16:  # fmt: skip
    """Store the integers nearest to (x - origin) * factor + zero as pairs, clamped to ``limits``; returns their sum.

    They must fit in 16 bits; ``zero`` is an integer. ``origin`` may be None (0), and so may ``limits``.
    """
    total = splat_i32(0)
    for k in range(0, SIZE, 4):
        for r in range(2):
            low = _round(load(tile, k + r), origin, factor, zero, limits)
            high = _round(load(tile, k + r + 2), origin, factor, zero, limits)
            pair = (low & LOW) | (high << 16)
            store(pairs, at + k // 2 + r, pair)
            total = dot_pairs(total, bitcast_i16(pair), splat_i16(1))
    return total


@lean(forceinline=True)
def _round(
    x: F32x16, origin: F32x16 | None, factor: F32x16, zero: np.float32, limits: tuple[np.float32, np.float32] | None
) -> I32x16:
    """The integer nearest to (x - origin) * factor + zero in the low 16 bits; the bits above are arbitrary."""
    if origin is not None:
        x = x - origin
    y = fma(x, factor, splat(MAGIC + zero))
    if limits is not None:
        y = minimum(maximum(y, splat(MAGIC + limits[0])), splat(MAGIC + limits[1]))
    return bits(y)


@lean(forceinline=True)
def pair_moments(
    pairs: IntTile, at: int, multiplier: int, shift: int | None, most: int | None
) -> tuple[I32x16, I32x16, I32x16]:
    """(sum x q, sum q^2, sum q) over the codes q nearest to (x + shift) * multiplier / 2**15, clamped to ``most``.

    The sums are exact. ``shift`` and ``most`` may be None.
    """
    xq = splat_i32(0)
    qq = splat_i32(0)
    sq = splat_i16(0)
    for r in range(at, at + ROWS):
        x = bitcast_i16(load(pairs, r))
        q = rounded_product(x if shift is None else add_saturate(x, splat_i16(shift)), splat_i16(multiplier))
        if most is not None:
            q = min_i16(q, splat_i16(most))
        xq = dot_pairs(xq, x, q)
        qq = dot_pairs(qq, q, q)
        sq = add_saturate(sq, q)
    return xq, qq, dot_pairs(splat_i32(0), sq, splat_i16(1))


@lean(forceinline=True)
def count_near_ties(pairs: IntTile, at: int, multiplier: int) -> F32x16:
    """How many x are within a unit of where x * multiplier / 2**15 lies midway between two codes, as float32."""
    # The low bits of the product, doubled, say where x lies between two codes: from -2**15 on, if in the middle.
    doubled, middle, near = splat_i16(2 * multiplier), splat_i16(2 * multiplier), splat_i16(4 * multiplier - (1 << 15))
    minus_count = splat_i16(0)
    for r in range(at, at + ROWS):
        place = bitcast_i16(load(pairs, r)) * doubled + middle
        minus_count = add_saturate(minus_count, where_greater(near, place, splat_i16(-1), splat_i16(0)))
    return to_float(dot_pairs(splat_i32(0), minus_count, splat_i16(-1)))


@lean(forceinline=True)
def pack_codes(pairs: IntTile, at: int, words: IntTile, first: int, width: int) -> None:
    """Pack codes of ``width`` 4, 5 or 8 bits into rows ``first ..`` of ``words``, as blocks store them.

    Codes of 8 bits become signed bytes, less 128; of 5 bits the fifth bits come first, then nibbles. Row r of nibbles
    holds codes 4r .. 4r + 3 in the low halves of its bytes, 16 + 4r .. in the high ones.
    """
    if width == 8:
        for w in range(8):
            word = load(pairs, at + 2 * w) | (load(pairs, at + 2 * w + 1) << 8)
            store(words, first + w, word ^ BYTES_FLIP)
        return
    if width == 5:
        store(words, first, _fifth_bits(pairs, at) | (_fifth_bits(pairs, at + 8) << 16))
        first += 1
    for w in range(4):
        word = splat_i32(0)
        for r in range(2):
            low, high = load(pairs, at + 2 * w + r), load(pairs, at + 2 * w + r + 8)
            word = word | (((low & NIBBLES) | ((high & NIBBLES) << 4)) << (8 * r))
        store(words, first + w, word)


@lean
def _fifth_bits(pairs: IntTile, at: int) -> I32x16:
    """Bit 4 of each of 16 codes, in 16 bits."""
    found = splat_i32(0)
    for k in range(4):
        for r in range(2):
            found = found | (((load(pairs, at + 2 * k + r) >> 4) & FIRST_BITS) << (4 * k + r))
    return (found | (found >> 14)) & LOW  # codes 4k + 2 and 4k + 3 stand 14 bits above their places


@lean(forceinline=True)
def prepend_short(words: IntTile, count: int, short: I32x16) -> None:
    """Move words 1 .. ``count`` up by 16 bits, so that they begin in word 0, and put the 16 bits ``short`` before."""
    carried = short
    for w in range(count):
        word = load(words, w + 1)
        store(words, w, carried | (word << 16))
        carried = (word >> 16) & LOW
    store(words, count, carried)
