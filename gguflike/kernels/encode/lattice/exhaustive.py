"""Kernels: the best codebook points at given scales.

Thirty-two groups (of 8 or 4 weights) are searched side by side, one per int16 lane, and exhaustively: every point of
the codebook competes under the true weights. A group's scores are measured in 1/30000 of what they can amount to, so
that rounding them moves the choice only between points that are as good as each other.

``f``, ``n`` and ``h`` are the encoder's scratch memory (block.py): tiles of float32, int32 and int16. Places in
``f`` and ``n`` are numbers of vectors, in ``h`` of elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.encode.lattice.codebook import Codebook
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

_RANGE = np.float32(30000)
_TINY = np.float32(1e-30)
_MAGIC = np.float32(12582912.0)  # 1.5 * 2**23, for ``narrow_magic``
_ONE, _TWO = np.uint64(1), np.uint64(2)
_LEAST = -(1 << 15)


def scores(dim: int, base: int, pairs: int) -> int:
    """Elements of ``h`` that a search needs: second halves and pairs, first halves, digits, digits by two, outcome."""
    halves = base**4 if dim == 8 else base**2
    twos = 4 * base**2 if dim == 8 else 0
    return I16_LANES * (2 * halves + pairs + dim * base + twos + 2)


@lean
def _score_digits(levels: Any, dim: int, f: Any, wy: int, w: int, scale: Any, factor: Any, h: Any, to: int) -> None:
    """Scores of every digit at every coordinate of two columns of groups, to ``h``; those of digit 1 are the zero.

    ``scale`` and ``factor`` (of the scores): one vector for each column.
    """
    base = levels.shape[1]
    one0, one1 = scale[0] * (levels[0, 1] + levels[0, 1]), scale[1] * (levels[0, 1] + levels[0, 1])
    for i in range(dim):
        w0, w1 = -load(f, w + i) * factor[0], -load(f, w + dim + i) * factor[1]
        y0 = fma(one0, w0, load(f, wy + i) * factor[0])
        y1 = fma(one1, w1, load(f, wy + dim + i) * factor[1])
        for digit in range(base):
            if digit == 1:
                store_i16(h, to + I16_LANES, splat_i16(0))
            else:
                x0, x1 = (levels[0, digit] - levels[0, 1]) * scale[0], (levels[0, digit] - levels[0, 1]) * scale[1]
                score0 = fma(x0, fma(x0, w0, y0), splat(_MAGIC))
                score1 = fma(x1, fma(x1, w1, y1), splat(_MAGIC))
                store_i16(h, to + digit * I16_LANES, narrow_magic(score0, score1))
        to += base * I16_LANES


@lean
def _combine(h: Any, low: int, count: int, to: int) -> None:
    """Sums of two consecutive tables of ``count`` vectors, where the first one's numbers count fastest."""
    high = low + count * I16_LANES
    for j in range(count):
        score = load_i16(h, high + j * I16_LANES)
        for i in range(count):
            store_i16(h, to, add_saturate(load_i16(h, low + i * I16_LANES), score))
            to += I16_LANES


@lean
def _score_halves(dim: int, base: int, h: Any, digits: int, firsts: int) -> None:
    """Scores of first halves (to ``firsts``) and second halves (to 0) from those of ``digits``."""
    start, count = digits, base
    if dim == 8:
        start, count = digits + dim * base * I16_LANES, base * base
        for two in range(4):
            _combine(h, digits + 2 * two * base * I16_LANES, base, start + two * count * I16_LANES)
    _combine(h, start, count, firsts)
    _combine(h, start + 2 * count * I16_LANES, count, 0)


@lean
def _search(book: Codebook, halves: int, h: Any, scores: int, out: int) -> None:
    """Best point of each lane: its first half and its second half, to ``out``. ``scores``: place of first halves'."""
    place = halves * I16_LANES
    for p in range(len(book.pairs)):
        a, b = load_i16(h, np.uint64(book.pairs[p, 0])), load_i16(h, np.uint64(book.pairs[p, 1]))
        store_i16(h, place, max_i16(a, b))
        place += I16_LANES
    best, first, rest = splat_i16(_LEAST), splat_i16(0), splat_i16(_LEAST)
    m = np.uint64(0)
    for p in range(len(book.firsts)):
        a, b = load_i16(h, np.uint64(book.members[m])), load_i16(h, np.uint64(book.members[m + _ONE]))
        score = max_i16(a, b)
        m += _TWO
        for _ in range(1, book.firsts[p, 1]):
            a, b = load_i16(h, np.uint64(book.members[m])), load_i16(h, np.uint64(book.members[m + _ONE]))
            score = max_i16(score, max_i16(a, b))
            m += _TWO
        number = np.intp(book.firsts[p, 0])
        total = add_saturate(score, load_i16(h, scores + number * I16_LANES))
        first, rest = where_greater(total, best, splat_i16(number), first), where_greater(total, best, score, rest)
        best = max_i16(total, best)
    second = splat_i16(0)
    for p in range(halves):
        second = where_equal(load_i16(h, p * I16_LANES), rest, splat_i16(p), second)
    store_i16(h, out, first)
    store_i16(h, out + I16_LANES, second)


@lean
def _mend(words: Any, halves: int, h: Any, out: int, lane: int) -> Any:
    """The best point of a lane: its first half is known, its second half's score was that of another half, too."""
    best, word = np.int16(_LEAST), words[0]
    for second in range(halves):
        candidate = words[h[out + lane] + second * halves]
        score = h[second * I16_LANES + lane]
        if candidate >= 0 and (word < 0 or score > best):
            best, word = score, candidate
    return word


@lean
def nearest(
    book: Codebook, dim: int, f: Any, wy: int, w: int, mass: int, scales: Any, h: Any, n: Any, found: int
) -> None:
    """Best points for two columns of groups, at a vector of scales each: their words, to ``n``."""
    base = book.levels.shape[1]
    halves = base ** (dim >> 1)
    top = book.levels[0, base - 1] * np.float32(0.5)
    # No score is above the energy, and points that are much too large are out of the race: their scores saturate.
    reach0 = load(f, mass) * scales[0] * scales[0] * (top * top) + load(f, mass + 2)
    reach1 = load(f, mass + 1) * scales[1] * scales[1] * (top * top) + load(f, mass + 3)
    factors = splat(_RANGE) / maximum(reach0, splat(_TINY)), splat(_RANGE) / maximum(reach1, splat(_TINY))
    firsts = (halves + len(book.pairs)) * I16_LANES
    out = firsts + halves * I16_LANES
    digits = out + 2 * I16_LANES
    _score_digits(book.levels, dim, f, wy, w, scales, factors, h, digits)
    _score_halves(dim, base, h, digits, firsts)
    _search(book, halves, h, firsts, out)
    first, second = load_i16(h, out), load_i16(h, out + I16_LANES)
    low = gather(book.words, widen_low(first) + widen_low(second) * splat_i32(halves))
    high = gather(book.words, widen_high(first) + widen_high(second) * splat_i32(halves))
    store(n, found, low)
    store(n, found + 1, high)
    if any_lane((low < 0) | (high < 0)):
        for lane in range(I16_LANES):
            if n[found * LANES + lane] < 0:
                n[found * LANES + lane] = _mend(book.words, halves, h, out, lane)
