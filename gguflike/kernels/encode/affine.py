"""Blocks of a float16 scale and a float16 minimum, with importance: Q4_1, Q5_1. Value = d * code + m.

Search as in leastsquares.py with a free offset; after the minimum is rounded to float16 the scale is refitted to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguflike.kernels.encode.driver import SMALLEST, Codec, Encode, block_encoder, codec
from gguflike.kernels.encode.leastsquares import Floats, affine_code, affine_moments, spans
from gguflike.kernels.encode.packing import Slot
from gguflike.kernels.encode.rounding import (
    HALF,
    LARGEST,
    clamp_tile,
    f16_bits,
    reciprocal,
    round_to_f16,
    stored_scale,
    weighted,
)
from gguflike.kernels.encode.scale import value_range
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import any_lane, fma, maximum, minimum, splat, to_int, where

SIZE = 32


class Absmax(NamedTuple):
    """The textbook rule: codes 0 .. ``hi`` span the values' range."""

    hi: np.float32


class Search(NamedTuple):
    """Search from ``grid`` with ``rounds`` of codes and factors in turn; competes with the rule.

    ``grid`` as in ``best_affine``.
    """

    hi: np.float32
    grid: Floats
    rounds: int


@lean
def clamped_range(tile: Any) -> Any:
    """(least value, span) of a block, its values brought within ``LARGEST``."""
    least, greatest = value_range(tile, 0, SIZE)
    clamp_tile(tile, SIZE, maximum(greatest, -least))
    least = minimum(maximum(least, -LARGEST), LARGEST)
    return least, minimum(maximum(greatest, -LARGEST), LARGEST) - least


@lean
def normalize(tile: Any, importance: Any, least: Any, inverse_span: Any) -> Any:
    """Bring all values into [0, 1]; returns the sums of w and of w*x."""
    sw = splat(0.0)
    sx = splat(0.0)
    for j in range(SIZE):
        x = (load(tile, j) - least) * inverse_span
        store(tile, j, x)
        sw = sw + load(importance, j)
        sx = sx + weighted(importance, j, x)
    return sw, sx


@lean
def best_line(tile: Any, importance: Any, sw: Any, sx: Any, grid: Any, rounds: int, hi: Any) -> Any:
    """(scale, offset) of least squared error as ``best_affine`` finds them, for values from 0 to 1.

    With the offset free, the squares explained are ``n**2 / det`` and a constant: candidates are compared without a
    division. The third result is what the scale loses for each unit that is added to the offset while the codes stay.
    """
    best_n = splat(0.0)
    best_det = splat(1.0)
    best_sq = splat(0.0)
    best_qq = splat(0.0)
    for g in range(len(grid) + rounds):
        if g < len(grid):
            xq, qq, sq = affine_moments(tile, importance, 0, SIZE, splat(grid[g, 0]), splat(grid[g, 1]), hi)
        else:
            inverse = best_det * reciprocal(best_n)
            offset = (sx * inverse - best_sq) * reciprocal(sw)
            xq, qq, sq = affine_moments(tile, importance, 0, SIZE, inverse, -offset, hi)
        n = sw * xq - sx * sq
        det = sw * qq - sq * sq
        better = (det > sw * qq * np.float32(1e-6)) & (n > 0.0) & (n * n * best_det > best_n * best_n * det)
        best_n = where(better, n, best_n)
        best_det = where(better, det, best_det)
        best_sq = where(better, sq, best_sq)
        best_qq = where(better, qq, best_qq)
    scale = best_n / best_det
    return scale, (sx - scale * best_sq) * reciprocal(sw), best_sq * reciprocal(best_qq)


@lean
def store_codes(
    tile: Any, importance: Any, symbols: Any, d: Any, m: Any, other_d: Any, other_m: Any, hi: Any
) -> Any:  # fmt: skip
    """Codes at scale ``d`` and minimum ``m``; returns their squared error, and that of another scale and minimum."""
    inverse = reciprocal(d)
    shift = -m * inverse
    other_inverse = reciprocal(other_d)
    other_shift = -other_m * other_inverse
    error = splat(0.0)
    other = splat(0.0)
    for j in range(SIZE):
        x = load(tile, j)
        q = affine_code(x, inverse, shift, hi)
        store(symbols, j, to_int(q))
        rest = x - fma(d, q, m)
        error = fma(rest, weighted(importance, j, rest), error)
        rest = x - fma(other_d, affine_code(x, other_inverse, other_shift, hi), other_m)
        other = fma(rest, weighted(importance, j, rest), other)
    return error, other


@codec(Search)
def search_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Search) -> None:
    """Symbols: the codes, the scale, the minimum."""
    least, span = clamped_range(tile)
    inverse_span = reciprocal(where(span < SMALLEST, splat(0.0), span))
    sw, sx = normalize(tile, importance, least, inverse_span)
    scale, offset, slope = best_line(tile, importance, sw, sx, s.grid, s.rounds, s.hi)
    m = round_to_f16(offset * span + least)
    moved = (m - least) * inverse_span
    d = stored_scale(maximum(scale - (moved - offset) * slope, splat(0.0)) * span)
    plain_d = round_to_f16(span / s.hi)
    plain_m = round_to_f16(least)
    plain_moved = (plain_m - least) * inverse_span
    found, plainly = store_codes(
        tile, importance, symbols, d * inverse_span, moved, plain_d * inverse_span, plain_moved, s.hi
    )  # fmt: skip
    worse = plainly < found
    if any_lane(worse):
        d = where(worse, plain_d, d)
        m = where(worse, plain_m, m)
        moved = where(worse, plain_moved, moved)
        store_codes(tile, importance, symbols, d * inverse_span, moved, d * inverse_span, moved, s.hi)
    store(symbols, SIZE, f16_bits(d))
    store(symbols, SIZE + 1, f16_bits(m))


@codec(Absmax)
def plain_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Absmax) -> None:
    """Codes are rounded half up from the unrounded scale and minimum. Symbols as in ``search_lanes``."""
    least, greatest = value_range(tile, 0, SIZE)
    d = (greatest - least) / s.hi
    inverse = where(d == 0.0, splat(0.0), 1.0 / where(d == 0.0, splat(1.0), d))
    for j in range(SIZE):
        store(symbols, j, to_int(minimum(maximum((load(tile, j) - least) * inverse + HALF, splat(0.0)), splat(s.hi))))
    store(symbols, SIZE, f16_bits(round_to_f16(d)))
    store(symbols, SIZE + 1, f16_bits(round_to_f16(least)))


def affine_encoder(hi: int, grid: Floats, fields: list[list[list[Slot]]], unweighted: Codec) -> Encode:
    """Make the encoder of a type from the codecs of this module; ``unweighted`` as in ``block_encoder``."""
    top = np.float32(hi)
    return block_encoder(
        SIZE, SIZE + 2, fields, Search(top, spans(hi, grid), 1), absmax=Absmax(top), unweighted=unweighted
    )
