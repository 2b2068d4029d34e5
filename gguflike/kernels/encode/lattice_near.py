"""Kernels: good codebook points at given scales, without a search: the nearest levels, or up to two moved by one.

For points of 8 weights with three levels. Each weight takes its nearest level. Where these are not a point of the
codebook, one weight moves to its second nearest level, or two do, of which one is among the two that it costs least to
move: the cheapest way to a point. This finds the best of all points for nearly all octets if many of the levels'
combinations are points: 2048 of 6561 in IQ1's codebook.

A key is what it costs to move a weight, a float32 whose last three bits say which weight: the least key is the
cheapest move. Sixteen octets go through three steps, which wait for memory; callers take each step for all octets
before the next. Between steps a trial stands in memory: ``keys``, a place in ``f``: keys of the eight weights, the two
least ones, the error; ``marks``, a place in ``n``: a number in base 3 with a digit per weight, bits of the weights
that would move down, and bits of the weights whose move makes a point: alone, after the cheapest one, after the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels._jit import inlined, lean
from gguflike.kernels.encode.lattice_tables import POINT, Codebook
from gguflike.kernels.encode.permute import gather
from gguflike.kernels.lanes import (
    bits,
    fma,
    from_bits,
    int_lanes,
    lanes,
    load,
    magnitude,
    maximum,
    minimum,
    store,
    where,
)

KEYS, MARKS = 11, 5  # vectors of a trial
_LEAST, _SECOND, ERROR = 8, 9, 10
NUMBER, _DOWN, _ALONE, _AFTER1, _AFTER2 = 0, 1, 2, 3, 4
_MIDDLE = 3280  # the number with eight digits 1
_FAR = np.float32(1e30)  # above every key


@lean
def _reach(book: Codebook, scale: Any) -> Any:
    """Half of what lies between two levels."""
    return scale * ((book.levels[0, 2] - book.levels[0, 0]) * np.float32(0.25))


@inlined
def take_levels(book: Codebook, offset: Any, f: Any, n: Any, y: int, w: int, scale: Any, keys: int, marks: int) -> None:
    """First step: the nearest levels, ``offset`` from the first shift's, at a vector of scales; and what moves cost."""
    levels = book.levels
    middle = scale * (((levels[0, 0] + levels[0, 2]) * np.float32(0.25) + levels[0, 1] * np.float32(0.5)) + offset)
    reach = _reach(book, scale)
    number, down = int_lanes(_MIDDLE), int_lanes(0)
    least, second, error = lanes(_FAR), lanes(_FAR), lanes(np.float32(0))
    power = np.int32(1)
    for i in range(8):
        z, importance = load(f, y + i) - middle, load(f, w + i)
        inside = reach - magnitude(z)
        below, outside = bits(z) >> 31, bits(inside) >> 31
        number = number + ((below ^ power) - below & outside)
        down = down | (below ^ outside) & np.int32(1 << i)
        off = magnitude(inside)
        rest = reach - off
        error = fma(rest * rest, importance, error)
        key = from_bits(bits(off * importance) & np.int32(-8) | np.int32(i))
        store(f, keys + i, key)
        second = minimum(maximum(key, least), second)
        least = minimum(key, least)
        power = power * np.int32(3)
    store(f, keys + _LEAST, least)
    store(f, keys + _SECOND, second)
    store(f, keys + ERROR, error)
    store(n, marks + NUMBER, number)
    store(n, marks + _DOWN, down)


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


@inlined
def find_ways(book: Codebook, f: Any, n: Any, keys: int, marks: int) -> None:
    """Second step: which moves make a point."""
    number, down = load(n, marks + NUMBER), load(n, marks + _DOWN)
    store(n, marks + _ALONE, _ways(book, number, down))
    for k in range(2):
        key = load(f, keys + _LEAST + k)
        other = int_lanes(1) << (bits(key) & 7) ^ -1
        store(n, marks + _AFTER1 + k, _ways(book, number + _move(key, down), down) & other)


@inlined
def take_way(book: Codebook, f: Any, n: Any, scale: Any, keys: int, marks: int) -> None:
    """Last step: the number of the best point found, and its error; where none is found, of levels that are none."""
    number, down = load(n, marks + NUMBER), load(n, marks + _DOWN)
    ways, ways1, ways2 = load(n, marks + _ALONE), load(n, marks + _AFTER1), load(n, marks + _AFTER2)
    alone, after1, after2 = lanes(_FAR), lanes(_FAR), lanes(_FAR)
    for i in range(8):
        key = load(f, keys + i)
        alone = where(ways << (31 - i) < 0, minimum(key, alone), alone)
        after1 = where(ways1 << (31 - i) < 0, minimum(key, after1), after1)
        after2 = where(ways2 << (31 - i) < 0, minimum(key, after2), after2)
    cost, last, before = alone, alone, int_lanes(0)
    key1, key2 = load(f, keys + _LEAST), load(f, keys + _SECOND)
    better = key1 + after1 < cost
    cost, last = where(better, key1 + after1, cost), where(better, after1, last)
    before = where(better, _move(key1, down), before)
    better = key2 + after2 < cost
    cost, last = where(better, key2 + after2, cost), where(better, after2, last)
    before = where(better, _move(key2, down), before)
    there = ways >= np.int32(POINT)
    move = where(there | (cost >= _FAR), int_lanes(0), before + _move(last, down))
    store(n, marks + NUMBER, number + move)
    cost = where(there, lanes(np.float32(0)), cost)
    error = fma(cost, _reach(book, scale) * np.float32(4), load(f, keys + ERROR))
    store(f, keys + ERROR, minimum(error, lanes(_FAR)))
