"""Blocks of two or three levels and one float16 scale: Q1_0 (-d, d), TQ1_0 and TQ2_0 (-d, 0, d), by exact optimum.

Binary: for given signs the d that minimizes sum w (x - d sign)^2 is the weighted mean magnitude, and the best signs are
those of the weights.

Ternary: with the codes of weights beyond a threshold away from zero, the best d is the weighted mean magnitude of these
weights, and the squares explained are (sum w |x|)^2 / sum w over them. For a given d the best threshold is d / 2. So
the optimum is a fixed point of the map threshold -> (mean magnitude beyond it) / 2. The map is monotone, so applying it
from below and from above does not pass any fixed point (Lloyd's algorithm from both ends). A few passes leave few
weights between the two bounds, and each of them is tried as the least that is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.driver import BlockEncoder, block_encoder, codec
from gguflike.kernels.encode.packing import consecutive_bits, interleaved, whole_bytes
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
from gguflike.kernels.encode.tiles import Importance, Ints, IntTile, Tile
from gguflike.kernels.engine.jit import inner, lean
from gguflike.kernels.vector.arrays import float_rows, load, store, words_at
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
from gguflike.kernels.vector.types import F32x16, I32x16

TERNARY, BINARY = 256, 128
PLACES = TERNARY + 1 + 16
SCRATCH = 2 * TERNARY + -(-PLACES // 8)  # rows of 64 bytes for ``best_ternary``
PASSES = 8
NEAR = np.float32(1.12)  # a quotient of bounds that leaves few weights between them
SLACK = np.float32(2.0**-18)  # for the rounding of sums
# ``bracket_integers`` adds ONE to each number, so that one sum of them holds their sum and, above it, their count.
ONE_BIT = 23
ONE = 1 << ONE_BIT
ONE_LESS = (150 << 23) - ONE  # from the bits of the float32 ONE + number to the integer


class Ternary(NamedTuple):
    """Settings of TQ1_0 and TQ2_0; ``absmax`` takes the largest magnitude for the scale, not rounded, as ggml does.

    ``codes`` int32 (words, 4, digits) lists the weights whose codes (0, 1, 2) make up each byte, most significant digit
    first and -1 for none. A byte is ceil(factor / 2**14 * number), the number having these digits to the ``base``.
    """

    absmax: bool
    codes: Ints
    base: int
    factor: int


class Binary(NamedTuple):
    """Settings of Q1_0: blocks of ``size`` signs."""

    size: int


@lean
def largest(tile: Tile, count: int) -> F32x16:
    """The largest magnitude in rows ``0 .. count - 1``."""
    top = splat(0.0)
    for j in range(count):
        top = maximum(magnitude(load(tile, j)), top)
    return top


@lean
def bracket(tile: Tile, importance: Importance, top: F32x16, scratch: IntTile) -> tuple[F32x16, F32x16]:
    """(low, high) bounds of the best threshold, by passes of the map from both ends.

    ``top`` is the largest magnitude; ``scratch`` an int tile of 256 rows.
    """
    if importance is None:
        low, high = bracket_integers(tile, top, scratch)
    else:
        low, high = bracket_floats(tile, importance, top, scratch)
    return low, high


@lean
def sums_beyond(tile: Tile, importance: Importance, threshold: F32x16) -> tuple[F32x16, F32x16]:
    """(sum w |x|, sum w) over the magnitudes beyond a threshold."""
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
def bracket_floats(
    tile: Tile, importance: Importance, top: F32x16, scratch: IntTile
) -> tuple[F32x16, F32x16]:  # fmt: skip
    """``bracket`` by sums of the magnitudes themselves, less and plus what rounding may have cost them."""
    low = splat(0.0)
    high = top * HALF
    store(scratch, 0, bits(low))  # in memory, for in registers they would take the place of sums
    store(scratch, 1, bits(high))
    for _ in range(PASSES):
        for end in range(2):
            wx, w = sums_beyond(tile, importance, from_bits(load(scratch, end)))
            store(scratch, end, bits(wx * reciprocal(w) * HALF))
        low = from_bits(load(scratch, 0))
        high = from_bits(load(scratch, 1))
        if not any_lane(high > low * NEAR):
            break
    return low * (1.0 - SLACK), high * (1.0 + SLACK)


@lean
def bracket_integers(tile: Tile, top: F32x16, numbers: IntTile) -> tuple[F32x16, F32x16]:
    """``bracket`` where all importance is equal, in integers: 32767ths of ``top``, each with ONE added.

    ``numbers`` holds them, 256 rows. Bounds give way by what rounding may have cost them.
    """
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
def half_mean(total: I32x16) -> I32x16:
    """Half the mean of numbers, rounded down, from their sum with ONE added to each."""
    return to_int(to_float(total & (ONE - 1)) * HALF * reciprocal(to_float((total >> ONE_BIT) & 511)))


@lean
def find_between(tile: Tile, low: F32x16, high: F32x16, places: npt.NDArray[np.int64]) -> int:
    """List the weights with a magnitude in (low, high] in any block: 256 * (bits of the lanes) + weight, to ``places``.

    Returns how many there are.
    """
    count = 0
    for j in range(TERNARY):
        x = magnitude(load(tile, j))
        inside = mask_bits((x > low) & (x <= high))
        places[count] = (inside << 8) | j
        count += inside != 0
    return count


@lean
def collect(
    tile: Tile, importance: Importance, places: npt.NDArray[np.int64], count: int, counts: npt.NDArray[np.int64],
    between: Tile,
) -> int:  # fmt: skip
    """Collect the magnitudes that ``places`` lists in each lane, from the top of ``between``; zeros follow.

    Their importance goes to its lower half. ``counts`` int64 (16,) is scratch. Returns the most that a lane has.
    """
    for i in range(count):
        store(between, i, splat(0.0))
        store(between, TERNARY + i, splat(0.0))
    counts[:] = 0
    most = 0
    for i in range(count):
        inside = places[i] >> 8
        j = places[i] & 255
        while inside != 0:
            lane = trailing_zeros(inside)
            inside &= inside - 1
            row = counts[lane]
            at = row * LANES + lane
            between[at] = abs(tile[j * LANES + lane])
            between[TERNARY * LANES + at] = 1.0 if importance is None else importance[j * LANES + lane]
            counts[lane] = row + 1
            most = max(most, row + 1)
    return most


@inner
def best_ternary(tile: Tile, importance: Importance, low: F32x16, high: F32x16, scratch: IntTile) -> F32x16:
    """The d that minimizes sum w (x - d q)^2 over all codes q = -1, 0, 1 with a threshold in [low, high].

    ``scratch`` has SCRATCH rows.
    """
    between = float_rows(scratch, 0, 2 * TERNARY)
    places = words_at(scratch[2 * TERNARY * LANES :].ctypes.data, PLACES)
    count = find_between(tile, low, high, places)
    most = collect(tile, importance, places, count, places[TERNARY + 1 :], between)
    beyond_wx, beyond_w = sums_beyond(tile, importance, high)
    best_wx = beyond_wx
    best_w = where(beyond_w > 0.0, beyond_w, splat(1.0))
    for i in range(most):
        least = load(between, i)
        wx = beyond_wx
        w = beyond_w
        for k in range(most):
            x = load(between, k)
            kept = where(x >= least, load(between, TERNARY + k), splat(0.0))
            wx = fma(kept, x, wx)
            w = w + kept
        better = wx * wx * best_w > best_wx * best_wx * w  # (sum w |x|)^2 / sum w is larger
        best_wx = where(better, wx, best_wx)
        best_w = where(better, w, best_w)
    return best_wx / best_w


@lean
def ternary_error(tile: Tile, importance: Importance, d: F32x16) -> F32x16:
    """The squared error with the nearest of -d, 0, d."""
    total = splat(0.0)
    for j in range(TERNARY):
        absolute = magnitude(load(tile, j))
        residual = absolute - where(absolute > d * HALF, d, splat(0.0))
        total = total + residual * weighted(importance, j, residual)
    return total


@lean
def store_words(tile: Tile, symbols: IntTile, inverse: F32x16, s: Ternary) -> None:
    """Store the bytes of codes, four to a word; codes are away from zero where |x| * ``inverse`` is at least a half."""
    for row in range(s.codes.shape[0]):
        word = splat_i32(0)
        for b in range(4):
            number = splat_i32(0)
            for k in range(s.codes.shape[2]):
                place = s.codes[row, b, k]
                number = number * s.base
                if place >= 0:
                    t = load(tile, place) * inverse
                    number = number + where(t >= HALF, splat_i32(1), splat_i32(0)) + 1
                    number = number - where(t <= -HALF, splat_i32(1), splat_i32(0))
            word = word | (((number * s.factor + ((1 << 14) - 1)) >> 14) << (8 * b))
        store(symbols, TERNARY + 1 + row, word)


@codec(Ternary)
def ternary_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Ternary) -> None:
    """Encode blocks of three levels. Symbols: 256 rows of scratch, the bits of the scale, then the words of codes,
    then scratch."""
    top = largest(tile, TERNARY)
    if s.absmax:
        d = round_to_f16(top)
        store_words(tile, symbols, where(top == 0.0, splat(0.0), 1.0 / where(top == 0.0, splat(1.0), top)), s)
    else:
        clamp_tile(tile, TERNARY, top)
        top = minimum(top, splat(LARGEST))
        low, high = bracket(tile, importance, top, symbols)
        scratch = symbols[(TERNARY + 1 + s.codes.shape[0]) * LANES :]
        d = stored_scale(best_ternary(tile, importance, low, high, scratch))
        if any_lane(d < F16_MIN_NORMAL):  # float16's steps are so wide there that the absmax scale may be nearer
            absmax_d = round_to_f16(top)
            worse = ternary_error(tile, importance, absmax_d) < ternary_error(tile, importance, d)
            d = where(worse, absmax_d, d)
        store_words(tile, symbols, reciprocal(d), s)
    store(symbols, TERNARY, f16_bits(d))


@codec(Binary)
def binary_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Binary) -> None:
    """Encode blocks of signs. Symbols: the codes (1 for +d), then the bits of the scale."""
    clamp_tile(tile, s.size, largest(tile, s.size))
    wx = splat(0.0)
    w = splat(0.0)
    for j in range(s.size):
        x = load(tile, j)
        wx = wx + weighted(importance, j, magnitude(x))
        w = w + importance_of(importance, j)
        store(symbols, j, where(x < 0.0, splat_i32(0), splat_i32(1)))
    store(symbols, s.size, f16_bits(round_to_f16(wx * reciprocal(w))))


def _trits() -> Ints:
    """The weights in each byte of TQ1_0, int32 (13, 4, 5): 48 bytes of five codes, 4 of four."""
    first = np.arange(160).reshape(5, 32).T
    second = 160 + np.arange(80).reshape(5, 16).T
    last = np.pad(240 + np.arange(16).reshape(4, 4).T, ((0, 0), (0, 1)), constant_values=-1)
    return np.ascontiguousarray(np.concatenate([first, second, last]).reshape(13, 4, 5), np.int32)


def _bit_pairs() -> Ints:
    """The weights in each byte of TQ2_0, int32 (16, 4, 4): four codes of two bits."""
    return np.ascontiguousarray(interleaved(256, 4, 32)[::-1].T, np.int32).reshape(16, 4, 4)


def _ternary_encoder(search: Ternary) -> BlockEncoder:
    """Make the encoder of a ternary type; its words of codes come before the scale."""
    count = len(search.codes)
    codes, d = whole_bytes(range(TERNARY + 1, TERNARY + 1 + count), 4), whole_bytes([TERNARY], 2)
    return block_encoder(TERNARY, TERNARY + 1 + count + SCRATCH, [codes, d], search, search._replace(absmax=True))


encode_tq2_0 = _ternary_encoder(Ternary(False, _bit_pairs(), 4, 1 << 14))
encode_tq1_0 = _ternary_encoder(Ternary(False, _trits(), 3, 17261))
_MEAN = Binary(BINARY)
_Q1_0_FIELDS = [whole_bytes([BINARY], 2), consecutive_bits(range(BINARY), 1)]
encode_q1_0 = block_encoder(BINARY, BINARY + 1, _Q1_0_FIELDS, _MEAN, absmax=_MEAN)
