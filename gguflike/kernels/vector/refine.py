"""Activations to int8, and once more where that is too coarse.

A block of 32 values that holds one far larger than the row's others is rounded as coarsely as that one asks for. Where
its largest magnitude is more than so many times the row's root mean square (its crest factor), the block is *refined*:
what rounding has left of each value is rounded to int8 again, with a scale of its own, which makes 15 bits of both. The
matrix products add that up as blocks of a list that each token has (matmul/refine.py):

    count    int64
    scales   float32 (count,), from byte 64 on, where each of these has room for all blocks of a row
    sums     int32 (count, 2): of 16 codes each
    blocks   int32 (count,): which of the row's
    codes    int8 (count, 32)

Few values can be large: of n values, n / c**2 at most are more than c times their root mean square. Of the first token
of a text all blocks are refined: most that follow attend to it, so that what it is rounded to is an error of all.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args, load_word, store_word
from gguflike.kernels.engine.jit import inner, jit, op
from gguflike.kernels.engine.memory import ROW, ROW_BYTES
from gguflike.kernels.vector.args import REFINE_ROWS
from gguflike.kernels.vector.lanes import (
    fma,
    reduce_add,
    splat,
    to_float,
)
from gguflike.kernels.vector.memory import load_f32, load_f32x16, load_i8x16, store_i32
from gguflike.kernels.vector.quantize import quantize_block
from gguflike.kernels.vector.sizes import BLOCK, BLOCKS_AT, CODES_AT, LISTS_AT, SUMS_AT, refined_bytes
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import f32_of

INFINITE, MOST = np.float32(np.inf), np.float32(127)
_list_bytes = inner(refined_bytes)


@jit
def refine_row(
    x: Address, columns: int, codes: Address, scales: Address, sums: Address, refined: Address, crest: np.float32
) -> None:
    """Quantize one token as ``quantize_row`` does, and write the list of its refined blocks to ``refined``."""
    blocks, count = columns // BLOCK, 0
    lists = refined + LISTS_AT
    squares = splat(np.float32(0))
    for block in range(blocks):
        place = x + 4 * BLOCK * block
        low, high = load_f32x16(place), load_f32x16(place + 64)
        squares = fma(low, low, fma(high, high, squares))
        quantize_block(low, high, codes + BLOCK * block, scales + 4 * block, sums + 8 * block)
    coarsest = np.float32(crest / MOST)  # scale of a block that is not refined, over the root mean square
    limit = np.float32(coarsest * coarsest * np.float32(reduce_add(squares) / np.float32(columns)))
    for block in range(blocks):
        scale = load_f32(scales + 4 * block)
        if scale * scale > limit and scale < INFINITE:
            place, here = x + 4 * BLOCK * block, codes + BLOCK * block
            low = fma(-to_float(load_i8x16(here)), splat(scale), load_f32x16(place))
            high = fma(-to_float(load_i8x16(here + 16)), splat(scale), load_f32x16(place + 64))
            at = lists + CODES_AT * blocks + BLOCK * count
            quantize_block(low, high, at, lists + 4 * count, lists + SUMS_AT * blocks + 8 * count)
            store_i32(lists + BLOCKS_AT * blocks + 4 * count, block)
            count += 1
    store_word(refined, count)


@op("vector.refine:rows")
def _rows(args: Address, state: Address, start: int, stop: int) -> None:
    """Quantize activations to int8, and list what is refined. Items are tokens; words: ``REFINE_ROWS``."""
    a = load_args(REFINE_ROWS, args)
    columns, blocks, stride = a.columns, a.columns // BLOCK, _list_bytes(a.columns)
    for t in range(start, stop):
        scales, sums = a.scales + 4 * blocks * t, a.sums + 8 * blocks * t
        codes, refined = a.codes + columns * t, a.refined + stride * t
        crest = f32_of(a.crest) if load_word(a.rows + ROW_BYTES * t + ROW.position) else np.float32(0)
        refine_row(a.x + 4 * columns * t, columns, codes, scales, sums, refined, crest)
