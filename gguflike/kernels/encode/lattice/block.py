"""One super-block of 256 weights: its place in scratch memory, and the points that are best at sample scales.

The weights stand in a tile by octets, eight consecutive weights: vector ``8 * c + i`` holds weight i of octets
``16 c .. 16 c + 15``. A group (the weights of one codebook point) is an octet or half of one, so that column c of
groups, 16 lanes, is vectors ``dim * c .. dim * c + dim - 1`` of the same tile. Scales belong to sub-blocks of two or
four octets; they stand one sub-block per lane, and eight sub-blocks stand twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.lattice.codebook import NUMBER_BIT, Codebook
from gguflike.kernels.encode.lattice.exhaustive import nearest, scores
from gguflike.kernels.encode.lattice.repair import (
    NUMBER,
    elements,
    find_ways,
    take_levels,
    take_values,
    take_way,
    trial_at,
)
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

SUPER = 256
OCTETS = 32
FREE, EVEN, NONE = 0, 1, 2  # signs: one bit per weight; an even number of minus signs in 8; none stored
SHIFT_BIT = NUMBER_BIT + 11  # in a word: the second of the codebook's two shifts


class Shape(NamedTuple):
    """A block type as the kernels see it: scales of sub-blocks are factor * d * (2 k + 1), k = 0 .. top."""

    dim: int  # weights per point
    parts: int  # points per octet
    columns: int  # vectors of points
    log_unit: int  # log2 of the octets per sub-block
    top: int
    factor: float
    largest: float  # largest coordinate of a point
    signs: int
    shared_shift: bool  # one shift per sub-block, not per point
    dense: bool  # points found by near.py, with two shifts, not by search.py


class Effort(NamedTuple):
    """How far to search. Samples are numbered: the ladder's, those taken again, the plain rule's.

    ladder  float32: sample scales of a sub-block, relative to its root mean square; or none
    spread  float32: values tried for d (lattice_scales.search_d); a multiple of 16, or none for the plain rule
    again   whether to sample the best scales and their neighbours once d is known
    rough   for how many samples near.py finds the points; types with two shifts: for all
    bounded whether the plain rule's points are only looked for where they can be the best: bound.py tells
    """

    ladder: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    again: bool
    rough: int
    bounded: bool


class Places(NamedTuple):
    """Where things stand in the scratch memory: numbers of vectors of a float32 tile ``f`` and an int32 tile ``n``."""

    y: int  # (16) weights over the largest magnitude, negative where the stored sign differs from the weight's
    w: int  # (16) importance, relative to the largest
    wy: int  # (16) 2 * w * y
    mass: int  # (columns / 2, 4) of two columns of groups: importance, then energy
    octets: int  # (6) energy, importance, peak of the octets: two vectors each
    lane_scale: int  # (2) scales of the octets
    lane_dot: int  # (shifts, columns)
    lane_norm: int  # (shifts, columns)
    scale: int  # (samples) sample scales of the sub-blocks
    dot: int  # (samples) 2 <w y, points> of the sub-blocks
    norm: int  # (samples) <w, points**2>
    ideal: int  # (samples) twice the best scale for these points, not negative
    tries: int  # (1) candidates for d
    size: int
    found: int  # n: (shifts, columns) words
    word: int  # n: (samples, columns)
    minus: int  # n: (2) signs of the octets' weights
    pick: int  # n: (2) k and sample chosen for the sub-blocks
    lane: int  # n: (1) 0 .. 15
    ints: int
    near: int  # h: elements of near.py; those before are search.py's
    shorts: int  # elements of the int16 tile ``h``


def places(shape: Shape, book: Codebook, samples: int) -> Places:
    """Lay out scratch memory for ``samples`` sample scales."""
    shifts, base = book.levels.shape
    columns = shape.columns
    floats = np.cumsum([0, 16, 16, 16, 2 * columns, 6, 2, *[shifts * columns] * 2, *[samples] * 4, 1])
    ints = np.cumsum([0, shifts * columns, samples * columns, 2, 2, 1])
    near = scores(shape.dim, base, len(book.pairs))
    return Places._make([*floats.tolist(), *ints.tolist(), near, near + elements(shifts)])


@lean
def _peak(array: Any) -> Any:
    """Largest magnitude of 256 values."""
    peak = splat(np.float32(0))
    for i in range(SUPER // LANES):
        peak = maximum(magnitude(load(array, i)), peak)
    return reduce_max(peak)


@lean
def _near_one(largest: float) -> Any:
    """A power of two that brings what is tiny or huge near 1, where its reciprocal is precise."""
    return np.float32(2.0**64) if largest < 1e-15 else np.float32(2.0**-64 if largest > 1e15 else 1.0)


@lean
def _to_octets(source: Any, start: int, largest: float, f: Any, to: int) -> None:
    """128 consecutive weights over ``largest`` to weights 0 .. 7 of sixteen octets."""
    power = _near_one(largest)
    inverse = np.float32(1) / (largest * power)
    load_octets(f, to, source, start)
    for i in range(to, to + 8):
        store(f, i, load(f, i) * power * inverse)


@lean(forceinline=True)
def take_block(x: Any, weights: Any, shape: Shape, at: Places, f: Any, n: Any) -> Any:
    """Bring 256 weights ``x`` and their importance (or an empty array) into f: y, w, 2 w y, sums of groups and octets.

    Returns the largest magnitude; 0 means there is nothing to encode.
    """
    largest = _peak(x)
    if largest == 0:
        return largest
    most = _peak(weights) if len(weights) > 0 else np.float32(0)
    for c in range(2):
        _to_octets(x, 128 * c, largest, f, at.y + 8 * c)
        if most > 0:
            _to_octets(weights, 128 * c, most, f, at.w + 8 * c)
        else:
            for i in range(8):
                store(f, at.w + 8 * c + i, splat(np.float32(1)))
        _sum_groups(shape, c, at, f)
        if shape.signs != NONE:
            _fold_signs(shape.signs == EVEN, c, at, f, n)
    for i in range(16):
        y = load(f, at.y + i)
        store(f, at.wy + i, (y + y) * load(f, at.w + i))
    return largest


@lean(forceinline=True)
def _sum_groups(shape: Shape, column: int, at: Places, f: Any) -> None:
    """Energy, importance and largest magnitude of 16 octets; the former two of their groups, too."""
    energy = splat(np.float32(0))
    mass, peak = energy, energy
    octet_energy, octet_mass = energy, energy
    row = 8 * column
    for c in range(column * shape.parts, (column + 1) * shape.parts):
        energy, mass = splat(np.float32(0)), splat(np.float32(0))
        for _ in range(shape.dim):
            y, w = load(f, at.y + row), load(f, at.w + row)
            energy = energy + y * y * w
            mass = mass + w
            peak = maximum(magnitude(y), peak)
            row += 1
        place = at.mass + 4 * (c >> 1) + (c & 1)
        store(f, place, mass)
        store(f, place + 2, energy)
        octet_energy, octet_mass = octet_energy + energy, octet_mass + mass
    store(f, at.octets + column, octet_energy)
    store(f, at.octets + 2 + column, octet_mass)
    store(f, at.octets + 4 + column, peak)


@lean
def _fold_signs(even: bool, column: int, at: Places, f: Any, n: Any) -> None:
    """Turn 16 octets into magnitudes, and note their minus signs. Where these must be even in number and are not, the
    weight whose sign matters least becomes negative: it will be stored with the wrong sign."""
    y, w = at.y + 8 * column, at.w + 8 * column
    parity, minus = splat_i32(0), splat_i32(0)
    least = splat(np.float32(np.inf))
    for i in range(8):
        value = load(f, y + i)
        parity = parity ^ bits(value)
        minus = minus | (bits(value) >> 31 & np.int32(1 << i))
        cost = magnitude(value) * load(f, w + i)
        least = where(cost < least, cost, least)
    store(n, at.minus + column, minus)
    flip = parity & (np.int32(-(2**31)) if even else np.int32(0))
    for i in range(8):
        size = magnitude(load(f, y + i))
        chosen = where(size * load(f, w + i) == least, flip, splat_i32(0))
        flip = flip ^ chosen
        store(f, y + i, from_bits(bits(size) ^ chosen))


@lean
def add_octets(shape: Shape, low: Any, high: Any) -> Any:
    """Sums over sub-blocks of a number per octet (two vectors)."""
    total = evens(low, high) + odds(low, high)
    return evens(total, total) + odds(total, total) if shape.log_unit == 2 else total


@lean
def spread(shape: Shape, number: Any, column: int) -> Any:
    """A number per sub-block, for each of 16 octets."""
    if shape.log_unit == 2:
        number = repeat_low(number)
    return repeat_high(number) if column else repeat_low(number)


@lean
def level(levels: Any, dim: int, word: Any, i: int) -> Any:
    """Coordinate ``i`` of the points that words name, with the first shift. Levels are even but for the last."""
    width = 16 // dim
    digit = word >> np.int32(width * i) & np.int32((1 << width) - 1)
    last = levels.shape[1] - 1
    even = fma(to_float(digit), splat(levels[0, 1] - levels[0, 0]), splat(levels[0, 0]))
    return where(digit == np.int32(last), splat(levels[0, last]), even)


@lean
def sample(book: Codebook, shape: Shape, effort: Effort, at: Places, f: Any, n: Any, h: Any, m: int) -> None:
    """Find points at sample scale m, and sum up what they amount to in each sub-block."""
    for c in range(2):
        store(f, at.lane_scale + c, spread(shape, load(f, at.scale + m), c))
    if shape.dense or m < effort.rough:
        _take_near(book, shape, at, f, n, h)
    else:
        for c in range(0, shape.columns, 2):
            scales = _column_scale(shape, at, f, c), _column_scale(shape, at, f, c + 1)
            wy, w, mass = at.wy + c * shape.dim, at.w + c * shape.dim, at.mass + 2 * c
            nearest(book, shape.dim, f, wy, w, mass, scales, h, n, at.found + c)
        for c in range(shape.columns):
            _multiply(book.levels, shape, at, f, n, c, c)
    _add_up(shape, at, f, n, m)


@lean
def _column_scale(shape: Shape, at: Places, f: Any, column: int) -> Any:
    """Scales of a column of groups."""
    return load(f, at.lane_scale + (column * shape.dim >> 3))


@lean(forceinline=True)
def _multiply(levels: Any, shape: Shape, at: Places, f: Any, n: Any, column: int, trial: int) -> None:
    """Products of a column of groups with the points of a trial, and of their squares with the importance."""
    word = load(n, at.found + trial)
    dot, norm = splat(np.float32(0)), splat(np.float32(0))
    shift = _offset(levels, word) if len(levels) > 1 else norm
    for i in range(shape.dim):
        x = level(levels, shape.dim, word, i) + shift
        dot = fma(x, load(f, at.wy + column * shape.dim + i), dot)
        norm = fma(x * x, load(f, at.w + column * shape.dim + i), norm)
    store(f, at.lane_dot + trial, dot)
    store(f, at.lane_norm + trial, norm)


@lean
def _take_near(book: Codebook, shape: Shape, at: Places, f: Any, n: Any, h: Any) -> None:
    """Points by near.py and their products, with the better shift, of a sub-block or of each point."""
    shifts = len(book.levels)
    take_values(book.levels, f, at.y, (load(f, at.lane_scale), load(f, at.lane_scale + 1)), h, at.near)
    for t in range(shifts):
        take_levels(book.levels, t, h, at.near, trial_at(at.near, t))
    for t in range(shifts):
        find_ways(book, h, trial_at(at.near, t))
    for t in range(shifts):
        take_way(h, trial_at(at.near, t))
    for t in range(shifts):
        number = load_i16(h, trial_at(at.near, t) + NUMBER)
        for c in range(2):
            word = gather(book.words, widen_high(number) if c else widen_low(number))
            store(n, at.found + 2 * t + c, word ^ word >> 31 | np.int32(t << SHIFT_BIT))
            _multiply(book.levels, shape, at, f, n, c, 2 * t + c)
    if shifts == 2:
        gain0, gain1 = _shift_gain(at, f, 0), _shift_gain(at, f, 1)
        if shape.shared_shift:
            gain = add_octets(shape, gain0, gain1)
            gain0, gain1 = spread(shape, gain, 0), spread(shape, gain, 1)
        _take_better(at, f, n, 0, gain0 > np.float32(0))
        _take_better(at, f, n, 1, gain1 > np.float32(0))


@lean
def _offset(levels: Any, word: Any) -> Any:
    """How far the shift of a word moves the levels."""
    return where(word >> SHIFT_BIT == 0, splat(np.float32(0)), splat(levels[1, 0] - levels[0, 0]))


@lean
def _shift_gain(at: Places, f: Any, column: int) -> Any:
    """How much less the error is with the second shift."""
    scale, dot, norm = load(f, at.lane_scale + column), at.lane_dot + column, at.lane_norm + column
    return scale * (load(f, dot + 2) - load(f, dot) - scale * (load(f, norm + 2) - load(f, norm)))


@lean
def _take_better(at: Places, f: Any, n: Any, column: int, second: Any) -> None:
    """Replace what was found with the first shift by what was with the second, in the lanes where this is better."""
    dot, norm, found = at.lane_dot + column, at.lane_norm + column, at.found + column
    store(f, dot, where(second, load(f, dot + 2), load(f, dot)))
    store(f, norm, where(second, load(f, norm + 2), load(f, norm)))
    store(n, found, where(second, load(n, found + 2), load(n, found)))


@lean
def _octet_sum(shape: Shape, f: Any, table: int, column: int) -> Any:
    """Sums over 16 octets of a number per point."""
    first = table + column * shape.parts
    return load(f, first) + load(f, first + 1) if shape.parts == 2 else load(f, first)


@lean(forceinline=True)
def _add_up(shape: Shape, at: Places, f: Any, n: Any, m: int) -> None:
    """Keep the words of sample m and the products of each sub-block."""
    dot = add_octets(shape, _octet_sum(shape, f, at.lane_dot, 0), _octet_sum(shape, f, at.lane_dot, 1))
    norm = add_octets(shape, _octet_sum(shape, f, at.lane_norm, 0), _octet_sum(shape, f, at.lane_norm, 1))
    used = (norm > np.float32(0)) & (dot > np.float32(0))
    store(f, at.dot + m, dot)
    store(f, at.norm + m, norm)
    store(f, at.ideal + m, where(used, dot, splat(np.float32(0))) / where(used, norm, splat(np.float32(1))))
    for c in range(shape.columns):
        store(n, at.word + m * shape.columns + c, load(n, at.found + c))
