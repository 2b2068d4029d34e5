"""From rows of weights to rows of blocks: the search over one super-block, and the bits of its outcome."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.encode.lattice.block import (
    EVEN,
    NONE,
    SUPER,
    Effort,
    Places,
    Shape,
    add_octets,
    level,
    sample,
    spread,
    take_block,
)
from gguflike.kernels.encode.lattice.bound import least_error
from gguflike.kernels.encode.lattice.codebook import NUMBER_BIT, Codebook
from gguflike.kernels.encode.lattice.repair import take_shares
from gguflike.kernels.encode.lattice.scales import choose, first_scales, refit, resample, search_d
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

_ROUNDING = np.float32(1 + 1e-5)  # no sum of 256 products is rounded by as much


@lean(forceinline=True)
def search_block(
    book: Codebook, shape: Shape, effort: Effort, at: Places, f: Any, n: Any, h: Any, largest: float
) -> Any:
    """Find points, k and sample (``pick``) and d for the block in ``f``; d is 0 where zeros are best."""
    if shape.dense or effort.rough > 0:
        take_shares(f, at.w, h, at.near)
    start = first_scales(shape, effort, at, f, n, largest)
    d, gain = np.float32(0), np.float32(0)
    samples = len(effort.ladder)
    for m in range(samples):
        sample(book, shape, effort, at, f, n, h, m)
    if effort.again:
        d, gain = search_d(shape, effort.spread, at, f, largest, d, samples)
        choose(shape, at, f, n, d, largest, samples)
        resample(shape, at, f, n, d, largest, samples)
        for m in range(samples, samples + 2):
            sample(book, shape, effort, at, f, n, h, m)
        samples += 2
    if effort.bounded:
        d, gain = search_d(shape, effort.spread, at, f, largest, d, samples)
    if not effort.bounded or gain < _most_gain(book, shape, at, f, samples):
        sample(book, shape, effort, at, f, n, h, samples)
        samples += 1
        plain_d, plain_gain = search_d(shape, effort.spread, at, f, largest, start, samples)
        if plain_gain > gain:
            d = plain_d
    if len(effort.spread) == 0:
        return start
    choose(shape, at, f, n, d, largest, samples)
    change = splat(np.float32(0))
    if shape.signs == EVEN:
        for c in range(2):
            _mend_signs(book, shape, at, f, n, c)
        change = add_octets(shape, load(f, at.lane_scale), load(f, at.lane_scale + 1))
    return refit(shape, at, f, n, d, largest, change)


@lean(forceinline=True)
def _most_gain(book: Codebook, shape: Shape, at: Places, f: Any, m: int) -> Any:
    """No less than by how much points at sample scale m can be better than zeros."""
    gain = splat(np.float32(0))
    for c in range(2):
        energy, scale = load(f, at.octets + c), spread(shape, load(f, at.scale + m), c)
        error = splat(np.float32(np.inf))
        for t in range(len(book.levels)):
            error = minimum(least_error(book, t, f, at.y + 8 * c, at.w + 8 * c, scale), error)
        gain = gain + (energy * _ROUNDING - error)
    return reduce_add(gain)


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
    now, least = splat(np.float32(0)), splat(np.float32(np.inf))
    wrong = splat_i32(0)
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
    moved = splat_i32(1) << (bits(least) & 7)
    store(n, at.minus + column, load(n, at.minus + column) ^ where(wrong < 0, moved, splat_i32(0)))
    gain = (from_bits(bits(now) & -8) - from_bits(bits(least) & -8)) * np.float32(4)
    store(f, at.lane_scale + column, where(wrong < 0, gain, splat(np.float32(0))))


@lean(forceinline=True)
def write_symbols(shape: Shape, at: Places, n: Any, quads: Any, symbols: Any) -> None:
    """Vectors of ``symbols``: points with shifts (columns), signs of octets (2), k of sub-blocks; d; then quads."""
    for c in range(2):
        for part in range(shape.parts):
            store(symbols, c * shape.parts + part, _words(shape, at, n, c, part) >> NUMBER_BIT)
        if shape.signs != NONE:
            store(symbols, shape.columns + c, load(n, at.minus + c))
    store(symbols, shape.columns + 2, load(n, at.pick))
    for i in range(len(quads)):
        width = quads[i, 2]
        low, high = _cut(symbols, quads[i, 0], quads[i, 1], width), _cut(symbols, quads[i, 0] + 1, quads[i, 1], width)
        pairs = from_bits(bits(evens(low, high)) | bits(odds(low, high)) << width)
        store(symbols, shape.columns + 4 + i, bits(evens(pairs, pairs)) | bits(odds(pairs, pairs)) << 2 * width)


@lean
def _cut(symbols: Any, vector: int, right: int, width: int) -> Any:
    """Bits of a vector of symbols, as floats for what moves lanes."""
    return from_bits(load(symbols, vector) >> right & (np.int32(1) << width) - np.int32(1))


@lean(forceinline=True)
def write_bits(symbols: Any, layout: Any, out: Any) -> None:
    """Pack fields from the lowest bit up. ``layout``: lattice_layout.layout.

    Each field writes the word it is in, complete or not: a branch would be hard to predict.
    """
    held = np.uint64(0)
    for i in range(len(layout)):
        value = np.uint32(symbols[layout[i, 0]]) >> layout[i, 1] & layout[i, 2]
        held |= np.uint64(value) << np.uint64(layout[i, 3])
        store_word(out, np.intp(layout[i, 4]), np.uint32(held))
        held >>= np.uint64(layout[i, 5])


@jit
def encode_blocks(
    x: Any,
    weights: Any,
    out: Any,
    book: Codebook,
    shape: Shape,
    effort: Effort,
    quads: Any,
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
        for i in range(block * SUPER + SUPER, block * SUPER + 2 * SUPER, LANES):
            prefetch(x.ctypes.data + 4 * i)  # hardware does not: too much goes on between two blocks
        largest = take_block(x[block], weights[block % len(weights)], shape, at, f, n)
        d = np.float32(0)
        if largest > 0:
            d = search_block(book, shape, effort, at, f, n, h, largest)
        if d > 0:
            write_symbols(shape, at, n, quads, symbols)
            symbols[(shape.columns + 3) * LANES] = f32_to_f16(d)
        else:
            symbols[:] = 0
        write_bits(symbols, layout, out[block])
