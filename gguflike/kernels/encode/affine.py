"""Blocks of a float16 scale and a float16 minimum, with importance: Q4_1, Q5_1. Value = d * code + m.

Searched as in leastsquares.py, but m may have either sign; when m has been rounded to float16, the scale is refitted to
it. Without importance, fixed.py searches these types.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflike.kernels.encode.driver import SMALLEST, BlockEncoder, Codec, block_encoder, codec
from gguflike.kernels.encode.leastsquares import SINGULAR, affine_code, affine_moments, spans
from gguflike.kernels.encode.packing import Field
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
from gguflike.kernels.encode.tiles import Floats, Importance, IntTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import any_lane, fma, maximum, minimum, splat, to_int, where
from gguflike.kernels.vector.types import F32x16

SIZE = 32


class Absmax(NamedTuple):
    """The absmax rule: codes 0 .. ``hi`` span the values' range."""

    hi: np.float32


class Search(NamedTuple):
    """Search from ``grid`` (as in ``best_affine``), then ``rounds`` of codes and line in turn; absmax competes."""

    hi: np.float32
    grid: Floats
    rounds: int


@lean
def clamped_range(tile: Tile) -> tuple[F32x16, F32x16]:
    """Clamp a block to +-``LARGEST``; returns (least value, range)."""
    least, greatest = value_range(tile, 0, SIZE)
    clamp_tile(tile, SIZE, maximum(greatest, -least))
    least = minimum(maximum(least, -LARGEST), LARGEST)
    return least, minimum(maximum(greatest, -LARGEST), LARGEST) - least


@lean
def normalize(tile: Tile, importance: Importance, least: F32x16, inverse_span: F32x16) -> tuple[F32x16, F32x16]:
    """Map all values to [0, 1]; returns (sum w, sum w x) of these."""
    sw = splat(0.0)
    sx = splat(0.0)
    for j in range(SIZE):
        x = (load(tile, j) - least) * inverse_span
        store(tile, j, x)
        sw = sw + load(importance, j)
        sx = sx + weighted(importance, j, x)
    return sw, sx


@lean
def best_line(
    tile: Tile, importance: Importance, sw: F32x16, sx: F32x16, grid: Floats, rounds: int, hi: np.float32
) -> tuple[F32x16, F32x16, F32x16]:
    """The (scale, offset) that minimize sum w (x - scale q - offset)^2 over the codes tried, for values in [0, 1].

    With the offset free, scale = n / det for n = sw xq - sx sq and det = sw qq - sq^2, and the squares explained are
    n^2 / det / sw plus a constant: candidates are compared without a division. The third result, sq / qq, is what the
    best scale loses for each unit that is added to the offset while the codes stay.
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
        better = (det > sw * qq * SINGULAR) & (n > 0.0) & (n * n * best_det > best_n * best_n * det)
        best_n = where(better, n, best_n)
        best_det = where(better, det, best_det)
        best_sq = where(better, sq, best_sq)
        best_qq = where(better, qq, best_qq)
    scale = best_n / best_det
    return scale, (sx - scale * best_sq) * reciprocal(sw), best_sq * reciprocal(best_qq)


@lean
def store_codes(
    tile: Tile, importance: Importance, symbols: IntTile, d: F32x16, m: F32x16, other_d: F32x16, other_m: F32x16,
    hi: np.float32,
) -> tuple[F32x16, F32x16]:  # fmt: skip
    """Store the codes at scale ``d`` and minimum ``m``; returns their squared error, and that of the other two."""
    inverse = reciprocal(d)
    shift = -m * inverse
    other_inverse = reciprocal(other_d)
    other_shift = -other_m * other_inverse
    error = splat(0.0)
    other_error = splat(0.0)
    for j in range(SIZE):
        x = load(tile, j)
        q = affine_code(x, inverse, shift, hi)
        store(symbols, j, to_int(q))
        residual = x - fma(d, q, m)
        error = fma(residual, weighted(importance, j, residual), error)
        residual = x - fma(other_d, affine_code(x, other_inverse, other_shift, hi), other_m)
        other_error = fma(residual, weighted(importance, j, residual), other_error)
    return error, other_error


@codec(Search)
def search_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Search) -> None:
    """Encode by the search. Symbols: the codes, then the bits of the scale and of the minimum."""
    least, span = clamped_range(tile)
    inverse_span = reciprocal(where(span < SMALLEST, splat(0.0), span))
    sw, sx = normalize(tile, importance, least, inverse_span)
    scale, offset, slope = best_line(tile, importance, sw, sx, s.grid, s.rounds, s.hi)
    m = round_to_f16(offset * span + least)
    rounded_offset = (m - least) * inverse_span
    d = stored_scale(maximum(scale - (rounded_offset - offset) * slope, splat(0.0)) * span)
    absmax_d = round_to_f16(span / s.hi)
    absmax_m = round_to_f16(least)
    absmax_offset = (absmax_m - least) * inverse_span
    error, absmax_error = store_codes(
        tile, importance, symbols, d * inverse_span, rounded_offset, absmax_d * inverse_span, absmax_offset, s.hi
    )
    worse = absmax_error < error
    if any_lane(worse):
        d = where(worse, absmax_d, d)
        m = where(worse, absmax_m, m)
        offset = where(worse, absmax_offset, rounded_offset)
        store_codes(tile, importance, symbols, d * inverse_span, offset, d * inverse_span, offset, s.hi)
    store(symbols, SIZE, f16_bits(d))
    store(symbols, SIZE + 1, f16_bits(m))


@codec(Absmax)
def absmax_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Absmax) -> None:
    """Encode by the absmax rule, as ggml's ``quantize_row_q4_1_ref`` does. Symbols as in ``search_lanes``.

    Codes are rounded half up, at the scale and minimum before these are rounded to float16.
    """
    least, greatest = value_range(tile, 0, SIZE)
    d = (greatest - least) / s.hi
    inverse = where(d == 0.0, splat(0.0), 1.0 / where(d == 0.0, splat(1.0), d))
    for j in range(SIZE):
        store(symbols, j, to_int(minimum(maximum((load(tile, j) - least) * inverse + HALF, splat(0.0)), splat(s.hi))))
    store(symbols, SIZE, f16_bits(round_to_f16(d)))
    store(symbols, SIZE + 1, f16_bits(round_to_f16(least)))


def affine_encoder(hi: int, grid: Floats, fields: list[Field], unweighted: Codec) -> BlockEncoder:
    """Make the encoder of a type from the codecs of this module; ``unweighted`` as in ``block_encoder``."""
    top = np.float32(hi)
    search = Search(top, spans(hi, grid), 1)
    return block_encoder(SIZE, SIZE + 2, fields, search, absmax=Absmax(top), unweighted=unweighted)
