"""Blocks of two or three levels and one float16 scale: Q1_0 (-d, d), TQ1_0 and TQ2_0 (-d, 0, d), by exact optimum.

Binary: for given signs the best d is the (weighted) mean magnitude, and the signs are those of the weights.

Ternary: with k weights away from zero the error is least when they are the k of largest magnitude, d is their mean and
the squares explained are (sum w*|x|)**2 / sum w. So sort by magnitude and take the best k over all of them. The lanes
sort sixteen blocks at once with Batcher's odd-even merge network, which has no branches on data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import inner, jit, run_rows
from gguflike.kernels.dispatch import register
from gguflike.kernels.encode.layout import Layout, bit_string, layout, planes, strided, whole
from gguflike.kernels.encode.scale import extreme
from gguflike.kernels.encode.search import (
    HALF,
    clamp_tile,
    f16_bits,
    groups_of,
    load_blocks,
    load_weights,
    pack,
    reciprocal,
    stored_scale,
    to_f16_grid,
    weight,
    weight_tile,
    weighted,
)
from gguflike.kernels.lanes import (
    LANES,
    fma,
    int_lanes,
    lanes,
    load,
    magnitude,
    make_int_tile,
    make_tile,
    maximum,
    minimum,
    store,
    where,
)

Array = npt.NDArray[Any]
TERNARY, BINARY = 256, 128


def merge_network(count: int) -> npt.NDArray[np.int32]:
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


@jit
def ternary_groups(
    start: int, stop: int, x: Any, weights: Any, out: Any, textbook: bool, network: Any, trits: Any,
    places: Any,
) -> None:  # fmt: skip
    """Encode groups of sixteen ternary blocks; ``textbook`` takes the largest magnitude for the scale, unrounded.

    Symbols: codes 0 .. 2, the scale, then a byte for every row of ``trits``.
    """
    blocks = len(x) // TERNARY
    tile = make_tile(TERNARY)
    wtile = weight_tile(weights, TERNARY)
    keys = make_tile(TERNARY)
    carried = weight_tile(weights, TERNARY)
    symbols = make_int_tile(TERNARY + 1 + trits.shape[0])
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, TERNARY, x, tile, starts)
        top = magnitude(extreme(tile, 0, TERNARY))
        if textbook:
            put_codes(tile, symbols, where(top == 0.0, lanes(0.0), 1.0 / where(top == 0.0, lanes(1.0), top)), HALF)
            d = to_f16_grid(top)
        else:
            load_weights(group, blocks, TERNARY, weights, wtile, starts)
            clamp_tile(tile, TERNARY, top)
            d = stored_scale(best_ternary(tile, wtile, keys, carried, network))
            plain = to_f16_grid(top)
            worse = ternary_error(tile, wtile, plain) < ternary_error(tile, wtile, d)
            d = where(worse, plain, d)
            put_codes(tile, symbols, reciprocal(d), HALF)
        store(symbols, TERNARY, f16_bits(d))
        put_trits(symbols, trits)
        pack(group, blocks, symbols, places, out, scratch)


@jit
def binary_groups(start: int, stop: int, x: Any, weights: Any, out: Any, places: Any) -> None:
    """Encode groups of sixteen binary blocks. Symbols: bits (1 for +d), then the scale."""
    blocks = len(x) // BINARY
    tile = make_tile(BINARY)
    wtile = weight_tile(weights, BINARY)
    symbols = make_int_tile(BINARY + 1)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, BINARY, x, tile, starts)
        load_weights(group, blocks, BINARY, weights, wtile, starts)
        clamp_tile(tile, BINARY, magnitude(extreme(tile, 0, BINARY)))
        wx = lanes(0.0)
        w = lanes(0.0)
        for j in range(BINARY):
            v = load(tile, j)
            wx = wx + weighted(wtile, j, magnitude(v))
            w = w + weight(wtile, j)
            store(symbols, j, where(v < 0.0, int_lanes(0), int_lanes(1)))
        store(symbols, BINARY, f16_bits(to_f16_grid(wx * reciprocal(w))))
        pack(group, blocks, symbols, places, out, scratch)


def _trits() -> npt.NDArray[np.int32]:
    """(52, 5): the codes in each byte of TQ1_0, most significant first, -1 for none: 48 bytes of five, 4 of four."""
    first = np.arange(160).reshape(5, 32).T
    second = 160 + np.arange(80).reshape(5, 16).T
    last = np.pad(240 + np.arange(16).reshape(4, 4).T, ((0, 0), (0, 1)), constant_values=-1)
    return np.concatenate([first, second, last]).astype(np.int32)


def _register_ternary(name: str, trits: npt.NDArray[np.int32], plan: Layout) -> None:
    network = merge_network(TERNARY)

    @register("encode", name)
    def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
        textbook = method == "absmax"
        args = (x.reshape(-1), None if textbook else weights, out.reshape(-1), textbook, network, trits)
        run_rows(ternary_groups, groups_of(x.size // TERNARY), *args, plan, threads=threads)


def _register_binary(name: str, plan: Layout) -> None:
    @register("encode", name)
    def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
        args = (x.reshape(-1), None if method == "absmax" else weights, out.reshape(-1))
        run_rows(binary_groups, groups_of(x.size // BINARY), *args, plan, threads=threads)


_D = whole([TERNARY], 2)
_register_ternary("TQ2_0", _trits()[:0], layout([planes(strided(256, 4, 32), 2), _D]))
_register_ternary("TQ1_0", _trits(), layout([whole(range(TERNARY + 1, TERNARY + 53)), _D]))
_register_binary("Q1_0", layout([whole([BINARY], 2), bit_string(range(BINARY), 1)]))
