"""One super-block of 256 weights: its place in scratch memory, and the points that are best at sample scales.

The weights stand in a tile by octets, eight consecutive weights: vector ``8 * c + i`` holds weight i of octets
``16 c .. 16 c + 15``. A group (the weights of one codebook point) is an octet or half of one, so that column c of
groups, 16 lanes, is vectors ``dim * c .. dim * c + dim - 1`` of the same tile. Scales belong to sub-blocks of two or
four octets; they stand one sub-block per lane, and eight sub-blocks stand twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguflike.kernels._jit import inner
from gguflike.kernels.encode.lattice_search import fill_table, nearest
from gguflike.kernels.encode.lattice_tables import SECOND_BITS, Codebook
from gguflike.kernels.encode.permute import double_high, double_low, evens, gather, odds
from gguflike.kernels.lanes import LANES, bits, from_bits, int_lanes, lanes, load, magnitude, maximum, store, where

SUPER = 256
OCTETS = 32
FREE, EVEN, NONE = 0, 1, 2  # signs: one bit per weight; an even number of minus signs in 8; none stored
SHIFT_BIT = 14  # in a code: the second of the codebook's two shifts
SECOND = (1 << SECOND_BITS) - 1


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


class Places(NamedTuple):
    """Where things stand in the scratch memory: numbers of vectors of a float32 tile ``f`` and an int32 tile ``n``."""

    y: int  # (16) weights over the largest magnitude, negative where the stored sign differs from the weight's
    w: int  # (16) importance, relative to the largest
    wy: int  # (16) 2 * w * y
    dots: int  # (shifts, columns, halves)
    norms: int  # (shifts, columns, halves)
    u: int  # (2 * seconds)
    octets: int  # (6) energy, importance, peak of the octets: two vectors each
    lane_scale: int  # (4) scales of the octets: two columns, two samples
    score: int  # (shifts, columns, 2)
    lane_dot: int  # (shifts, columns, 2)
    lane_norm: int  # (shifts, columns, 2)
    scale: int  # (samples) sample scales of the sub-blocks
    dot: int  # (samples) 2 <w y, points> of the sub-blocks
    norm: int  # (samples) <w, points**2>
    ideal: int  # (samples) twice the best scale for these points
    tries: int  # (2) candidates for d, their gains
    size: int
    found: int  # n: (shifts, columns, 2) codes
    code: int  # n: (samples, columns)
    pick: int  # n: (2) k and sample chosen for the sub-blocks
    lane: int  # n: (1) 0 .. 15
    ints: int


def places(shape: Shape, book: Codebook, samples: int) -> Places:
    """Lay out scratch memory for ``samples`` sample scales."""
    shifts, halves, _ = book.points.shape
    table = shifts * shape.columns * halves
    pairs = 2 * shifts * shape.columns
    sizes = [16, 16, 16, table, table, 2 * (halves - len(book.quads)), 6, 4, pairs, pairs, pairs]
    floats = np.cumsum([0, *sizes, samples, samples, samples, samples, 2])
    ints = np.cumsum([0, pairs, samples * shape.columns, 2, 1])
    return Places(*floats.tolist(), *ints.tolist())


@inner
def _octet(at: Places, n: Any, column: int) -> Any:
    return load(n, at.lane) + column * LANES


@inner
def _peak(array: Any, at: Places, f: Any) -> Any:
    """Largest magnitude of 256 values."""
    peak = lanes(np.float32(0))
    for i in range(SUPER // LANES):
        peak = maximum(magnitude(load(array, i)), peak)
    store(f, at.tries, peak)
    largest = np.float32(0)
    for i in range(LANES):
        largest = max(largest, f[at.tries * LANES + i])
    return largest


@inner
def take_block(x: Any, weights: Any, shape: Shape, at: Places, f: Any, n: Any) -> Any:
    """Bring 256 weights ``x`` and their importance (or an empty array) into f: y, w, 2 w y, sums of octets.

    Returns the largest magnitude; 0 means there is nothing to encode.
    """
    largest = _peak(x, at, f)
    if largest == 0:
        return largest
    most = _peak(weights, at, f) if len(weights) > 0 else np.float32(0)
    # The inverse of what is tiny or huge is not a normal number: a power of two brings it near one first.
    power = np.float32(2.0**64) if largest < 1e-15 else np.float32(2.0**-64 if largest > 1e15 else 1.0)
    scale = lanes(np.float32(1) / (largest * power))
    for c in range(2):
        octet = _octet(at, n, c) * 8
        for i in range(8):
            store(f, at.y + 8 * c + i, gather(x, octet + i) * power * scale)
            if most > 0:
                store(f, at.w + 8 * c + i, gather(weights, octet + i) / lanes(most))
            else:
                store(f, at.w + 8 * c + i, lanes(np.float32(1)))
        _sum_octets(c, at, f)
        if shape.signs != NONE:
            _fold_signs(shape.signs == EVEN, at.y + 8 * c, at.w + 8 * c, f)
    for i in range(16):
        y = load(f, at.y + i)
        store(f, at.wy + i, (y + y) * load(f, at.w + i))
    return largest


@inner
def _sum_octets(column: int, at: Places, f: Any) -> None:
    """Energy, importance and largest magnitude of 16 octets."""
    energy = lanes(np.float32(0))
    mass = energy
    peak = energy
    for i in range(8 * column, 8 * column + 8):
        y, w = load(f, at.y + i), load(f, at.w + i)
        energy = energy + y * y * w
        mass = mass + w
        peak = maximum(magnitude(y), peak)
    store(f, at.octets + column, energy)
    store(f, at.octets + 2 + column, mass)
    store(f, at.octets + 4 + column, peak)


@inner
def _fold_signs(even: bool, y: int, w: int, f: Any) -> None:
    """Turn 16 octets into magnitudes. Where their minus signs must be even in number and are not, the weight whose
    sign matters least becomes negative: it will be stored with the wrong sign."""
    parity = int_lanes(0)
    least = lanes(np.float32(np.inf))
    for i in range(8):
        value = load(f, y + i)
        parity = parity ^ bits(value)
        cost = magnitude(value) * load(f, w + i)
        least = where(cost < least, cost, least)
    flip = parity & (np.int32(-(2**31)) if even else np.int32(0))
    for i in range(8):
        size = magnitude(load(f, y + i))
        chosen = where(size * load(f, w + i) == least, flip, int_lanes(0))
        flip = flip ^ chosen
        store(f, y + i, from_bits(bits(size) ^ chosen))


@inner
def fill_tables(book: Codebook, shape: Shape, at: Places, f: Any, norms: bool) -> None:
    """Products of the block's groups with the half points; of its importance with their squares if ``norms``."""
    shifts, halves, _ = book.points.shape
    firsts = len(book.quads)
    for t in range(shifts):
        for c in range(shape.columns):
            table = (t * shape.columns + c) * halves
            fill_table(book.points[t], firsts, f, at.wy + c * shape.dim, at.dots + table)
            if norms:
                fill_table(book.squares[t], firsts, f, at.w + c * shape.dim, at.norms + table)


@inner
def add_octets(shape: Shape, low: Any, high: Any) -> Any:
    """Sums over sub-blocks of a number per octet (two vectors)."""
    total = evens(low, high) + odds(low, high)
    return evens(total, total) + odds(total, total) if shape.log_unit == 2 else total


@inner
def _spread(shape: Shape, number: Any, column: int) -> Any:
    """A number per sub-block, for each of 16 octets."""
    if shape.log_unit == 2:
        number = double_low(number, number)
    return double_high(number, number) if column else double_low(number, number)


@inner
def sample(book: Codebook, shape: Shape, at: Places, f: Any, n: Any, m: int) -> None:
    """Find the best points at sample scales m and m + 1 and sum up what they amount to in each sub-block."""
    shifts, halves, _ = book.points.shape
    firsts = len(book.quads)
    for c in range(2):
        store(f, at.lane_scale + 2 * c, _spread(shape, load(f, at.scale + m), c))
        store(f, at.lane_scale + 2 * c + 1, _spread(shape, load(f, at.scale + m + 1), c))
    for t in range(shifts):
        for c in range(shape.columns):
            table = (t * shape.columns + c) * halves
            scales = at.lane_scale + 2 * (c * shape.dim >> 3)
            out = 2 * (t * shape.columns + c)
            dots, norms, found = at.dots + table, at.norms + table, at.found + out
            nearest(book.quads, book.members, halves - firsts, f, dots, norms, at.u, scales, at.score + out, n, found)
            for s in range(2):
                code = load(n, found + s)
                first = (code >> SECOND_BITS) * LANES + load(n, at.lane)
                second = ((code & SECOND) + firsts) * LANES + load(n, at.lane)
                for table, products in ((dots, at.lane_dot), (norms, at.lane_norm)):
                    total = gather(f, first + table * LANES) + gather(f, second + table * LANES)
                    store(f, products + out + s, total)
    for s in range(2):
        if shifts > 1:
            _choose_shift(shape, at, f, n, s)
        _add_up(shape, at, f, n, m, s)


@inner
def _shift_gain(shape: Shape, at: Places, f: Any, c: int, s: int) -> Any:
    """How much more the second shift explains than the first."""
    count = 2 * shape.columns
    return load(f, at.score + count + 2 * c + s) - load(f, at.score + 2 * c + s)


@inner
def _choose_shift(shape: Shape, at: Places, f: Any, n: Any, s: int) -> None:
    """Move what the second shift found over the first where it scores higher, by point or by sub-block."""
    count = 2 * shape.columns
    shared = add_octets(shape, _shift_gain(shape, at, f, 0, s), _shift_gain(shape, at, f, 1, s))
    for c in range(shape.columns):
        here = 2 * c + s
        gain = _spread(shape, shared, c) if shape.shared_shift else _shift_gain(shape, at, f, c, s)
        better = gain > np.float32(0)
        for table in (at.lane_dot, at.lane_norm):
            store(f, table + here, where(better, load(f, table + count + here), load(f, table + here)))
        moved = load(n, at.found + count + here) | np.int32(1 << SHIFT_BIT)
        store(n, at.found + here, where(better, moved, load(n, at.found + here)))


@inner
def _octet_sum(shape: Shape, f: Any, table: int, column: int) -> Any:
    """Sums over 16 octets of a number per point; consecutive points of an octet stand two vectors apart."""
    first = table + 2 * column * shape.parts
    return load(f, first) + load(f, first + 2) if shape.parts == 2 else load(f, first)


@inner
def _add_up(shape: Shape, at: Places, f: Any, n: Any, m: int, s: int) -> None:
    """Keep the codes of sample m + s and the products of each sub-block."""
    dots, norms = at.lane_dot + s, at.lane_norm + s
    dot = add_octets(shape, _octet_sum(shape, f, dots, 0), _octet_sum(shape, f, dots, 1))
    norm = add_octets(shape, _octet_sum(shape, f, norms, 0), _octet_sum(shape, f, norms, 1))
    used = norm > np.float32(0)
    store(f, at.dot + m + s, dot)
    store(f, at.norm + m + s, norm)
    store(f, at.ideal + m + s, where(used, dot, lanes(np.float32(0))) / where(used, norm, lanes(np.float32(1))))
    for c in range(shape.columns):
        store(n, at.code + (m + s) * shape.columns + c, load(n, at.found + 2 * c + s))
