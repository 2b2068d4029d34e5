"""Blocks of 32 weights in 16-bit fixed point, two weights to a lane: a search tries scales at twice float32's speed.

``pairs`` is an int32 tile, where ``ROWS`` rows from ``at`` on hold the numbers of a block: weights 4k and 4k + 2 in row
2k (the first in the low half), 4k + 1 and 4k + 3 in row 2k + 1. So bytes of the block's words lie where they go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.rounding import MAGIC
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

SIZE = 32
ROWS = SIZE // 2
LOW = 0xFFFF
NIBBLES = 0x000F000F
FIRST_BITS = 0x00010001
BYTES_FLIP = -0x7F7F7F80  # 0x80808080 as int32


class Candidates(NamedTuple):
    """Candidates for the scale of a block whose range is ``unit`` in ``pairs``.

    ``candidates`` int64 (n, 2): by what to multiply so that 2**15 is one code, and what to add before. The first one is
    the textbook rule.
    """

    unit: np.float32
    candidates: npt.NDArray[np.int64]


def scan(unit: int, candidates: Iterable[tuple[float, float]]) -> Candidates:
    """Candidates from pairs (range in codes, code of its start); the range must be a multiple of ``2**15 / unit``."""
    rows = [(round(codes * 2**15 / unit), round(start / codes * unit)) for codes, start in candidates]
    return Candidates(np.float32(unit), np.array(rows, np.int64))


@lean(forceinline=True)
def fill(tile: Any, pairs: Any, at: int, origin: Any, factor: Any, zero: Any, bounds: Any) -> Any:
    """The integers nearest to (x - origin) * factor + zero. ``origin``: None is 0; ``bounds``: least and most, or None.

    They must fit in 16 bits; ``zero`` is an integer. Returns their sum.
    """
    total = splat_i32(0)
    for k in range(0, SIZE, 4):
        for r in range(2):
            low = _integer(load(tile, k + r), origin, factor, zero, bounds)
            high = _integer(load(tile, k + r + 2), origin, factor, zero, bounds)
            pair = (low & LOW) | (high << 16)
            store(pairs, at + k // 2 + r, pair)
            total = dot_pairs(total, bitcast_i16(pair), splat_i16(1))
    return total


@lean(forceinline=True)
def _integer(x: Any, origin: Any, factor: Any, zero: Any, bounds: Any) -> Any:
    """In the low 16 bits."""
    if origin is not None:
        x = x - origin
    y = fma(x, factor, splat(MAGIC + zero))
    if bounds is not None:
        y = minimum(maximum(y, splat(MAGIC + bounds[0])), splat(MAGIC + bounds[1]))
    return bits(y)


@lean(forceinline=True)
def pair_moments(pairs: Any, at: int, multiplier: int, shift: Any, most: Any) -> Any:
    """Sums of x*q, q*q and q over the codes q nearest to (x + shift) * multiplier / 2**15, but at most ``most``.

    They are exact. ``shift`` and ``most`` may be None.
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
def near_ties(pairs: Any, at: int, multiplier: int) -> Any:
    """How many x, as float32, are within a unit of where x * multiplier / 2**15 lies in the middle of two codes."""
    # The low bits of the product, doubled, say where x lies between two codes: from -2**15 on, if in the middle.
    doubled, middle, near = splat_i16(2 * multiplier), splat_i16(2 * multiplier), splat_i16(4 * multiplier - (1 << 15))
    less = splat_i16(0)
    for r in range(at, at + ROWS):
        place = bitcast_i16(load(pairs, r)) * doubled + middle
        less = add_saturate(less, where_greater(near, place, splat_i16(-1), splat_i16(0)))
    return to_float(dot_pairs(splat_i32(0), less, splat_i16(-1)))


@lean(forceinline=True)
def join(pairs: Any, at: int, words: Any, first: int, width: int) -> None:
    """The words of codes of 4, 5 or 8 bits, as blocks store them: the fifth bits, then nibbles; or bytes, less 128."""
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
def _fifth_bits(pairs: Any, at: int) -> Any:
    """Of 16 codes, in 16 bits."""
    found = splat_i32(0)
    for k in range(4):
        for r in range(2):
            found = found | (((load(pairs, at + 2 * k + r) >> 4) & FIRST_BITS) << (4 * k + r))
    return (found | (found >> 14)) & LOW  # codes 4k + 2 and 4k + 3 stand 14 bits above their places


@lean(forceinline=True)
def put_before(words: Any, count: int, short: Any) -> None:
    """Move words 1 .. ``count`` up by 16 bits, from row 0 on, and put the 16 bits ``short`` before them."""
    before = short
    for w in range(count):
        word = load(words, w + 1)
        store(words, w, before | (word << 16))
        before = (word >> 16) & LOW
    store(words, count, before)
