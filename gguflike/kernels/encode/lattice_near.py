"""Kernels: good codebook points at given scales, without a search: the nearest levels, or up to two moved by one.

For points of 8 weights with three levels. Each weight takes its nearest level. Where these are not a point of the
codebook, one weight moves to its second nearest level, or two do, of which one is among the two that it costs least to
move: the cheapest way to a point. This finds the best of all points for nearly all octets if many of the levels'
combinations are points: 2048 of 6561 in IQ1's codebook.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels._jit import lean
from gguflike.kernels.encode.lattice_tables import POINT, Codebook
from gguflike.kernels.encode.permute import gather
from gguflike.kernels.lanes import bits, int_lanes, lanes, load, magnitude, minimum, store, where

_MIDDLE = 3280  # the number with eight digits 1 in base 3
_INFINITY = np.float32(np.inf)


@lean
def near(book: Codebook, t: int, f: Any, n: Any, y: int, w: int, scale: Any, cost: int, down: int, found: int) -> None:
    """Points for sixteen octets with shift ``t`` and a vector of scales: their words, to ``n``.

    ``cost`` in ``f`` and ``down`` in ``n``: room for eight vectors, the price and the direction of moving each weight.
    """
    middle = scale * book.levels[t, 1]
    reach = scale * ((book.levels[t, 2] - book.levels[t, 0]) * np.float32(0.25))
    number = int_lanes(_MIDDLE)
    cost1, cost2 = lanes(_INFINITY), lanes(_INFINITY)  # of the two that it costs least to move
    move1, move2, digit1, digit2 = int_lanes(0), int_lanes(0), int_lanes(0), int_lanes(0)
    power, digit = np.int32(1), np.int32(257)
    for i in range(8):
        z = load(f, y + i) - middle
        beyond = magnitude(z) - reach
        below, outside = bits(z) >> 31, bits(-beyond) >> 31
        number = number + ((below ^ power) - below & outside)
        sign = below ^ outside
        price = magnitude(beyond) * load(f, w + i)
        store(f, cost + i, price)
        store(n, down + i, sign)
        move = (sign ^ power) - sign
        first, second = price < cost1, price < cost2
        digit2 = where(first, digit1, where(second, int_lanes(digit), digit2))
        move2 = where(first, move1, where(second, move, move2))
        cost2 = where(first, cost1, minimum(price, cost2))
        digit1, move1 = where(first, int_lanes(digit), digit1), where(first, move, move1)
        cost1 = minimum(price, cost1)
        power, digit = power * np.int32(3), digit * np.int32(2)
    ways = gather(book.moves, number)
    ways1 = gather(book.moves, number + move1) & (digit1 ^ -1)
    ways2 = gather(book.moves, number + move2) & (digit2 ^ -1)
    least = lanes(_INFINITY)
    best = int_lanes(0)
    power, up = np.int32(1), np.int32(1)
    for i in range(8):
        sign = load(n, down + i)
        way = sign & np.int32(up * 257) ^ up
        alone, after1, after2 = ways & way != 0, ways1 & way != 0, ways2 & way != 0
        before = where(alone, lanes(np.float32(0)), where(after1, cost1, where(after2, cost2, lanes(_INFINITY))))
        move = where(alone, int_lanes(0), where(after1, move1, move2)) + ((sign ^ power) - sign)
        price = load(f, cost + i) + before
        best = where(price < least, move, best)
        least = minimum(price, least)
        power, up = power * np.int32(3), up * np.int32(2)
    word = gather(book.words, number + where(ways == np.int32(POINT), int_lanes(0), best))
    store(n, found, word ^ (word >> 31))
