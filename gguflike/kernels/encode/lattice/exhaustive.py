"""The best codebook points at given scales, by comparing them all.

Thirty-two points (of 8 or 4 weights) are sought side by side, one per int16 lane, and exhaustively: every point of the
codebook competes under the true importance. The *score* of a point p at scale s is by how much it lowers the squared
error, 2 s sum w y p - s^2 sum w p^2, which is a sum over coordinates: the score of the best point comes from the scores
of half points (codebook.py). Scores are integers, in 1/30000 of what they can amount to, so that rounding them moves
the choice only between points that are as good as each other.

``floats``, ``ints`` and ``shorts`` are scratch memory (scratch.py): tiles of float32, int32 and int16. Places in the
former two are rows, in ``shorts`` elements. The search uses these tables of vectors in ``shorts``::

    0         scores of the second halves, then of the codebook's shared pairs
    firsts    scores of the first halves
    out       the best first half, the best second half
    digits    scores of each digit at each coordinate
              with 8 coordinates: scores of two digits, at coordinates 0 and 1, 2 and 3, ...
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.encode.lattice.codebook import Codebook
from gguflike.kernels.encode.rounding import MAGIC
from gguflike.kernels.encode.tiles import Floats, Ints, IntTile, ShortTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import gather, load, load_i16, store, store_i16
from gguflike.kernels.vector.int16 import (
    add_saturate,
    max_i16,
    narrow_magic,
    splat_i16,
    where_equal,
    where_greater,
    widen_high,
    widen_low,
)
from gguflike.kernels.vector.lanes import any_lane, fma, maximum, splat, splat_i32
from gguflike.kernels.vector.sizes import I16_LANES, LANES
from gguflike.kernels.vector.types import F32x16

_RANGE = np.float32(30000)
_TINY = np.float32(1e-30)
_ONE, _TWO = np.uint64(1), np.uint64(2)
_LEAST = -(1 << 15)


def score_elements(dim: int, base: int, pairs: int) -> int:
    """The elements of ``shorts`` that a search takes, for points of ``dim`` digits to the ``base``."""
    halves = base**4 if dim == 8 else base**2
    twos = 4 * base**2 if dim == 8 else 0
    return I16_LANES * (2 * halves + pairs + dim * base + twos + 2)


@lean
def _score_digits(
    levels: Floats, dim: int, floats: Tile, products: int, importance: int, scale: tuple[F32x16, F32x16],
    unit: tuple[F32x16, F32x16], shorts: ShortTile, to: int,
) -> None:  # fmt: skip
    """Store the score of every digit at every coordinate of two columns of points, relative to that of digit 1.

    ``scale`` and ``unit`` have one vector for each column; scores are multiplied by ``unit``. With u the scaled level
    of digit 1 and x what a digit's level has more, the relative score is x (2 w y - 2 u w - x w).
    """
    base = levels.shape[1]
    one0, one1 = scale[0] * (levels[0, 1] + levels[0, 1]), scale[1] * (levels[0, 1] + levels[0, 1])
    for i in range(dim):
        w0, w1 = -load(floats, importance + i) * unit[0], -load(floats, importance + dim + i) * unit[1]
        y0 = fma(one0, w0, load(floats, products + i) * unit[0])
        y1 = fma(one1, w1, load(floats, products + dim + i) * unit[1])
        for digit in range(base):
            if digit == 1:
                store_i16(shorts, to + I16_LANES, splat_i16(0))
            else:
                x0, x1 = (levels[0, digit] - levels[0, 1]) * scale[0], (levels[0, digit] - levels[0, 1]) * scale[1]
                score0 = fma(x0, fma(x0, w0, y0), splat(MAGIC))
                score1 = fma(x1, fma(x1, w1, y1), splat(MAGIC))
                store_i16(shorts, to + digit * I16_LANES, narrow_magic(score0, score1))
        to += base * I16_LANES


@lean
def _combine(shorts: ShortTile, low: int, count: int, to: int) -> None:
    """Store all sums of a vector of one table of ``count`` and one of the next; the first one's number runs fastest."""
    high = low + count * I16_LANES
    for j in range(count):
        score = load_i16(shorts, high + j * I16_LANES)
        for i in range(count):
            store_i16(shorts, to, add_saturate(load_i16(shorts, low + i * I16_LANES), score))
            to += I16_LANES


@lean
def _score_halves(dim: int, base: int, shorts: ShortTile, digits: int, firsts: int) -> None:
    """Store the scores of first halves (to ``firsts``) and second halves (to 0), from those of ``digits``."""
    start, count = digits, base
    if dim == 8:
        start, count = digits + dim * base * I16_LANES, base * base
        for two in range(4):
            _combine(shorts, digits + 2 * two * base * I16_LANES, base, start + two * count * I16_LANES)
    _combine(shorts, start, count, firsts)
    _combine(shorts, start + 2 * count * I16_LANES, count, 0)


@lean
def _search(book: Codebook, halves: int, shorts: ShortTile, firsts: int, out: int) -> None:
    """Store the first half and the second half of each lane's best point to ``out``.

    Of each first half, the best score among the second halves that complete it counts. Which second half that was is
    found at the end, by its score.
    """
    place = halves * I16_LANES
    for p in range(len(book.pairs)):
        a, b = load_i16(shorts, np.uint64(book.pairs[p, 0])), load_i16(shorts, np.uint64(book.pairs[p, 1]))
        store_i16(shorts, place, max_i16(a, b))
        place += I16_LANES
    best, first, rest = splat_i16(_LEAST), splat_i16(0), splat_i16(_LEAST)
    m = np.uint64(0)
    for p in range(len(book.firsts)):
        a, b = load_i16(shorts, np.uint64(book.members[m])), load_i16(shorts, np.uint64(book.members[m + _ONE]))
        score = max_i16(a, b)
        m += _TWO
        for _ in range(1, book.firsts[p, 1]):
            a, b = load_i16(shorts, np.uint64(book.members[m])), load_i16(shorts, np.uint64(book.members[m + _ONE]))
            score = max_i16(score, max_i16(a, b))
            m += _TWO
        number = np.intp(book.firsts[p, 0])
        total = add_saturate(score, load_i16(shorts, firsts + number * I16_LANES))
        first, rest = where_greater(total, best, splat_i16(number), first), where_greater(total, best, score, rest)
        best = max_i16(total, best)
    second = splat_i16(0)
    for p in range(halves):
        second = where_equal(load_i16(shorts, p * I16_LANES), rest, splat_i16(p), second)
    store_i16(shorts, out, first)
    store_i16(shorts, out + I16_LANES, second)


@lean
def _complete(words: Ints, halves: int, shorts: ShortTile, out: int, lane: int) -> Any:
    """The best packed point of a lane with its first half, where the second half found is another's of equal score."""
    best, word = np.int16(_LEAST), words[0]
    for second in range(halves):
        candidate = words[shorts[out + lane] + second * halves]
        score = shorts[second * I16_LANES + lane]
        if candidate >= 0 and (word < 0 or score > best):
            best, word = score, candidate
    return word


@lean
def nearest_points(
    book: Codebook, dim: int, floats: Tile, products: int, importance: int, moments: int,
    scales: tuple[F32x16, F32x16], shorts: ShortTile, ints: IntTile, found: int,
) -> None:  # fmt: skip
    """Store the best packed points for two columns, at a vector of scales each, to rows ``found ..`` of ``ints``.

    ``products``, ``importance``, ``moments``: rows of the columns in ``floats``, as in ``Scratch``.
    """
    base = book.levels.shape[1]
    halves = base ** (dim >> 1)
    top = book.levels[0, base - 1] * np.float32(0.5)
    # No score is above sum w y^2, and points that are much too large are out of the race: their scores saturate.
    reach0 = load(floats, moments) * scales[0] * scales[0] * (top * top) + load(floats, moments + 2)
    reach1 = load(floats, moments + 1) * scales[1] * scales[1] * (top * top) + load(floats, moments + 3)
    units = splat(_RANGE) / maximum(reach0, splat(_TINY)), splat(_RANGE) / maximum(reach1, splat(_TINY))
    firsts = (halves + len(book.pairs)) * I16_LANES
    out = firsts + halves * I16_LANES
    digits = out + 2 * I16_LANES
    _score_digits(book.levels, dim, floats, products, importance, scales, units, shorts, digits)
    _score_halves(dim, base, shorts, digits, firsts)
    _search(book, halves, shorts, firsts, out)
    first, second = load_i16(shorts, out), load_i16(shorts, out + I16_LANES)
    low = gather(book.words, widen_low(first) + widen_low(second) * splat_i32(halves))
    high = gather(book.words, widen_high(first) + widen_high(second) * splat_i32(halves))
    store(ints, found, low)
    store(ints, found + 1, high)
    if any_lane((low < 0) | (high < 0)):
        for lane in range(I16_LANES):
            if ints[found * LANES + lane] < 0:
                ints[found * LANES + lane] = _complete(book.words, halves, shorts, out, lane)
