"""From rows of weights to rows of blocks: the search over one super-block, and the bits of its outcome."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import inner, jit
from gguflike.kernels.encode.lattice_block import (
    EVEN,
    NONE,
    SECOND,
    SHIFT_BIT,
    Places,
    Shape,
    add_octets,
    fill_tables,
    sample,
    take_block,
)
from gguflike.kernels.encode.lattice_scales import choose, first_scales, refit, resample, search_d
from gguflike.kernels.encode.lattice_tables import SECOND_BITS, Codebook
from gguflike.kernels.encode.permute import gather
from gguflike.kernels.half import f32_to_f16
from gguflike.kernels.lanes import LANES, bits, from_bits, int_lanes, lanes, load, magnitude, store, where


class Effort(NamedTuple):
    """How far to search.

    ladder  float32: sample scales of a sub-block, relative to its root mean square; an odd number, or none
    spread  float32: values tried for d (lattice_scales.search_d); a multiple of 16, or none for the plain rule
    rounds  how often the winning scales are sampled again
    """

    ladder: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    rounds: int


@inner
def search_block(
    book: Codebook, shape: Shape, effort: Effort, at: Places, f: Any, n: Any, largest: float, weighted: bool
) -> Any:
    """Find points, k and sample (``pick``) and d for the block in ``f``; d is 0 where zeros are best."""
    fill_tables(book, shape, at, f, weighted)
    d = first_scales(shape, effort.ladder, at, f, n, largest)
    samples = len(effort.ladder) + 1
    rounds = effort.rounds
    for m in range(0, samples + 2 * rounds, 2):
        if m >= samples:
            d = search_d(shape, effort.spread, at, f, largest, d, m)
            choose(shape, at, f, n, d, largest, m)
            resample(shape, at, f, n, d, largest, m)
        sample(book, shape, at, f, n, m)
    samples += 2 * rounds
    if len(effort.spread) > 0:
        d = search_d(shape, effort.spread, at, f, largest, d, samples)
        choose(shape, at, f, n, d, largest, samples)
    change = lanes(np.float32(0))
    if shape.signs == EVEN:
        for c in range(2):
            _mend_signs(book, shape, at, f, n, c)
        change = add_octets(shape, load(f, at.lane_scale), load(f, at.lane_scale + 1))
    return refit(shape, at, f, n, d, largest, change) if len(effort.spread) > 0 else d


@inner
def _codes(shape: Shape, at: Places, n: Any, column: int, part: int) -> Any:
    """The codes chosen for 16 octets, or for half ``part`` of them."""
    octet = load(n, at.lane) + column * LANES
    chosen = gather(n, (octet >> shape.log_unit) + (at.pick + 1) * LANES)
    return gather(n, (chosen * shape.columns + (at.code + column * shape.parts + part)) * LANES + load(n, at.lane))


@inner
def _mend_signs(book: Codebook, shape: Shape, at: Places, f: Any, n: Any, column: int) -> None:
    """Move the wrong sign of each of 16 octets to where it costs least with the points now chosen.

    What this adds to the products with the points goes to vector ``lane_scale + column``.
    """
    half = shape.dim >> 1
    firsts = len(book.quads)
    points = book.points.reshape(-1)
    cost_now = lanes(np.float32(0))
    least = lanes(np.float32(np.inf))
    place = int_lanes(0)
    wrong = int_lanes(0)
    place_in_points = int_lanes(0)
    row = half
    for i in range(8):
        if row == half:  # the next half point
            code = _codes(shape, at, n, column, i >> 2 if shape.parts == 2 else 0)
            first = (i & (shape.dim - 1)) < half
            place_in_points = (code >> SECOND_BITS if first else (code & SECOND) + firsts) * half
            row = 0
        level = gather(points, place_in_points + row)
        row += 1
        y = load(f, at.y + 8 * column + i)
        cost = magnitude(y) * load(f, at.w + 8 * column + i) * level
        cost_now = where(y < np.float32(0), cost, cost_now)
        wrong = wrong | bits(y)
        place = where(cost < least, int_lanes(i), place)
        least = where(cost < least, cost, least)
    wrong = wrong & np.int32(-(2**31))
    for i in range(8):
        size = bits(magnitude(load(f, at.y + 8 * column + i)))
        store(f, at.y + 8 * column + i, from_bits(size | where(place == i, wrong, int_lanes(0))))
    gain = (cost_now - least) * np.float32(4)
    store(f, at.lane_scale + column, where(wrong != 0, gain, lanes(np.float32(0))))


@inner
def write_symbols(book: Codebook, shape: Shape, at: Places, f: Any, n: Any, x: Any, symbols: Any) -> None:
    """Vectors of ``symbols``: points and shifts (columns), signs of octets (2), k of sub-blocks."""
    for c in range(2):
        for part in range(shape.parts):
            code = _codes(shape, at, n, c, part)
            store(symbols, c * shape.parts + part, gather(book.number, code & ((1 << SHIFT_BIT) - 1)))
            store(symbols, shape.columns + c * shape.parts + part, code >> SHIFT_BIT)
        signs = int_lanes(0)
        if shape.signs != NONE:
            for i in range(8):
                value = gather(x, (load(n, at.lane) + c * LANES) * 8 + i)
                sign = bits(value) ^ bits(load(f, at.y + 8 * c + i))
                signs = signs | where(sign < 0, int_lanes(1 << i), int_lanes(0))
        store(symbols, 2 * shape.columns + c, signs)
    store(symbols, 2 * shape.columns + 2, load(n, at.pick))


@inner
def write_bits(symbols: Any, layout: Any, out: Any) -> None:
    """Pack fields from the lowest bit up. ``layout`` int32 (n, 3): symbol, right shift, width in bits."""
    held, count, to = 0, 0, 0
    for i in range(len(layout)):
        width = layout[i, 2]
        held |= ((symbols[layout[i, 0]] >> layout[i, 1]) & ((1 << width) - 1)) << count
        count += width
        while count >= 8:
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
    symbols: Any,
) -> None:
    """Encode blocks x float32 (blocks, 256) into out uint8 (blocks, block_bytes).

    ``weights``: float32 (blocks per row, 256), or (1, 0) without importance. ``symbols``: int32 tile, all zero.
    """
    for i in range(LANES):
        n[at.lane * LANES + i] = i
        store(f, at.w + i, lanes(np.float32(1)))
    fill_tables(book, shape, at, f, True)
    weighted = weights.shape[1] > 0
    for block in range(len(x)):
        largest = take_block(x[block], weights[block % len(weights)], shape, at, f, n)
        d = np.float32(0)
        if largest > 0:
            d = search_block(book, shape, effort, at, f, n, largest, weighted)
        if d > 0:
            write_symbols(book, shape, at, f, n, x[block], symbols)
            symbols[len(symbols) - LANES] = f32_to_f16(d)
        else:
            symbols[:] = 0
        write_bits(symbols, layout, out[block])
