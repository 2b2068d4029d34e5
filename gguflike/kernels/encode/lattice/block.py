"""One super-block of 256 weights: bringing it into scratch memory, and finding points for a candidate scale.

For given points p the squared error of a sub-block is a parabola in its scale s: sum w y^2 - s (dot - s norm), with dot
= 2 sum w y p and norm = sum w p^2. So a candidate amounts to these two sums. ``Shape``, ``Search``, ``Scratch`` and the
tiles ``floats``, ``ints``, ``shorts`` are those of scratch.py, which has a picture.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.encode.lattice.codebook import Codebook
from gguflike.kernels.encode.lattice.exhaustive import nearest_points
from gguflike.kernels.encode.lattice.repair import (
    NUMBER,
    apply_repair,
    find_repairs,
    load_values,
    round_to_levels,
    trial_at,
)
from gguflike.kernels.encode.lattice.scratch import DELTA_BIT, EVEN_SIGNS, NO_SIGNS, SUPER, Scratch, Search, Shape
from gguflike.kernels.encode.tiles import F32, Floats, IntTile, ShortTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import gather, load, load_i16, load_octets, store
from gguflike.kernels.vector.int16 import widen_high, widen_low
from gguflike.kernels.vector.lanes import (
    bits,
    evens,
    fma,
    from_bits,
    magnitude,
    maximum,
    odds,
    reduce_max,
    repeat_high,
    repeat_low,
    splat,
    splat_i32,
    to_float,
    where,
)
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import F32x16, I32x16, Mask


@lean
def _largest_magnitude(array: Floats) -> F32:
    """The largest magnitude of 256 values."""
    peak = splat(np.float32(0))
    for i in range(SUPER // LANES):
        peak = maximum(magnitude(load(array, i)), peak)
    return reduce_max(peak)


@lean
def _power_to_one(largest: float) -> F32:
    """A power of two that brings what is tiny or huge near 1, where its reciprocal is precise; else 1."""
    return np.float32(2.0**64) if largest < 1e-15 else np.float32(2.0**-64 if largest > 1e15 else 1.0)


@lean
def _load_column(source: Floats, start: int, largest: float, floats: Tile, to: int) -> None:
    """Load 128 values from ``start`` on, divided by ``largest``, to rows ``to .. to + 7``, an octet per lane."""
    power = _power_to_one(largest)
    inverse = np.float32(1) / (largest * power)
    load_octets(floats, to, source, start)
    for i in range(to, to + 8):
        store(floats, i, load(floats, i) * power * inverse)


@lean(forceinline=True)
def load_block(x: Floats, importance: Floats, shape: Shape, at: Scratch, floats: Tile, ints: IntTile) -> F32:
    """Load 256 weights and their importance (an empty array: all equal), and fill what ``Scratch`` has of the block.

    Returns the largest magnitude; 0 means there is nothing to encode.
    """
    largest = _largest_magnitude(x)
    if largest == 0:
        return largest
    most = _largest_magnitude(importance) if len(importance) > 0 else np.float32(0)
    for c in range(2):
        _load_column(x, 128 * c, largest, floats, at.values + 8 * c)
        if most > 0:
            _load_column(importance, 128 * c, most, floats, at.importance + 8 * c)
        else:
            for i in range(8):
                store(floats, at.importance + 8 * c + i, splat(np.float32(1)))
        _sum_column(shape, c, at, floats)
        if shape.signs != NO_SIGNS:
            _fold_signs(shape.signs == EVEN_SIGNS, c, at, floats, ints)
    for i in range(16):
        y = load(floats, at.values + i)
        store(floats, at.products + i, (y + y) * load(floats, at.importance + i))
    return largest


@lean(forceinline=True)
def _sum_column(shape: Shape, column: int, at: Scratch, floats: Tile) -> None:
    """Store the sums of 16 octets, and of the weights of each point in them, as ``Scratch`` has them."""
    sum_wyy = splat(np.float32(0))
    sum_w, peak = sum_wyy, sum_wyy
    octet_wyy, octet_w = sum_wyy, sum_wyy
    row = 8 * column
    for c in range(column * shape.per_octet, (column + 1) * shape.per_octet):
        sum_wyy, sum_w = splat(np.float32(0)), splat(np.float32(0))
        for _ in range(shape.dim):
            y, w = load(floats, at.values + row), load(floats, at.importance + row)
            sum_wyy = sum_wyy + y * y * w
            sum_w = sum_w + w
            peak = maximum(magnitude(y), peak)
            row += 1
        place = at.moments + 4 * (c >> 1) + (c & 1)
        store(floats, place, sum_w)
        store(floats, place + 2, sum_wyy)
        octet_wyy, octet_w = octet_wyy + sum_wyy, octet_w + sum_w
    store(floats, at.octet_sums + column, octet_wyy)
    store(floats, at.octet_sums + 2 + column, octet_w)
    store(floats, at.octet_sums + 4 + column, peak)


@lean
def _fold_signs(even: bool, column: int, at: Scratch, floats: Tile, ints: IntTile) -> None:
    """Turn the weights of 16 octets into magnitudes, and note their minus signs.

    Where these must be ``even`` in number and are not, the weight whose sign matters least, by w |y|, becomes negative:
    it will be stored with the wrong sign.
    """
    values, importance = at.values + 8 * column, at.importance + 8 * column
    parity, minus = splat_i32(0), splat_i32(0)
    least = splat(np.float32(np.inf))
    for i in range(8):
        y = load(floats, values + i)
        parity = parity ^ bits(y)
        minus = minus | (bits(y) >> 31 & np.int32(1 << i))
        cost = magnitude(y) * load(floats, importance + i)
        least = where(cost < least, cost, least)
    store(ints, at.signs + column, minus)
    flip = parity & (np.int32(-(2**31)) if even else np.int32(0))
    for i in range(8):
        absolute = magnitude(load(floats, values + i))
        flipped = where(absolute * load(floats, importance + i) == least, flip, splat_i32(0))
        flip = flip ^ flipped
        store(floats, values + i, from_bits(bits(absolute) ^ flipped))


@lean
def sum_sub_blocks(shape: Shape, column0: F32x16, column1: F32x16) -> F32x16:
    """Sums over sub-blocks of a number per octet, given in two columns."""
    total = evens(column0, column1) + odds(column0, column1)
    return evens(total, total) + odds(total, total) if shape.log_octets == 2 else total


@lean
def to_octets(shape: Shape, number: F32x16, column: int) -> F32x16:
    """A number per sub-block, repeated for each of its octets in a column."""
    if shape.log_octets == 2:
        number = repeat_low(number)
    return repeat_high(number) if column else repeat_low(number)


@lean
def coordinate(levels: Floats, dim: int, packed: I32x16, i: int) -> F32x16:
    """Coordinate ``i`` of packed points, moved by the first delta. Levels are evenly spaced but for the last."""
    width = 16 // dim
    digit = packed >> np.int32(width * i) & np.int32((1 << width) - 1)
    last = levels.shape[1] - 1
    even = fma(to_float(digit), splat(levels[0, 1] - levels[0, 0]), splat(levels[0, 0]))
    return where(digit == np.int32(last), splat(levels[0, last]), even)


@lean
def find_points(
    book: Codebook, shape: Shape, search: Search, at: Scratch, floats: Tile, ints: IntTile, shorts: ShortTile, m: int
) -> None:
    """Find the points of candidate ``m`` at its scale, and store what they amount to in each sub-block."""
    for c in range(2):
        store(floats, at.octet_scale + c, to_octets(shape, load(floats, at.scale + m), c))
    if shape.dense or m < search.approximate:
        _find_by_repair(book, shape, at, floats, ints, shorts)
    else:
        for c in range(0, shape.columns, 2):
            scales = _column_scale(shape, at, floats, c), _column_scale(shape, at, floats, c + 1)
            products, importance = at.products + c * shape.dim, at.importance + c * shape.dim
            moments = at.moments + 2 * c
            nearest_points(book, shape.dim, floats, products, importance, moments, scales, shorts, ints, at.found + c)
        for c in range(shape.columns):
            _sum_points(book.levels, shape, at, floats, ints, c, c)
    _store_candidate(shape, at, floats, ints, m)


@lean
def _column_scale(shape: Shape, at: Scratch, floats: Tile, column: int) -> F32x16:
    """The scales of a column of points."""
    return load(floats, at.octet_scale + (column * shape.dim >> 3))


@lean(forceinline=True)
def _sum_points(levels: Floats, shape: Shape, at: Scratch, floats: Tile, ints: IntTile, column: int, row: int) -> None:
    """Store 2 sum w y p and sum w p^2 of the points in row ``row`` of ``found``, which belong to a column."""
    packed = load(ints, at.found + row)
    dot, norm = splat(np.float32(0)), splat(np.float32(0))
    delta = _delta_of(levels, packed) if len(levels) > 1 else norm
    for i in range(shape.dim):
        p = coordinate(levels, shape.dim, packed, i) + delta
        dot = fma(p, load(floats, at.products + column * shape.dim + i), dot)
        norm = fma(p * p, load(floats, at.importance + column * shape.dim + i), norm)
    store(floats, at.point_dot + row, dot)
    store(floats, at.point_norm + row, norm)


@lean
def _find_by_repair(
    book: Codebook, shape: Shape, at: Scratch, floats: Tile, ints: IntTile, shorts: ShortTile
) -> None:  # fmt: skip
    """Find points by repair.py, with the better delta of each sub-block or of each point."""
    deltas = len(book.levels)
    scales = load(floats, at.octet_scale), load(floats, at.octet_scale + 1)
    load_values(book.levels, floats, at.values, scales, shorts, at.repair)
    for t in range(deltas):
        round_to_levels(book.levels, t, shorts, at.repair, trial_at(at.repair, t))
    for t in range(deltas):
        find_repairs(book, shorts, trial_at(at.repair, t))
    for t in range(deltas):
        apply_repair(shorts, trial_at(at.repair, t))
    for t in range(deltas):
        number = load_i16(shorts, trial_at(at.repair, t) + NUMBER)
        for c in range(2):
            packed = gather(book.words, widen_high(number) if c else widen_low(number))
            store(ints, at.found + 2 * t + c, packed ^ packed >> 31 | np.int32(t << DELTA_BIT))
            _sum_points(book.levels, shape, at, floats, ints, c, 2 * t + c)
    if deltas == 2:
        gain0, gain1 = _delta_gain(at, floats, 0), _delta_gain(at, floats, 1)
        if shape.shared_delta:
            gain = sum_sub_blocks(shape, gain0, gain1)
            gain0, gain1 = to_octets(shape, gain, 0), to_octets(shape, gain, 1)
        _choose_delta(at, floats, ints, 0, gain0 > np.float32(0))
        _choose_delta(at, floats, ints, 1, gain1 > np.float32(0))


@lean
def _delta_of(levels: Floats, packed: I32x16) -> F32x16:
    """What a packed point's delta adds to levels moved by the first one."""
    return where(packed >> DELTA_BIT == 0, splat(np.float32(0)), splat(levels[1, 0] - levels[0, 0]))


@lean
def _delta_gain(at: Scratch, floats: Tile, column: int) -> F32x16:
    """By how much the squared error of octets is less with the second delta."""
    scale, dot, norm = load(floats, at.octet_scale + column), at.point_dot + column, at.point_norm + column
    return scale * (load(floats, dot + 2) - load(floats, dot) - scale * (load(floats, norm + 2) - load(floats, norm)))


@lean
def _choose_delta(at: Scratch, floats: Tile, ints: IntTile, column: int, second: Mask) -> None:
    """Replace the points with the first delta by those with the second, in the lanes where it is better."""
    dot, norm, found = at.point_dot + column, at.point_norm + column, at.found + column
    store(floats, dot, where(second, load(floats, dot + 2), load(floats, dot)))
    store(floats, norm, where(second, load(floats, norm + 2), load(floats, norm)))
    store(ints, found, where(second, load(ints, found + 2), load(ints, found)))


@lean
def _sum_octet(shape: Shape, floats: Tile, table: int, column: int) -> F32x16:
    """Sums over 16 octets of a number per point."""
    first = table + column * shape.per_octet
    return load(floats, first) + load(floats, first + 1) if shape.per_octet == 2 else load(floats, first)


@lean(forceinline=True)
def _store_candidate(shape: Shape, at: Scratch, floats: Tile, ints: IntTile, m: int) -> None:
    """Store the points found as those of candidate ``m``, with their sums and the best scale of each sub-block."""
    dot = sum_sub_blocks(shape, _sum_octet(shape, floats, at.point_dot, 0), _sum_octet(shape, floats, at.point_dot, 1))
    norm = sum_sub_blocks(
        shape, _sum_octet(shape, floats, at.point_norm, 0), _sum_octet(shape, floats, at.point_norm, 1)
    )
    used = (norm > np.float32(0)) & (dot > np.float32(0))
    store(floats, at.dot + m, dot)
    store(floats, at.norm + m, norm)
    store(floats, at.ideal + m, where(used, dot, splat(np.float32(0))) / where(used, norm, splat(np.float32(1))))
    for c in range(shape.columns):
        store(ints, at.points + m * shape.columns + c, load(ints, at.found + c))
