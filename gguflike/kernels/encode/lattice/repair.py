"""Good codebook points at given scales, without a search: round each weight, then repair what is not a point.

For points of 8 weights with three levels. Each weight takes its nearest level. Where these levels are not a point of
the codebook, one weight *moves* to its second nearest level, or two do, of which one is among the two that it costs
least to move: the cheapest way to a point that such moves offer. This finds the best of all points for nearly all
octets if many of the combinations of levels are points: 2048 of 6561 in IQ1's codebook.

All 32 octets of a block go side by side, one per int16 lane. The *key* of a weight is what it costs to move it, w times
the increase of the squared error, in 15 bits of which the last four say whether it moves down (bit 3) and which weight
it is (bits 0 to 2): the least key is the cheapest move. A *trial*, the point for one delta, takes three steps, each of
which ends in waiting for memory; callers take each step for all trials before the next.

Tables stand in the int16 tile ``shorts``, from element ``tables`` on; in vectors of 32 octets::

    0    8 weights, relative to the middle level, in units of the distance between levels
    8    8 importances, relative to the largest of the octet
    16   trials, 15 vectors each:
         0    8 keys
         8    the least key, the second least one
         10   the number of the levels: a digit 0, 1 or 2 for each weight, to the base 3, first weight least
         11   bit i: weight i would move down
         12   bit i: moving weight i makes a point; the same after the move of the least key, of the second least one
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.encode.lattice.codebook import POINT, Codebook
from gguflike.kernels.encode.rounding import MAGIC
from gguflike.kernels.encode.tiles import Floats, ShortTile, Tile
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
from gguflike.kernels.vector.types import F32x16, I16x32

_IMPORTANCE, _TRIALS, _TRIAL = 8 * I16_LANES, 16 * I16_LANES, 15 * I16_LANES
_LEAST, _SECOND, NUMBER, _DOWN, _ALONE, _AFTER_LEAST, _AFTER_SECOND = (i * I16_LANES for i in range(8, 15))
_MIDDLE = 3280  # the number with eight digits 1
_UNIT = 1 << 14  # the distance between two levels
_FAR = (1 << 15) - 1  # no key is above
_TINY = np.float32(1e-30)


def trial_elements(trials: int) -> int:
    """The elements of ``shorts`` that the tables take with so many trials."""
    return _TRIALS + trials * _TRIAL


@lean
def trial_at(tables: int, trial: int) -> int:
    """The element of ``shorts`` where a trial's tables begin."""
    return tables + _TRIALS + trial * _TRIAL


@lean
def load_importance(floats: Tile, row: int, shorts: ShortTile, tables: int) -> None:
    """Store the importance from rows ``row ..`` of ``floats`` (16) to the tables, as shares of each octet's largest."""
    most0, most1 = splat(_TINY), splat(_TINY)
    for i in range(row, row + 8):
        most0, most1 = maximum(load(floats, i), most0), maximum(load(floats, i + 8), most1)
    factor0, factor1 = splat(np.float32(_FAR)) / most0, splat(np.float32(_FAR)) / most1
    for i in range(8):
        share0 = fma(load(floats, row + i), factor0, splat(MAGIC))
        share1 = fma(load(floats, row + 8 + i), factor1, splat(MAGIC))
        store_i16(shorts, tables + _IMPORTANCE + i * I16_LANES, narrow_magic(share0, share1))


@lean(forceinline=True)
def load_values(
    levels: Floats, floats: Tile, row: int, scales: tuple[F32x16, F32x16], shorts: ShortTile, tables: int
) -> None:
    """Store the weights from rows ``row ..`` of ``floats`` (16) to the tables: (y / scale - middle) / distance.

    ``scales``: those of octets 0 .. 15 and 16 .. 31. Middle and distance are those of the first delta's levels.
    """
    distance = (levels[0, 2] - levels[0, 0]) * np.float32(0.5)
    middle = (levels[0, 0] + levels[0, 2]) * np.float32(0.25) + levels[0, 1] * np.float32(0.5)
    zero = MAGIC - np.float32(_UNIT) * middle / distance
    factor0 = splat(np.float32(_UNIT)) / maximum(scales[0] * distance, splat(_TINY))
    factor1 = splat(np.float32(_UNIT)) / maximum(scales[1] * distance, splat(_TINY))
    least = splat(MAGIC - np.float32(_FAR))
    for i in range(8):
        value0 = fma(load(floats, row + i), factor0, splat(zero))
        value1 = fma(load(floats, row + 8 + i), factor1, splat(zero))
        store_i16(shorts, tables + i * I16_LANES, narrow_magic(maximum(value0, least), maximum(value1, least)))


@lean(forceinline=True)
def round_to_levels(levels: Floats, t: int, shorts: ShortTile, tables: int, trial: int) -> None:
    """First step: the number of the nearest levels with delta ``t``, and the keys, into the trial's tables.

    For a weight z in units of the distance, the second nearest level costs w (1 - 2 |z|) more than the nearest one
    where |z| is below 1 / 2, and w (2 |z| - 1) beyond it. Keys hold half of that.
    """
    delta = (levels[0, 0] - levels[t, 0]) / ((levels[0, 2] - levels[0, 0]) * np.float32(0.5))
    back = splat_i16(np.intp(delta * np.float32(_UNIT)))
    number, down = splat_i16(_MIDDLE), splat_i16(0)
    least, second = splat_i16(_FAR), splat_i16(_FAR)
    power = 1
    for i in range(8):
        z = add_saturate(load_i16(shorts, tables + i * I16_LANES), back)
        inside = splat_i16(_UNIT >> 1) - abs_i16(z)
        below, outside = z >> splat_i16(15), inside >> splat_i16(15)
        number = number + ((below ^ splat_i16(power)) - below & outside)
        moves_down = below ^ outside
        down = down | moves_down & splat_i16(1 << i)
        cost = rounded_product(abs_i16(inside), load_i16(shorts, tables + _IMPORTANCE + i * I16_LANES))
        key = cost & splat_i16(-16) | moves_down & splat_i16(8) | splat_i16(i)
        store_i16(shorts, trial + i * I16_LANES, key)
        second = min_i16(max_i16(key, least), second)
        least = min_i16(key, least)
        power *= 3
    store_i16(shorts, trial + _LEAST, least)
    store_i16(shorts, trial + _SECOND, second)
    store_i16(shorts, trial + NUMBER, number)
    store_i16(shorts, trial + _DOWN, down)


@lean
def _bit(key: I16x32, i: int) -> I16x32:
    """All bits of a lane equal to bit ``i`` of its key."""
    return key << splat_i16(15 - i) >> splat_i16(15)


@lean
def _step(key: I16x32) -> I16x32:
    """What a key's move adds to the number of the levels: +-3**weight, by multiplying with 3, 9 and 81 by its bits."""
    power = (key & splat_i16(1)) + (key & splat_i16(1)) + splat_i16(1)
    power = power + (power << splat_i16(3) & _bit(key, 1))
    power = power + ((power << splat_i16(6)) + (power << splat_i16(4)) & _bit(key, 2))
    sign = _bit(key, 3)
    return (power ^ sign) - sign


@lean
def _weight_bit(key: I16x32) -> I16x32:
    """1 << the weight that a key belongs to."""
    bit = (key & splat_i16(1)) + splat_i16(1)
    bit = bit + ((bit << splat_i16(2)) - bit & _bit(key, 1))
    return bit + ((bit << splat_i16(4)) - bit & _bit(key, 2))


@lean
def _repairs(book: Codebook, number: I16x32, down: I16x32) -> I16x32:
    """Bit i: whether the move of weight i makes a point of the levels ``number``; all bits where they are a point."""
    moves = narrow(gather(book.moves, widen_low(number)), gather(book.moves, widen_high(number)))
    repairs = ((moves ^ moves >> splat_i16(8)) & down ^ moves) & splat_i16(255)
    return where_equal(moves, splat_i16(POINT), splat_i16(-1), repairs)


@lean(forceinline=True)
def find_repairs(book: Codebook, shorts: ShortTile, trial: int) -> None:
    """Second step: which moves make a point, alone and after the least two, into the trial's tables."""
    number, down = load_i16(shorts, trial + NUMBER), load_i16(shorts, trial + _DOWN)
    store_i16(shorts, trial + _ALONE, _repairs(book, number, down))
    for k in range(0, 2 * I16_LANES, I16_LANES):
        key = load_i16(shorts, trial + _LEAST + k)
        others = _weight_bit(key) ^ splat_i16(-1)
        store_i16(shorts, trial + _AFTER_LEAST + k, _repairs(book, number + _step(key), down) & others)


@lean(forceinline=True)
def apply_repair(shorts: ShortTile, trial: int) -> None:
    """Last step: make the cheapest moves found, which turns the trial's number into that of a point.

    Where none leads to a point the number stays; ``Codebook.words`` names the nearest point to it.
    """
    repairs = load_i16(shorts, trial + _ALONE)
    repairs1, repairs2 = load_i16(shorts, trial + _AFTER_LEAST), load_i16(shorts, trial + _AFTER_SECOND)
    far, none = splat_i16(_FAR), splat_i16(0)
    alone, after1, after2 = far, far, far
    for i in range(8):
        key, bit = load_i16(shorts, trial + i * I16_LANES), splat_i16(1 << i)
        alone = min_i16(where_equal(repairs & bit, none, far, key), alone)
        after1 = min_i16(where_equal(repairs1 & bit, none, far, key), after1)
        after2 = min_i16(where_equal(repairs2 & bit, none, far, key), after2)
    key1, key2 = load_i16(shorts, trial + _LEAST), load_i16(shorts, trial + _SECOND)
    cost, last, before = alone, alone, none
    both = add_saturate(key1, after1)
    before, last = where_greater(cost, both, _step(key1), before), where_greater(cost, both, after1, last)
    cost = min_i16(both, cost)
    both = add_saturate(key2, after2)
    before, last = where_greater(cost, both, _step(key2), before), where_greater(cost, both, after2, last)
    cost = min_i16(both, cost)
    step = where_equal(repairs, splat_i16(-1), none, where_equal(cost, far, none, before + _step(last)))
    store_i16(shorts, trial + NUMBER, load_i16(shorts, trial + NUMBER) + step)
