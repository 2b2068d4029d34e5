"""From rows of weights to rows of blocks: the search over one super-block, and the bits of its outcome."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import jit, lean
from gguflike.kernels.encode.lattice_block import (
    EVEN,
    NONE,
    NUMBERS,
    SHIFT_BIT,
    Places,
    Shape,
    add_octets,
    level,
    sample,
    take_block,
)
from gguflike.kernels.encode.lattice_scales import choose, first_scales, refit, resample, search_d
from gguflike.kernels.encode.lattice_tables import NUMBER_BIT, Codebook
from gguflike.kernels.encode.permute import gather
from gguflike.kernels.half import f32_to_f16
from gguflike.kernels.lanes import (
    LANES,
    bits,
    from_bits,
    int_lanes,
    lanes,
    load,
    magnitude,
    minimum,
    store,
    store_word,
    where,
)


class Effort(NamedTuple):
    """How far to search.

    ladder  float32: sample scales of a sub-block, relative to its root mean square; or none
    spread  float32: values tried for d (lattice_scales.search_d); a multiple of 16, or none for the plain rule
    again   whether to sample the best scales and their neighbours once d is known
    rough   for how many samples lattice_near.py finds the points; types with two shifts: for all
    """

    ladder: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    again: bool
    rough: int


@lean
def search_block(
    book: Codebook, shape: Shape, effort: Effort, at: Places, f: Any, n: Any, h: Any, largest: float
) -> Any:
    """Find points, k and sample (``pick``) and d for the block in ``f``; d is 0 where zeros are best."""
    d = first_scales(shape, effort.ladder, at, f, n, largest)
    samples = len(effort.ladder) + 1
    for m in range(samples):
        sample(book, shape, at, f, n, h, m, m < effort.rough)
    if effort.again:
        d = search_d(shape, effort.spread, at, f, largest, d, samples)
        choose(shape, at, f, n, d, largest, samples)
        resample(shape, at, f, n, d, largest, samples)
        for m in range(samples, samples + 2):
            sample(book, shape, at, f, n, h, m, False)
        samples += 2
    if len(effort.spread) > 0:
        d = search_d(shape, effort.spread, at, f, largest, d, samples)
        choose(shape, at, f, n, d, largest, samples)
    change = lanes(np.float32(0))
    if shape.signs == EVEN:
        for c in range(2):
            _mend_signs(book, shape, at, f, n, c)
        change = add_octets(shape, load(f, at.lane_scale), load(f, at.lane_scale + 1))
    return refit(shape, at, f, n, d, largest, change) if len(effort.spread) > 0 else d


@lean
def _words(shape: Shape, at: Places, n: Any, column: int, part: int) -> Any:
    """The points chosen for 16 octets, or for half ``part`` of them."""
    octet = load(n, at.lane) + column * LANES
    chosen = gather(n, (octet >> shape.log_unit) + (at.pick + 1) * LANES)
    return gather(n, (chosen * shape.columns + (at.word + column * shape.parts + part)) * LANES + load(n, at.lane))


@lean
def _mend_signs(book: Codebook, shape: Shape, at: Places, f: Any, n: Any, column: int) -> None:
    """Move the wrong sign of each of 16 octets to where it costs least with the points now chosen.

    What this adds to the products with the points goes to vector ``lane_scale + column``. Costs are float32 whose last
    three bits say which weight.
    """
    now, least = lanes(np.float32(0)), lanes(np.float32(np.inf))
    wrong = int_lanes(0)
    row = 8 * column
    for part in range(shape.parts):
        word = _words(shape, at, n, column, part)
        for i in range(shape.dim):
            y = load(f, at.y + row)
            cost = magnitude(y) * load(f, at.w + row) * level(book.levels, shape.dim, word, i)
            cost = from_bits(bits(cost) & np.int32(-8) | np.int32(row & 7))
            wrong = wrong | bits(y)
            now = where(bits(y) < 0, cost, now)
            least = minimum(cost, least)
            row += 1
    moved = int_lanes(1) << (bits(least) & 7)
    store(n, at.minus + column, load(n, at.minus + column) ^ where(wrong < 0, moved, int_lanes(0)))
    gain = (from_bits(bits(now) & -8) - from_bits(bits(least) & -8)) * np.float32(4)
    store(f, at.lane_scale + column, where(wrong < 0, gain, lanes(np.float32(0))))


@lean
def write_symbols(shape: Shape, at: Places, n: Any, symbols: Any) -> None:
    """Vectors of ``symbols``: points and shifts (columns), signs of octets (2), k of sub-blocks."""
    for c in range(2):
        for part in range(shape.parts):
            word = _words(shape, at, n, c, part)
            store(symbols, c * shape.parts + part, word >> NUMBER_BIT & NUMBERS)
            store(symbols, shape.columns + c * shape.parts + part, word >> SHIFT_BIT)
        if shape.signs != NONE:
            store(symbols, 2 * shape.columns + c, load(n, at.minus + c))
    store(symbols, 2 * shape.columns + 2, load(n, at.pick))


@lean
def write_bits(symbols: Any, layout: Any, out: Any) -> None:
    """Pack fields from the lowest bit up. ``layout`` int32 (n, 3): symbol, right shift, width in bits."""
    held, count, to = 0, 0, 0
    for i in range(len(layout)):
        width = layout[i, 2]
        held |= ((symbols[layout[i, 0]] >> layout[i, 1]) & ((1 << width) - 1)) << count
        count += width
        if count >= 32:
            store_word(out, to, np.uint32(held))
            held >>= 32
            count -= 32
            to += 4
    while count > 0:
        out[to] = held & 255
        held >>= 8
        count -= 8
        to += 1


@jit
def encode_blocks(
    x: Any,
    weights: Any,
    out: Any,
    book: Codebook,
    shape: Shape,
    effort: Effort,
    layout: Any,
    at: Places,
    f: Any,
    n: Any,
    h: Any,
    symbols: Any,
) -> None:
    """Encode blocks x float32 (blocks, 256) into out uint8 (blocks, block_bytes).

    ``weights``: float32 (blocks per row, 256), or (1, 0) without importance. ``symbols``: int32 tile, all zero.
    """
    for i in range(LANES):
        n[at.lane * LANES + i] = i
    for block in range(len(x)):
        largest = take_block(x[block], weights[block % len(weights)], shape, at, f, n)
        d = np.float32(0)
        if largest > 0:
            d = search_block(book, shape, effort, at, f, n, h, largest)
        if d > 0:
            write_symbols(shape, at, n, symbols)
            symbols[len(symbols) - LANES] = f32_to_f16(d)
        else:
            symbols[:] = 0
        write_bits(symbols, layout, out[block])
