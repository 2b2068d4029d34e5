"""Blocks of two or three levels and one float16 scale: Q1_0 (-d, d), TQ1_0 and TQ2_0 (-d, 0, d), by exact optimum.

Binary: for given signs the best d is the (weighted) mean magnitude, and the signs are those of the weights.

Ternary: with the weights above a threshold away from zero, d is best as their mean magnitude, and the squares explained
are (sum w*|x|)**2 / sum w. For this d the threshold d / 2 is best: the optimum is a fixed point of threshold -> mean
above it / 2. The map is monotone, so no fixed point is passed by when it is applied from below and from above. A few
times each, and few weights are left between the two: they are sorted, and every threshold between them is tried.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import inner, lean
from gguflike.kernels.encode.driver import codec, register_codec
from gguflike.kernels.encode.layout import Slot, bit_string, planes, strided, whole
from gguflike.kernels.encode.search import (
    F16_MIN_NORMAL,
    HALF,
    LARGEST,
    clamp_tile,
    f16_bits,
    reciprocal,
    stored_scale,
    to_f16_grid,
    weight,
    weighted,
)
from gguflike.kernels.lanes import (
    LANES,
    any_lane,
    int_lanes,
    lanes,
    load,
    magnitude,
    make_tile,
    mask_bits,
    maximum,
    minimum,
    store,
    trailing_zeros,
    where,
)

TERNARY, BINARY = 256, 128
PASSES = 5
SLACK = np.float32(2.0**-18)  # for the rounding of sums
GAPS = (57, 23, 10, 4, 1)
Places = npt.NDArray[np.int32]


class Ternary(NamedTuple):
    """``textbook`` takes the largest magnitude for the scale, unrounded; ``trits``: the codes in each byte of TQ1_0."""

    textbook: bool
    trits: Places


class Binary(NamedTuple):
    """Blocks of ``size`` signs."""

    size: int


@lean
def largest(tile: Any, count: int) -> Any:
    """The largest magnitude."""
    size = lanes(0.0)
    for j in range(count):
        size = maximum(magnitude(load(tile, j)), size)
    return size


@lean
def between(tile: Any, weights: Any, top: Any) -> Any:
    """Bounds of the best threshold, by ``PASSES`` of the map from both ends; ``top`` is the largest magnitude."""
    low = lanes(0.0)
    high = top * HALF
    for _ in range(PASSES):
        if not any_lane(low < high):
            break
        wx1 = lanes(0.0)
        w1 = lanes(0.0)
        wx2 = lanes(0.0)
        w2 = lanes(0.0)
        for j in range(TERNARY):
            x = magnitude(load(tile, j))
            w = weight(weights, j)
            wx = weighted(weights, j, x)
            kept = x > low
            wx1 = wx1 + where(kept, wx, lanes(0.0))
            w1 = w1 + where(kept, w, lanes(0.0))
            kept = x > high
            wx2 = wx2 + where(kept, wx, lanes(0.0))
            w2 = w2 + where(kept, w, lanes(0.0))
        low = wx1 * reciprocal(w1) * HALF
        high = wx2 * reciprocal(w2) * HALF
    return low * (1.0 - SLACK), high * (1.0 + SLACK)


@inner
def best_ternary(tile: Any, weights: Any, top: Any, rest: Any, counts: Any) -> Any:
    """The scale of least squared error over all codes -1, 0, 1.

    ``rest`` (16, 256, 2) and ``counts`` (16,): room for the magnitudes between the bounds, with their weights.
    """
    low, high = between(tile, weights, top)
    counts[:] = 0
    wx = lanes(0.0)
    w = lanes(0.0)
    for j in range(TERNARY):
        x = magnitude(load(tile, j))
        kept = x > high
        wx = wx + where(kept, weighted(weights, j, x), lanes(0.0))
        w = w + where(kept, weight(weights, j), lanes(0.0))
        inside = mask_bits((x > low) & (x <= high))
        while inside != 0:
            lane = trailing_zeros(inside)
            inside &= inside - 1
            place = counts[lane]
            rest[lane, place, 0] = abs(tile[j * LANES + lane])
            rest[lane, place, 1] = 1.0 if weights is None else weights[j * LANES + lane]
            counts[lane] = place + 1
    best = make_tile(3)
    store(best, 0, wx)
    store(best, 1, w)
    for lane in range(LANES):
        best[2 * LANES + lane] = best_mean(best[lane], best[LANES + lane], rest[lane, : counts[lane]])
    return load(best, 2)


@lean
def best_mean(wx: float, w: float, more: Any) -> float:
    """The mean wx / w that explains most squares, wx**2 / w, once any number of ``more`` (x, w) in falling order of x
    are added to the sums. Sorts ``more``."""
    count = len(more)
    for gap in GAPS:
        for i in range(gap, count):
            x, v = more[i, 0], more[i, 1]
            k = i
            while k >= gap and more[k - gap, 0] < x:
                more[k, 0] = more[k - gap, 0]
                more[k, 1] = more[k - gap, 1]
                k -= gap
            more[k, 0] = x
            more[k, 1] = v
    best_wx, best_w = (wx, w) if w > 0.0 else (np.float32(0.0), np.float32(1.0))
    for i in range(count):
        wx += more[i, 0] * more[i, 1]
        w += more[i, 1]
        if wx * wx * best_w > best_wx * best_wx * w:
            best_wx, best_w = wx, w
    return best_wx / best_w


@lean
def ternary_error(tile: Any, weights: Any, d: Any) -> Any:
    """Squared error with the nearest of -d, 0, d."""
    total = lanes(0.0)
    for j in range(TERNARY):
        size = magnitude(load(tile, j))
        rest = size - where(size > d * HALF, d, lanes(0.0))
        total = total + rest * weighted(weights, j, rest)
    return total


@lean
def put_codes(tile: Any, symbols: Any, scale: Any, half: Any) -> None:
    """Codes 0 .. 2 of the weights: away from zero where |x| * scale is at least ``half``."""
    for j in range(TERNARY):
        t = load(tile, j) * scale
        store(symbols, j, where(t >= half, int_lanes(2), where(t <= -half, int_lanes(0), int_lanes(1))))


@lean
def put_trits(symbols: Any, trits: Any) -> None:
    """Bytes of TQ1_0 from the codes, after them and the scale: five trits as ceil(256 / 243 * number in base 3)."""
    for b in range(trits.shape[0]):
        number = int_lanes(0)
        for k in range(trits.shape[1]):
            number = number * 3
            if trits[b, k] >= 0:
                number = number + load(symbols, trits[b, k])
        store(symbols, TERNARY + 1 + b, (number * 17261 + 16383) >> 14)


@codec(Ternary)
def ternary_lanes(group: int, tile: Any, weights: Any, symbols: Any, s: Ternary) -> None:
    """Symbols: codes 0 .. 2, the scale, then a byte for every row of ``trits``."""
    top = largest(tile, TERNARY)
    if s.textbook:
        put_codes(tile, symbols, where(top == 0.0, lanes(0.0), 1.0 / where(top == 0.0, lanes(1.0), top)), HALF)
        d = to_f16_grid(top)
    else:
        clamp_tile(tile, TERNARY, top)
        rest = np.empty((LANES, TERNARY, 2), np.float32)
        counts = np.empty(LANES, np.int64)
        top = minimum(top, lanes(LARGEST))
        d = stored_scale(best_ternary(tile, weights, top, rest, counts))
        if any_lane(d < F16_MIN_NORMAL):  # float16's steps are so wide there that the plain rule's scale may be nearer
            plain = to_f16_grid(top)
            worse = ternary_error(tile, weights, plain) < ternary_error(tile, weights, d)
            d = where(worse, plain, d)
        put_codes(tile, symbols, reciprocal(d), HALF)
    store(symbols, TERNARY, f16_bits(d))
    put_trits(symbols, s.trits)


@codec(Binary)
def binary_lanes(group: int, tile: Any, weights: Any, symbols: Any, s: Binary) -> None:
    """Symbols: bits (1 for +d), then the scale."""
    clamp_tile(tile, s.size, largest(tile, s.size))
    wx = lanes(0.0)
    w = lanes(0.0)
    for j in range(s.size):
        v = load(tile, j)
        wx = wx + weighted(weights, j, magnitude(v))
        w = w + weight(weights, j)
        store(symbols, j, where(v < 0.0, int_lanes(0), int_lanes(1)))
    store(symbols, s.size, f16_bits(to_f16_grid(wx * reciprocal(w))))


def _trits() -> Places:
    """(52, 5): the codes in each byte of TQ1_0, most significant first, -1 for none: 48 bytes of five, 4 of four."""
    first = np.arange(160).reshape(5, 32).T
    second = 160 + np.arange(80).reshape(5, 16).T
    last = np.pad(240 + np.arange(16).reshape(4, 4).T, ((0, 0), (0, 1)), constant_values=-1)
    return np.concatenate([first, second, last]).astype(np.int32)


def _register_ternary(name: str, trits: Places, fields: list[list[list[Slot]]]) -> None:
    search = Ternary(False, trits)
    register_codec(name, TERNARY, TERNARY + 1 + len(trits), fields, search, textbook=search._replace(textbook=True))


_D = whole([TERNARY], 2)
_register_ternary("TQ2_0", _trits()[:0], [planes(strided(256, 4, 32), 2), _D])
_register_ternary("TQ1_0", _trits(), [whole(range(TERNARY + 1, TERNARY + 53)), _D])
_MEAN = Binary(BINARY)
register_codec("Q1_0", BINARY, BINARY + 1, [whole([BINARY], 2), bit_string(range(BINARY), 1)], _MEAN, textbook=_MEAN)
