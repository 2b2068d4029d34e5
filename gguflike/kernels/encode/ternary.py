"""Blocks of two or three levels and one float16 scale: Q1_0 (-d, d), TQ1_0 and TQ2_0 (-d, 0, d), by exact optimum.

Binary: for given signs the best d is the (weighted) mean magnitude, and the signs are those of the weights.

Ternary: with the weights above a threshold away from zero, d is best as their mean magnitude, and the squares explained
are (sum w*|x|)**2 / sum w. For this d the threshold d / 2 is best: the optimum is a fixed point of threshold -> mean
above it / 2. The map is monotone, so no fixed point is passed by when it is applied from below and from above. A few
times each, and few weights are left between the two: each of them is tried as the last that is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.driver import Encode, block_encoder, codec
from gguflike.kernels.encode.packing import bit_string, strided, whole
from gguflike.kernels.encode.rounding import (
    F16_MIN_NORMAL,
    HALF,
    LARGEST,
    clamp_tile,
    f16_bits,
    importance_of,
    reciprocal,
    round_to_f16,
    stored_scale,
    weighted,
)
from gguflike.kernels.engine.jit import inner, lean
from gguflike.kernels.vector.arrays import load, make_tile, store
from gguflike.kernels.vector.lanes import (
    any_lane,
    bits,
    fma,
    from_bits,
    magnitude,
    mask_bits,
    maximum,
    minimum,
    splat,
    splat_i32,
    to_float,
    to_int,
    trailing_zeros,
    where,
)
from gguflike.kernels.vector.sizes import LANES

TERNARY, BINARY = 256, 128
PASSES = 8
NEAR = np.float32(1.12)  # a quotient of bounds that leaves few weights between them
SLACK = np.float32(2.0**-18)  # for the rounding of sums
ONE_PLACE = 23
ONE = 1 << ONE_PLACE
ONE_LESS = (150 << 23) - ONE  # from the bits of the float32 ONE + number to the integer
Places = npt.NDArray[np.int32]


class Ternary(NamedTuple):
    """``absmax`` takes the largest magnitude for the scale, unrounded.

    A byte is ceil(``factor`` / 2**14 * number), the number having the digits ``codes`` (words, 4, digits), most
    significant first and -1 for none, to the ``base``.
    """

    absmax: bool
    codes: Places
    base: int
    factor: int


class Binary(NamedTuple):
    """Blocks of ``size`` signs."""

    size: int


@lean
def largest(tile: Any, count: int) -> Any:
    """The largest magnitude."""
    size = splat(0.0)
    for j in range(count):
        size = maximum(magnitude(load(tile, j)), size)
    return size


@lean
def between(tile: Any, importance: Any, top: Any, numbers: Any) -> Any:
    """Bounds of the best threshold, by passes of the map from both ends.

    ``top``: the largest magnitude; ``numbers``: an int tile to use.
    """
    if importance is None:
        return between_integers(tile, top, numbers)
    return between_floats(tile, importance, top, numbers)


@lean
def sums(tile: Any, importance: Any, threshold: Any) -> Any:
    """Sums of w*|x| and w over the magnitudes beyond a threshold."""
    wx1 = splat(0.0)
    w1 = splat(0.0)
    wx2 = splat(0.0)
    w2 = splat(0.0)
    for j in range(0, TERNARY, 2):  # two sums of each, so that one need not wait for the other
        x = magnitude(load(tile, j))
        kept = where(x > threshold, importance_of(importance, j), splat(0.0))
        wx1 = fma(kept, x, wx1)
        w1 = w1 + kept
        x = magnitude(load(tile, j + 1))
        kept = where(x > threshold, importance_of(importance, j + 1), splat(0.0))
        wx2 = fma(kept, x, wx2)
        w2 = w2 + kept
    return wx1 + wx2, w1 + w2


@lean
def between_floats(tile: Any, importance: Any, top: Any, numbers: Any) -> Any:
    """``between`` on the magnitudes themselves."""
    low = splat(0.0)
    high = top * HALF
    store(numbers, 0, bits(low))  # in memory, for in registers they would take the place of sums
    store(numbers, 1, bits(high))
    for _ in range(PASSES):
        for end in range(2):
            wx, w = sums(tile, importance, from_bits(load(numbers, end)))
            store(numbers, end, bits(wx * reciprocal(w) * HALF))
        low = from_bits(load(numbers, 0))
        high = from_bits(load(numbers, 1))
        if not any_lane(high > low * NEAR):
            break
    return low * (1.0 - SLACK), high * (1.0 + SLACK)


@lean
def between_integers(tile: Any, top: Any, numbers: Any) -> Any:
    """``between`` where all weights count the same, in integers: 32767ths of ``top``, each with ONE added, so that one
    sum of them is the sum and the count. Bounds give way by what rounding may have cost them."""
    step = top * np.float32(1 / 32767)
    inverse = reciprocal(step)
    total = splat_i32(0)
    for j in range(TERNARY):
        number = bits(fma(magnitude(load(tile, j)), inverse, splat(np.float32(ONE)))) - ONE_LESS
        total = total + number
        store(numbers, j, number)
    low = half_mean(total)
    high = splat_i32(16384)
    for _ in range(PASSES):
        lower = low + (ONE - 1)
        upper = high + (ONE + 2)
        total1 = splat_i32(0)
        total2 = splat_i32(0)
        for j in range(TERNARY):
            number = load(numbers, j)
            total1 = total1 + where(number > lower, number, splat_i32(0))
            total2 = total2 + where(number > upper, number, splat_i32(0))
        low = half_mean(total1)
        high = half_mean(total2)
        if not any_lane(to_float(high) > to_float(low) * NEAR):
            break
    return to_float(low - 1) * step, to_float(high + 2) * step


@lean(forceinline=True)
def half_mean(total: Any) -> Any:
    """Half the mean of integers with ONE added, rounded down."""
    return to_int(to_float(total & (ONE - 1)) * HALF * reciprocal(to_float((total >> ONE_PLACE) & 511)))


@lean
def find(tile: Any, low: Any, high: Any, spots: Any) -> int:
    """Where there are magnitudes beyond ``low`` and not beyond ``high``: 256 * the lanes as bits + the place, into
    ``spots``. Returns their number."""
    count = 0
    for j in range(TERNARY):
        x = magnitude(load(tile, j))
        inside = mask_bits((x > low) & (x <= high))
        spots[count] = (inside << 8) | j
        count += inside != 0
    return count


@lean
def collect(tile: Any, importance: Any, spots: Any, count: int, counts: Any, rest: Any) -> int:
    """Magnitudes at the ``spots``, lane by lane from the top of ``rest``, then zeros; their weights in its lower half.

    ``counts`` int64 (16,) is to use. Returns the most of a lane.
    """
    for i in range(count):
        store(rest, i, splat(0.0))
        store(rest, TERNARY + i, splat(0.0))
    counts[:] = 0
    most = 0
    for i in range(count):
        inside = spots[i] >> 8
        j = spots[i] & 255
        while inside != 0:
            lane = trailing_zeros(inside)
            inside &= inside - 1
            place = counts[lane]
            at = place * LANES + lane
            rest[at] = abs(tile[j * LANES + lane])
            rest[TERNARY * LANES + at] = 1.0 if importance is None else importance[j * LANES + lane]
            counts[lane] = place + 1
            most = max(most, place + 1)
    return most


@inner
def best_ternary(tile: Any, importance: Any, low: Any, high: Any) -> Any:
    """The scale of least squared error over all codes -1, 0, 1 with a threshold from ``low`` to ``high``."""
    spots = np.empty(TERNARY + 1 + LANES, np.int64)
    rest = make_tile(2 * TERNARY)
    count = find(tile, low, high, spots)
    most = collect(tile, importance, spots, count, spots[TERNARY + 1 :], rest)
    wx, w = sums(tile, importance, high)
    best_wx = wx
    best_w = where(w > 0.0, w, splat(1.0))
    for i in range(most):
        least = load(rest, i)
        some_wx = wx
        some_w = w
        for k in range(most):
            x = load(rest, k)
            kept = where(x >= least, load(rest, TERNARY + k), splat(0.0))
            some_wx = fma(kept, x, some_wx)
            some_w = some_w + kept
        better = some_wx * some_wx * best_w > best_wx * best_wx * some_w
        best_wx = where(better, some_wx, best_wx)
        best_w = where(better, some_w, best_w)
    return best_wx / best_w


@lean
def ternary_error(tile: Any, importance: Any, d: Any) -> Any:
    """Squared error with the nearest of -d, 0, d."""
    total = splat(0.0)
    for j in range(TERNARY):
        size = magnitude(load(tile, j))
        rest = size - where(size > d * HALF, d, splat(0.0))
        total = total + rest * weighted(importance, j, rest)
    return total


@lean
def put_words(tile: Any, symbols: Any, scale: Any, s: Ternary) -> None:
    """The bytes of codes, four to a word; codes are away from zero where |x| * scale is at least a half."""
    for row in range(s.codes.shape[0]):
        word = splat_i32(0)
        for b in range(4):
            number = splat_i32(0)
            for k in range(s.codes.shape[2]):
                place = s.codes[row, b, k]
                number = number * s.base
                if place >= 0:
                    t = load(tile, place) * scale
                    number = number + where(t >= HALF, splat_i32(1), splat_i32(0)) + 1
                    number = number - where(t <= -HALF, splat_i32(1), splat_i32(0))
            word = word | (((number * s.factor + ((1 << 14) - 1)) >> 14) << (8 * b))
        store(symbols, TERNARY + 1 + row, word)


@codec(Ternary)
def ternary_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Ternary) -> None:
    """Symbols: room for 256 numbers, the scale, then the words of ``codes``."""
    top = largest(tile, TERNARY)
    if s.absmax:
        d = round_to_f16(top)
        put_words(tile, symbols, where(top == 0.0, splat(0.0), 1.0 / where(top == 0.0, splat(1.0), top)), s)
    else:
        clamp_tile(tile, TERNARY, top)
        top = minimum(top, splat(LARGEST))
        low, high = between(tile, importance, top, symbols)
        d = stored_scale(best_ternary(tile, importance, low, high))
        if any_lane(d < F16_MIN_NORMAL):  # float16's steps are so wide there that the plain rule's scale may be nearer
            plain = round_to_f16(top)
            worse = ternary_error(tile, importance, plain) < ternary_error(tile, importance, d)
            d = where(worse, plain, d)
        put_words(tile, symbols, reciprocal(d), s)
    store(symbols, TERNARY, f16_bits(d))


@codec(Binary)
def binary_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Binary) -> None:
    """Symbols: bits (1 for +d), then the scale."""
    clamp_tile(tile, s.size, largest(tile, s.size))
    wx = splat(0.0)
    w = splat(0.0)
    for j in range(s.size):
        v = load(tile, j)
        wx = wx + weighted(importance, j, magnitude(v))
        w = w + importance_of(importance, j)
        store(symbols, j, where(v < 0.0, splat_i32(0), splat_i32(1)))
    store(symbols, s.size, f16_bits(round_to_f16(wx * reciprocal(w))))


def _trits() -> Places:
    """(13, 4, 5): the codes in each byte of TQ1_0: 48 bytes of five, 4 of four."""
    first = np.arange(160).reshape(5, 32).T
    second = 160 + np.arange(80).reshape(5, 16).T
    last = np.pad(240 + np.arange(16).reshape(4, 4).T, ((0, 0), (0, 1)), constant_values=-1)
    return np.concatenate([first, second, last]).reshape(13, 4, 5).astype(np.int32)


def _pairs_of_bits() -> Places:
    """(16, 4, 4): the codes in each byte of TQ2_0."""
    return np.ascontiguousarray(strided(256, 4, 32)[::-1].T, np.int32).reshape(16, 4, 4)


def _ternary_encoder(search: Ternary) -> Encode:
    count = len(search.codes)
    codes, d = whole(range(TERNARY + 1, TERNARY + 1 + count), 4), whole([TERNARY], 2)
    return block_encoder(TERNARY, TERNARY + 1 + count, [codes, d], search, search._replace(absmax=True))


encode_tq2_0 = _ternary_encoder(Ternary(False, _pairs_of_bits(), 4, 1 << 14))
encode_tq1_0 = _ternary_encoder(Ternary(False, _trits(), 3, 17261))
_MEAN = Binary(BINARY)
encode_q1_0 = block_encoder(BINARY, BINARY + 1, [whole([BINARY], 2), bit_string(range(BINARY), 1)], _MEAN, absmax=_MEAN)
