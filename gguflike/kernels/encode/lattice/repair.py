"""Kernels: good codebook points at given scales, without a search: the nearest levels, or up to two moved by one.

For points of 8 weights with three levels. Each weight takes its nearest level. Where these are not a point of the
codebook, one weight moves to its second nearest level, or two do, of which one is among the two that it costs least to
move: the cheapest way to a point. This finds the best of all points for nearly all octets if many of the levels'
combinations are points: 2048 of 6561 in IQ1's codebook.

All 32 octets of a block go side by side, one per int16 lane. A key is what it costs to move a weight, whose last four
bits say whether it moves down, and which weight it is: the least key is the cheapest move. A trial (the points for one
shift) goes through three steps, which wait for memory; callers take each step for all trials before the next.

``h`` is an int16 tile, from ``near`` on: the weights and their importance, 8 vectors each, then trials: keys of the
eight weights, the two least ones; a number in base 3 with a digit per weight; bits of the weights that would move down,
and of those whose move makes a point: alone, after the cheapest one, after the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.encode.lattice.codebook import POINT, Codebook
from gguflike.kernels.encode.rounding import MAGIC
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import gather, load, load_i16, store_i16
from gguflike.kernels.vector.int16 import (
    abs_i16,
    add_saturate,
    max_i16,
    min_i16,
    narrow,
    narrow_magic,
    rounded_product,
    splat_i16,
    where_equal,
    where_greater,
    widen_high,
    widen_low,
)
from gguflike.kernels.vector.lanes import fma, maximum, splat
from gguflike.kernels.vector.sizes import I16_LANES

_SHARES, _TRIALS, _TRIAL = 8 * I16_LANES, 16 * I16_LANES, 15 * I16_LANES
_LEAST, _SECOND, NUMBER, _DOWN, _ALONE, _AFTER1, _AFTER2 = (i * I16_LANES for i in range(8, 15))
_MIDDLE = 3280  # the number with eight digits 1
_UNIT = 1 << 14  # what lies between two levels
_FAR = (1 << 15) - 1  # no key is above
_TINY = np.float32(1e-30)


def elements(trials: int) -> int:
    """Elements of ``h`` for so many trials."""
    return _TRIALS + trials * _TRIAL


@lean
def trial_at(near: int, trial: int) -> int:
    """Where a trial stands in ``h``."""
    return near + _TRIALS + trial * _TRIAL


@lean
def take_shares(f: Any, w: int, h: Any, near: int) -> None:
    """The importance of weights, relative to the largest of their octets."""
    most0, most1 = splat(_TINY), splat(_TINY)
    for i in range(w, w + 8):
        most0, most1 = maximum(load(f, i), most0), maximum(load(f, i + 8), most1)
    factor0, factor1 = splat(np.float32(_FAR)) / most0, splat(np.float32(_FAR)) / most1
    for i in range(8):
        share0, share1 = fma(load(f, w + i), factor0, splat(MAGIC)), fma(load(f, w + 8 + i), factor1, splat(MAGIC))
        store_i16(h, near + _SHARES + i * I16_LANES, narrow_magic(share0, share1))


@lean(forceinline=True)
def take_values(levels: Any, f: Any, y: int, scales: Any, h: Any, near: int) -> None:
    """The weights, from the first shift's middle level, in units of what lies between levels; two vectors of scales."""
    between = (levels[0, 2] - levels[0, 0]) * np.float32(0.5)
    middle = (levels[0, 0] + levels[0, 2]) * np.float32(0.25) + levels[0, 1] * np.float32(0.5)
    zero = MAGIC - np.float32(_UNIT) * middle / between
    factor0 = splat(np.float32(_UNIT)) / maximum(scales[0] * between, splat(_TINY))
    factor1 = splat(np.float32(_UNIT)) / maximum(scales[1] * between, splat(_TINY))
    least = splat(MAGIC - np.float32(_FAR))
    for i in range(8):
        value0, value1 = fma(load(f, y + i), factor0, splat(zero)), fma(load(f, y + 8 + i), factor1, splat(zero))
        store_i16(h, near + i * I16_LANES, narrow_magic(maximum(value0, least), maximum(value1, least)))


@lean(forceinline=True)
def take_levels(levels: Any, t: int, h: Any, near: int, at: int) -> None:
    """First step: the nearest levels with shift ``t``, and what moves cost."""
    shift = (levels[0, 0] - levels[t, 0]) / ((levels[0, 2] - levels[0, 0]) * np.float32(0.5))
    back = splat_i16(np.intp(shift * np.float32(_UNIT)))
    number, down = splat_i16(_MIDDLE), splat_i16(0)
    least, second = splat_i16(_FAR), splat_i16(_FAR)
    power = 1
    for i in range(8):
        z = add_saturate(load_i16(h, near + i * I16_LANES), back)
        inside = splat_i16(_UNIT >> 1) - abs_i16(z)
        below, outside = z >> splat_i16(15), inside >> splat_i16(15)
        number = number + ((below ^ splat_i16(power)) - below & outside)
        moves_down = below ^ outside
        down = down | moves_down & splat_i16(1 << i)
        cost = rounded_product(abs_i16(inside), load_i16(h, near + _SHARES + i * I16_LANES))
        key = cost & splat_i16(-16) | moves_down & splat_i16(8) | splat_i16(i)
        store_i16(h, at + i * I16_LANES, key)
        second = min_i16(max_i16(key, least), second)
        least = min_i16(key, least)
        power *= 3
    store_i16(h, at + _LEAST, least)
    store_i16(h, at + _SECOND, second)
    store_i16(h, at + NUMBER, number)
    store_i16(h, at + _DOWN, down)


@lean
def _bit(key: Any, i: int) -> Any:
    """All bits of a lane are bit ``i`` of its key."""
    return key << splat_i16(15 - i) >> splat_i16(15)


@lean
def _move(key: Any) -> Any:
    """What the move of a key adds to the number of the digits."""
    power = (key & splat_i16(1)) + (key & splat_i16(1)) + splat_i16(1)
    power = power + (power << splat_i16(3) & _bit(key, 1))
    power = power + ((power << splat_i16(6)) + (power << splat_i16(4)) & _bit(key, 2))
    sign = _bit(key, 3)
    return (power ^ sign) - sign


@lean
def _weight(key: Any) -> Any:
    """The bit of the weight that a key is of."""
    bit = (key & splat_i16(1)) + splat_i16(1)
    bit = bit + ((bit << splat_i16(2)) - bit & _bit(key, 1))
    return bit + ((bit << splat_i16(4)) - bit & _bit(key, 2))


@lean
def _ways(book: Codebook, number: Any, down: Any) -> Any:
    """Bit i: whether the move of weight i makes a point of the digits; all bits where they are one."""
    moves = narrow(gather(book.moves, widen_low(number)), gather(book.moves, widen_high(number)))
    ways = ((moves ^ moves >> splat_i16(8)) & down ^ moves) & splat_i16(255)
    return where_equal(moves, splat_i16(POINT), splat_i16(-1), ways)


@lean(forceinline=True)
def find_ways(book: Codebook, h: Any, at: int) -> None:
    """Second step: which moves make a point."""
    number, down = load_i16(h, at + NUMBER), load_i16(h, at + _DOWN)
    store_i16(h, at + _ALONE, _ways(book, number, down))
    for k in range(0, 2 * I16_LANES, I16_LANES):
        key = load_i16(h, at + _LEAST + k)
        other = _weight(key) ^ splat_i16(-1)
        store_i16(h, at + _AFTER1 + k, _ways(book, number + _move(key), down) & other)


@lean(forceinline=True)
def take_way(h: Any, at: int) -> None:
    """Last step: the number of the best point found; where none is found, of levels that are none."""
    ways, ways1, ways2 = load_i16(h, at + _ALONE), load_i16(h, at + _AFTER1), load_i16(h, at + _AFTER2)
    far, none = splat_i16(_FAR), splat_i16(0)
    alone, after1, after2 = far, far, far
    for i in range(8):
        key, bit = load_i16(h, at + i * I16_LANES), splat_i16(1 << i)
        alone = min_i16(where_equal(ways & bit, none, far, key), alone)
        after1 = min_i16(where_equal(ways1 & bit, none, far, key), after1)
        after2 = min_i16(where_equal(ways2 & bit, none, far, key), after2)
    key1, key2 = load_i16(h, at + _LEAST), load_i16(h, at + _SECOND)
    cost, last, before = alone, alone, none
    both = add_saturate(key1, after1)
    before, last = where_greater(cost, both, _move(key1), before), where_greater(cost, both, after1, last)
    cost = min_i16(both, cost)
    both = add_saturate(key2, after2)
    before, last = where_greater(cost, both, _move(key2), before), where_greater(cost, both, after2, last)
    cost = min_i16(both, cost)
    move = where_equal(ways, splat_i16(-1), none, where_equal(cost, far, none, before + _move(last)))
    store_i16(h, at + NUMBER, load_i16(h, at + NUMBER) + move)
