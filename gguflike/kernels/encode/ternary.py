"""Blocks of two or three levels and one float16 scale: Q1_0 (-d, d), TQ1_0 and TQ2_0 (-d, 0, d), by exact optimum.

Binary: for given signs the best d is the (weighted) mean magnitude, and the signs are those of the weights.

Ternary: with the weights above a threshold away from zero, d is best as their mean magnitude, and the squares explained
are (sum w*|x|)**2 / sum w. For this d the threshold d / 2 is best: the optimum is a fixed point of threshold -> mean
above it / 2. The map is monotone, so no fixed point is passed by when it is applied from below and from above until it
stands still. Few are between the least and the greatest: from below, the search goes on past one weight at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import inner
from gguflike.kernels.encode.driver import codec, register_codec
from gguflike.kernels.encode.layout import Slot, bit_string, planes, strided, whole
from gguflike.kernels.encode.search import (
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
    any_lane,
    fma,
    int_lanes,
    lanes,
    load,
    magnitude,
    maximum,
    minimum,
    store,
    where,
)

TERNARY, BINARY = 256, 128
Places = npt.NDArray[np.int32]


class Ternary(NamedTuple):
    """``textbook`` takes the largest magnitude for the scale, unrounded; ``trits``: the codes in each byte of TQ1_0."""

    textbook: bool
    trits: Places


class Binary(NamedTuple):
    """Blocks of ``size`` signs."""

    size: int


@inner
def largest(tile: Any, count: int) -> Any:
    """The largest magnitude."""
    size = lanes(0.0)
    for j in range(count):
        size = maximum(magnitude(load(tile, j)), size)
    return size


@inner
def best_ternary(tile: Any, weights: Any, top: Any) -> Any:
    """The scale of least squared error over all codes -1, 0, 1; ``top`` is the largest magnitude."""
    low = lanes(0.0)
    high = top * HALF
    best_wx = lanes(0.0)
    best_w = lanes(1.0)
    searching = True
    while searching:
        wx1 = lanes(0.0)
        w1 = lanes(0.0)
        wx2 = lanes(0.0)
        w2 = lanes(0.0)
        above = lanes(np.float32(np.inf))  # the least magnitude above ``low``
        for j in range(TERNARY):
            x = magnitude(load(tile, j))
            w = weight(weights, j)
            wx = weighted(weights, j, x)
            kept = x > low
            wx1 = wx1 + where(kept, wx, lanes(0.0))
            w1 = w1 + where(kept, w, lanes(0.0))
            above = minimum(where(kept, x, above), above)
            kept = x > high
            wx2 = wx2 + where(kept, wx, lanes(0.0))
            w2 = w2 + where(kept, w, lanes(0.0))
        better = wx1 * wx1 * best_w > best_wx * best_wx * w1
        best_wx = where(better, wx1, best_wx)
        best_w = where(better, w1, best_w)
        better = wx2 * wx2 * best_w > best_wx * best_wx * w2
        best_wx = where(better, wx2, best_wx)
        best_w = where(better, w2, best_w)
        next_high = minimum(wx2 * reciprocal(w2) * HALF, high)
        low = maximum(wx1 * reciprocal(w1) * HALF, above)
        searching = any_lane((next_high < high) | (low < next_high))
        high = next_high
    return best_wx / best_w


@inner
def ternary_errors(tile: Any, weights: Any, d1: Any, d2: Any) -> Any:
    """Squared errors with the nearest of -d, 0, d, for two scales."""
    total1 = lanes(0.0)
    total2 = lanes(0.0)
    for j in range(TERNARY):
        size = magnitude(load(tile, j))
        rest1 = size - where(size > d1 * HALF, d1, lanes(0.0))
        rest2 = size - where(size > d2 * HALF, d2, lanes(0.0))
        total1 = fma(rest1, weighted(weights, j, rest1), total1)
        total2 = fma(rest2, weighted(weights, j, rest2), total2)
    return total1, total2


@inner
def put_codes(tile: Any, symbols: Any, scale: Any, half: Any) -> None:
    """Codes 0 .. 2 of the weights: away from zero where |x| * scale is at least ``half``."""
    for j in range(TERNARY):
        t = load(tile, j) * scale
        store(symbols, j, where(t >= half, int_lanes(2), where(t <= -half, int_lanes(0), int_lanes(1))))


@inner
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
        top = minimum(top, lanes(LARGEST))
        d = stored_scale(best_ternary(tile, weights, top))
        plain = to_f16_grid(top)
        found, plainly = ternary_errors(tile, weights, d, plain)
        d = where(plainly < found, plain, d)
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
