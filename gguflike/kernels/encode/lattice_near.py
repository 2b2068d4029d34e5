"""Kernels: good codebook points at given scales, without a search: the nearest levels, or up to two moved by one.

For points of 8 weights with three levels. Each weight takes its nearest level. Where these are not a point of the
codebook, one weight moves to its second nearest level, or two do, of which one is among the two that it costs least to
move: the cheapest way to a point. This finds the best of all points for nearly all octets if many of the levels'
combinations are points: 2048 of 6561 in IQ1's codebook.

A key is what it costs to move a weight, a float32 whose last three bits say which weight: the least key is the
cheapest move.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels._jit import lean
from gguflike.kernels.encode.lattice_tables import POINT, Codebook
from gguflike.kernels.encode.permute import gather
from gguflike.kernels.lanes import bits, from_bits, int_lanes, lanes, load, magnitude, maximum, minimum, store, where

_MIDDLE = 3280  # the number with eight digits 1 in base 3
_FAR = np.float32(1e38)  # above every key


@lean
def _move(key: Any, down: Any) -> Any:
    """What the move of a key adds to the number of the digits. ``down``: bit i says that weight i moves down."""
    i = bits(key) & 7
    power = (i & 1) * 2 + 1
    power = power + (power << 3 & -(i >> 1 & 1))
    power = power + ((power << 6) + (power << 4) & -(i >> 2))
    sign = -(down >> i & 1)
    return (power ^ sign) - sign


@lean
def _ways(book: Codebook, number: Any, down: Any) -> Any:
    """Bit i: whether the move of weight i makes a point of the digits."""
    moves = gather(book.moves, number)
    return (moves ^ moves >> 8) & down ^ moves


@lean
def near(book: Codebook, t: int, f: Any, n: Any, y: int, w: int, scale: Any, cost: int, found: int) -> None:
    """Points for sixteen octets with shift ``t`` and a vector of scales: their words, to ``n``.

    ``cost`` in ``f``: room for eight vectors of keys.
    """
    middle = scale * ((book.levels[t, 0] + book.levels[t, 2]) * np.float32(0.25) + book.levels[t, 1] * np.float32(0.5))
    reach = scale * ((book.levels[t, 2] - book.levels[t, 0]) * np.float32(0.25))
    number, down = int_lanes(_MIDDLE), int_lanes(0)
    key1, key2 = lanes(_FAR), lanes(_FAR)  # the two cheapest
    power = np.int32(1)
    for i in range(8):
        z = load(f, y + i) - middle
        inside = reach - magnitude(z)
        below, outside = bits(z) >> 31, bits(inside) >> 31
        number = number + ((below ^ power) - below & outside)
        down = down | (below ^ outside) & np.int32(1 << i)
        key = from_bits(bits(magnitude(inside) * load(f, w + i)) & np.int32(-8) | np.int32(i))
        store(f, cost + i, key)
        key2 = minimum(maximum(key, key1), key2)
        key1 = minimum(key, key1)
        power = power * np.int32(3)
    move1, move2 = _move(key1, down), _move(key2, down)
    ways = _ways(book, number, down)
    ways1 = _ways(book, number + move1, down) & (int_lanes(1) << (bits(key1) & 7) ^ -1)
    ways2 = _ways(book, number + move2, down) & (int_lanes(1) << (bits(key2) & 7) ^ -1)
    alone, after1, after2 = lanes(_FAR), lanes(_FAR), lanes(_FAR)
    for i in range(8):
        key = load(f, cost + i)
        alone = where(ways << (31 - i) < 0, minimum(key, alone), alone)
        after1 = where(ways1 << (31 - i) < 0, minimum(key, after1), after1)
        after2 = where(ways2 << (31 - i) < 0, minimum(key, after2), after2)
    least, last, before = alone, alone, int_lanes(0)
    better = key1 + after1 < least
    least, last, before = where(better, key1 + after1, least), where(better, after1, last), where(better, move1, before)
    better = key2 + after2 < least
    least, last, before = where(better, key2 + after2, least), where(better, after2, last), where(better, move2, before)
    stays = (gather(book.moves, number) == POINT) | (least >= _FAR)
    word = gather(book.words, number + where(stays, int_lanes(0), before + _move(last, down)))
    store(n, found, word ^ (word >> 31))
