"""Blocks of two or three levels and one float16 scale: Q1_0 (-d, d), TQ1_0 and TQ2_0 (-d, 0, d), by exact optimum.

Binary: for given signs the best d is the (weighted) mean magnitude, and the signs are those of the weights.

Ternary: with k weights away from zero the error is least when they are the k of largest magnitude, d is their mean and
the squares explained are (sum w*|x|)**2 / sum w. So sort by magnitude and take the best k over all of them. The lanes
sort sixteen blocks at once with Batcher's odd-even merge network, which has no branches on data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import inner
from gguflike.kernels.encode.driver import codec, register_codec, weight_tile
from gguflike.kernels.encode.layout import Slot, bit_string, planes, strided, whole
from gguflike.kernels.encode.scale import extreme
from gguflike.kernels.encode.search import (
    HALF,
    clamp_tile,
    f16_bits,
    reciprocal,
    stored_scale,
    to_f16_grid,
    weight,
    weighted,
)
from gguflike.kernels.lanes import (
    fma,
    int_lanes,
    lanes,
    load,
    magnitude,
    make_tile,
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
    network: Places
    trits: Places


class Binary(NamedTuple):
    """Blocks of ``size`` signs."""

    size: int


def merge_network(count: int) -> Places:
    """Batcher's odd-even merge network for ``count`` (a power of two) values: (comparisons, 2) positions, in order."""
    pairs = []
    run = 1
    while run < count:
        gap = run
        while gap > 0:
            for first in range(gap % run, count - gap, 2 * gap):
                for i in range(first, min(first + gap, count - gap)):
                    if i // (2 * run) == (i + gap) // (2 * run):
                        pairs.append((i, i + gap))
            gap //= 2
        run *= 2
    return np.array(pairs, np.int32)


@inner
def sort_lanes(keys: Any, carried: Any, network: Any) -> None:
    """Sort the rows of each lane in descending order; ``carried`` (or None) moves along."""
    for p in range(network.shape[0]):
        i = network[p, 0]
        j = network[p, 1]
        a = load(keys, i)
        b = load(keys, j)
        store(keys, i, maximum(a, b))
        store(keys, j, minimum(a, b))
        if carried is not None:
            u = load(carried, i)
            v = load(carried, j)
            store(carried, i, where(a > b, u, v))
            store(carried, j, where(a > b, v, u))


@inner
def best_ternary(tile: Any, weights: Any, keys: Any, carried: Any, network: Any) -> Any:
    """The scale of least squared error over all codes -1, 0, 1."""
    for j in range(TERNARY):
        store(keys, j, magnitude(load(tile, j)))
        if carried is not None:
            store(carried, j, load(weights, j))
    sort_lanes(keys, carried, network)
    wx = lanes(0.0)
    w = lanes(0.0)
    best_wx = lanes(0.0)
    best_w = lanes(1.0)
    for k in range(TERNARY):
        one = weight(carried, k)
        wx = fma(one, load(keys, k), wx)
        w = w + one
        better = wx * wx * best_w > best_wx * best_wx * w
        best_wx = where(better, wx, best_wx)
        best_w = where(better, w, best_w)
    return best_wx / best_w


@inner
def ternary_error(tile: Any, weights: Any, d: Any) -> Any:
    """Squared error with the nearest of -d, 0, d."""
    total = lanes(0.0)
    for j in range(TERNARY):
        size = magnitude(load(tile, j))
        rest = size - where(size > d * HALF, d, lanes(0.0))
        total = fma(rest, weighted(weights, j, rest), total)
    return total


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
    top = magnitude(extreme(tile, 0, TERNARY))
    if s.textbook:
        put_codes(tile, symbols, where(top == 0.0, lanes(0.0), 1.0 / where(top == 0.0, lanes(1.0), top)), HALF)
        d = to_f16_grid(top)
    else:
        clamp_tile(tile, TERNARY, top)
        keys = make_tile(TERNARY)
        carried = weight_tile(weights, TERNARY)
        d = stored_scale(best_ternary(tile, weights, keys, carried, s.network))
        plain = to_f16_grid(top)
        worse = ternary_error(tile, weights, plain) < ternary_error(tile, weights, d)
        d = where(worse, plain, d)
        put_codes(tile, symbols, reciprocal(d), HALF)
    store(symbols, TERNARY, f16_bits(d))
    put_trits(symbols, s.trits)


@codec(Binary)
def binary_lanes(group: int, tile: Any, weights: Any, symbols: Any, s: Binary) -> None:
    """Symbols: bits (1 for +d), then the scale."""
    clamp_tile(tile, s.size, magnitude(extreme(tile, 0, s.size)))
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
    search = Ternary(False, merge_network(TERNARY), trits)
    register_codec(name, TERNARY, TERNARY + 1 + len(trits), fields, search, textbook=search._replace(textbook=True))


_D = whole([TERNARY], 2)
_register_ternary("TQ2_0", _trits()[:0], [planes(strided(256, 4, 32), 2), _D])
_register_ternary("TQ1_0", _trits(), [whole(range(TERNARY + 1, TERNARY + 53)), _D])
_MEAN = Binary(BINARY)
register_codec("Q1_0", BINARY, BINARY + 1, [whole([BINARY], 2), bit_string(range(BINARY), 1)], _MEAN, textbook=_MEAN)
