"""The search over one super-block, the bits of its outcome, and the loop over blocks.

``Shape``, ``Search``, ``Scratch`` (``at``) and the tiles ``floats``, ``ints``, ``shorts`` are those of scratch.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.lattice.block import coordinate, find_points, load_block, sum_sub_blocks, to_octets
from gguflike.kernels.encode.lattice.bound import least_error
from gguflike.kernels.encode.lattice.codebook import NUMBER_BIT, Codebook
from gguflike.kernels.encode.lattice.repair import load_importance
from gguflike.kernels.encode.lattice.scales import choose, first_scales, refit_d, resample, search_d
from gguflike.kernels.encode.lattice.scratch import EVEN_SIGNS, NO_SIGNS, SUPER, Scratch, Search, Shape
from gguflike.kernels.encode.tiles import F32, Array, Floats, Ints, IntTile, ShortTile, Tile
from gguflike.kernels.engine.jit import jit, lean
from gguflike.kernels.vector.arrays import gather, load, store, store_word
from gguflike.kernels.vector.lanes import (
    bits,
    evens,
    f32_to_f16,
    from_bits,
    magnitude,
    minimum,
    odds,
    reduce_add,
    splat,
    splat_i32,
    where,
)
from gguflike.kernels.vector.memory import prefetch
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import F32x16, I32x16

_ROUNDING = np.float32(1 + 1e-5)  # no sum of 256 products is rounded by as much


@lean(forceinline=True)
def search_block(
    book: Codebook, shape: Shape, search: Search, at: Scratch, floats: Tile, ints: IntTile, shorts: ShortTile,
    largest: float,
) -> F32:  # fmt: skip
    """Find points, and for each sub-block the best k and candidate (``choice``), for the block loaded; returns d.

    d is 0 where zeros are best. ``largest`` is the block's largest magnitude.
    """
    if shape.dense or search.approximate > 0:
        load_importance(floats, at.importance, shorts, at.repair)
    absmax_d = first_scales(shape, search, at, floats, ints, largest)
    d, gain = np.float32(0), np.float32(0)
    candidates = len(search.scales)
    for m in range(candidates):
        find_points(book, shape, search, at, floats, ints, shorts, m)
    if search.resample:
        d, gain = search_d(shape, search.d_grid, at, floats, largest, d, candidates)
        choose(shape, at, floats, ints, d, largest, candidates)
        resample(shape, at, floats, ints, d, largest, candidates)
        for m in range(candidates, candidates + 2):
            find_points(book, shape, search, at, floats, ints, shorts, m)
        candidates += 2
    if search.prune:
        d, gain = search_d(shape, search.d_grid, at, floats, largest, d, candidates)
    if not search.prune or gain < _most_gain(book, shape, at, floats, candidates):
        find_points(book, shape, search, at, floats, ints, shorts, candidates)
        candidates += 1
        last_d, last_gain = search_d(shape, search.d_grid, at, floats, largest, absmax_d, candidates)
        if last_gain > gain:
            d = last_d
    if len(search.d_grid) == 0:
        return absmax_d
    choose(shape, at, floats, ints, d, largest, candidates)
    dot_change = splat(np.float32(0))
    if shape.signs == EVEN_SIGNS:
        for c in range(2):
            _move_wrong_signs(book, shape, at, floats, ints, c)
        dot_change = sum_sub_blocks(shape, load(floats, at.octet_scale), load(floats, at.octet_scale + 1))
    return refit_d(shape, at, floats, ints, d, largest, dot_change)


@lean(forceinline=True)
def _most_gain(book: Codebook, shape: Shape, at: Scratch, floats: Tile, m: int) -> F32:
    """An upper bound of the gain (scales.py) of any points at the scale of candidate ``m``."""
    gain = splat(np.float32(0))
    for c in range(2):
        sum_wyy, scale = load(floats, at.octet_sums + c), to_octets(shape, load(floats, at.scale + m), c)
        error = splat(np.float32(np.inf))
        for t in range(len(book.levels)):
            error = minimum(least_error(book, t, floats, at.values + 8 * c, at.importance + 8 * c, scale), error)
        gain = gain + (sum_wyy * _ROUNDING - error)
    return reduce_add(gain)


@lean
def _chosen_points(shape: Shape, at: Scratch, ints: IntTile, column: int, part: int) -> I32x16:
    """The packed points chosen for a column of octets, or for the halves ``part`` of these."""
    lane = load(ints, at.lane_numbers)
    sub_block = (lane + column * LANES) >> shape.log_octets
    candidate = gather(ints, sub_block + (at.choice + 1) * LANES)
    row = candidate * shape.columns + (at.points + column * shape.per_octet + part)
    return gather(ints, row * LANES + lane)


@lean
def _move_wrong_signs(book: Codebook, shape: Shape, at: Scratch, floats: Tile, ints: IntTile, column: int) -> None:
    """Move the wrong sign of each of 16 octets to the weight where it costs least with the points now chosen.

    A wrong sign costs 4 s w |y| p; the last three bits of costs say which weight. What the move adds to ``dot`` of the
    octets goes to row ``octet_scale + column``.
    """
    now, least = splat(np.float32(0)), splat(np.float32(np.inf))
    wrong = splat_i32(0)
    row = 8 * column
    for part in range(shape.per_octet):
        packed = _chosen_points(shape, at, ints, column, part)
        for i in range(shape.dim):
            y = load(floats, at.values + row)
            cost = magnitude(y) * load(floats, at.importance + row) * coordinate(book.levels, shape.dim, packed, i)
            cost = from_bits(bits(cost) & np.int32(-8) | np.int32(row & 7))
            wrong = wrong | bits(y)
            now = where(bits(y) < 0, cost, now)
            least = minimum(cost, least)
            row += 1
    moved = splat_i32(1) << (bits(least) & 7)
    store(ints, at.signs + column, load(ints, at.signs + column) ^ where(wrong < 0, moved, splat_i32(0)))
    gain = (from_bits(bits(now) & -8) - from_bits(bits(least) & -8)) * np.float32(4)
    store(floats, at.octet_scale + column, where(wrong < 0, gain, splat(np.float32(0))))


@lean(forceinline=True)
def write_symbols(shape: Shape, at: Scratch, ints: IntTile, quads: Ints, symbols: IntTile) -> None:
    """Fill the tile of symbols, by rows: points with deltas (columns), signs of octets (2), k, d; then ``quads``.

    d is left to the caller. ``quads``: the kinds, as fields.py has them.
    """
    for c in range(2):
        for part in range(shape.per_octet):
            store(symbols, c * shape.per_octet + part, _chosen_points(shape, at, ints, c, part) >> NUMBER_BIT)
        if shape.signs != NO_SIGNS:
            store(symbols, shape.columns + c, load(ints, at.signs + c))
    store(symbols, shape.columns + 2, load(ints, at.choice))
    for i in range(len(quads)):
        row, right, width = quads[i, 0], quads[i, 1], quads[i, 2]
        low, high = _extract(symbols, row, right, width), _extract(symbols, row + 1, right, width)
        pairs = from_bits(bits(evens(low, high)) | bits(odds(low, high)) << width)
        store(symbols, shape.columns + 4 + i, bits(evens(pairs, pairs)) | bits(odds(pairs, pairs)) << 2 * width)


@lean
def _extract(symbols: IntTile, row: int, right: int, width: int) -> F32x16:
    """``width`` bits of a row of symbols, as floats, which is what ``evens`` and ``odds`` take."""
    return from_bits(load(symbols, row) >> right & (np.int32(1) << width) - np.int32(1))


@lean(forceinline=True)
def write_bits(symbols: IntTile, plan: npt.NDArray[np.uint32], out: Array) -> None:
    """Pack the fields of a block into ``out`` uint8, from the lowest bit up; ``plan`` is ``fields.plan_bits``.

    Each field writes the word it is in, complete or not: a branch would be hard to predict.
    """
    held = np.uint64(0)
    for i in range(len(plan)):
        value = np.uint32(symbols[plan[i, 0]]) >> plan[i, 1] & plan[i, 2]
        held |= np.uint64(value) << np.uint64(plan[i, 3])
        store_word(out, np.intp(plan[i, 4]), np.uint32(held))
        held >>= np.uint64(plan[i, 5])


@jit
def encode_blocks(
    x: Floats,
    importance: Floats,
    out: Array,
    book: Codebook,
    shape: Shape,
    search: Search,
    quads: Ints,
    plan: npt.NDArray[np.uint32],
    at: Scratch,
    floats: Tile,
    ints: IntTile,
    shorts: ShortTile,
    symbols: IntTile,
) -> None:
    """Encode blocks ``x`` float32 (blocks, 256) into ``out`` uint8 (blocks, block_bytes).

    ``importance``: float32 (blocks per row, 256), or (1, 0) where all is equal. ``symbols``: int32 tile, all zero.
    """
    for i in range(LANES):
        ints[at.lane_numbers * LANES + i] = i
    for block in range(len(x)):
        for i in range(block * SUPER + SUPER, block * SUPER + 2 * SUPER, LANES):
            prefetch(x.ctypes.data + 4 * i)  # hardware does not: too much goes on between two blocks
        largest = load_block(x[block], importance[block % len(importance)], shape, at, floats, ints)
        d = np.float32(0)
        if largest > 0:
            d = search_block(book, shape, search, at, floats, ints, shorts, largest)
        if d > 0:
            write_symbols(shape, at, ints, quads, symbols)
            symbols[(shape.columns + 3) * LANES] = f32_to_f16(d)
        else:
            symbols[:] = 0
        write_bits(symbols, plan, out[block])
