"""Blocks of one float16 scale: Q8_0, Q8_1, Q4_0, Q5_0, Q2_0, IQ4_NL. Value = d * level, levels uniform or a codebook.

The search tries scales that map the block's extreme value to each of a row of target levels (of both signs where it
pays, since the ranges of levels are lopsided). For the levels q nearest to x / d it compares what the best scale for
these levels explains of the squares: the d that minimizes sum w (x - d q)^2 is sum w x q / sum w q^2, and it explains
(sum w x q)^2 / sum w q^2. From the best one on, levels and that closed-form scale alternate, as in Lloyd's algorithm.
The outcome competes with absmax by its squared error as stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflike.blocks import codebooks
from gguflike.kernels.encode.driver import BlockEncoder, Codec, block_encoder, codec
from gguflike.kernels.encode.packing import Field, bit_planes, consecutive_bits, interleaved, whole_bytes
from gguflike.kernels.encode.rounding import (
    HALF,
    LARGEST,
    Levels,
    clamp_tile,
    code_of,
    codebook,
    f16_bits,
    integers,
    nearest_level,
    reciprocal,
    round_to_f16,
    stored_scale,
    weighted,
)
from gguflike.kernels.encode.tiles import Floats, Importance, IntTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import any_lane, fma, magnitude, maximum, minimum, splat, to_float, to_int, where
from gguflike.kernels.vector.types import F32x16


class Absmax(NamedTuple):
    """The absmax rule: the extreme value of a block, with its sign if ``signed``, maps to ``extreme_level``."""

    size: int
    extreme_level: np.float32
    signed: bool
    levels: Levels


class Search(NamedTuple):
    """Search from ``targets`` for the extreme value, then ``rounds`` of levels and scale in turn.

    ``absmax`` competes with the outcome. ``target_levels`` are the levels as ``best_scale`` takes them for the targets.
    """

    absmax: Absmax
    target_levels: Levels
    targets: Floats
    rounds: int


@lean
def value_range(tile: Tile, first: int, count: int) -> tuple[F32x16, F32x16]:
    """The (least, greatest) value of rows ``first .. first + count - 1``."""
    least = load(tile, first)
    greatest = least
    for j in range(first + 1, first + count):
        x = load(tile, j)
        least = minimum(x, least)
        greatest = maximum(x, greatest)
    return least, greatest


@lean
def extreme(tile: Tile, first: int, count: int) -> F32x16:
    """The value of largest magnitude, with its sign; of several the first."""
    least, greatest = value_range(tile, first, count)
    largest = maximum(greatest, -least)
    value = where(greatest == largest, greatest, least)
    if any_lane(greatest == -least):
        for j in range(first + count - 1, first - 1, -1):
            x = load(tile, j)
            value = where(magnitude(x) == largest, x, value)
    return value


@lean
def moments(
    tile: Tile, importance: Importance, first: int, count: int, inverse: F32x16, levels: Levels
) -> tuple[F32x16, F32x16]:
    """(sum w x q, sum w q^2) over the levels q nearest to x * ``inverse``."""
    xq = splat(0.0)
    qq = splat(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        q = nearest_level(x, inverse, levels)
        wq = weighted(importance, j, q)
        xq = fma(x, wq, xq)
        qq = fma(q, wq, qq)
    return xq, qq


@lean
def best_scale(
    tile: Tile, importance: Importance, first: int, count: int, top: F32x16, targets: Floats, rounds: int,
    target_levels: Levels, levels: Levels,
) -> F32x16:  # fmt: skip
    """The scale that the search described above finds, not rounded; ``top`` is the extreme value.

    ``target_levels``: ``levels``, but without bounds where no target reaches beyond them (``unbounded``).
    """
    inverse_top = reciprocal(top)
    best_xq = splat(0.0)
    best_qq = splat(1.0)
    for t in range(len(targets)):  # one at a time: the sums of two do not fit the registers of AVX2
        xq, qq = moments(tile, importance, first, count, inverse_top * targets[t], target_levels)
        better = xq * xq * best_qq > best_xq * best_xq * qq  # xq^2 / qq is larger
        best_xq = where(better, xq, best_xq)
        best_qq = where(better, qq, best_qq)
    d = best_xq / best_qq
    for _ in range(rounds):
        xq, qq = moments(tile, importance, first, count, reciprocal(d), levels)
        d = where(qq > 0.0, xq * reciprocal(qq), d)
    return d


@lean
def squared_errors(
    tile: Tile, importance: Importance, first: int, count: int, d1: F32x16, d2: F32x16, levels: Levels
) -> tuple[F32x16, F32x16]:
    """sum w (x - d q)^2 with the nearest levels q, for each of two scales d."""
    inverse1 = reciprocal(d1)
    inverse2 = reciprocal(d2)
    total1 = splat(0.0)
    total2 = splat(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        residual1 = fma(-d1, nearest_level(x, inverse1, levels), x)
        residual2 = fma(-d2, nearest_level(x, inverse2, levels), x)
        total1 = fma(residual1, weighted(importance, j, residual1), total1)
        total2 = fma(residual2, weighted(importance, j, residual2), total2)
    return total1, total2


@lean
def store_codes(tile: Tile, symbols: IntTile, size: int, d: F32x16, levels: Levels) -> F32x16:
    """Store the codes at scale ``d`` as symbols ``0 .. size - 1``; returns the sum of their levels."""
    inverse = reciprocal(d)
    total = splat(0.0)
    for j in range(size):
        q = nearest_level(load(tile, j), inverse, levels)
        total = total + q
        store(symbols, j, code_of(q, levels))
    return total


@codec(Search)
def search_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Search) -> None:
    """Encode by the search. Symbols: the codes, the scale, and scale * sum of levels, both as float16 bits."""
    size, levels = s.absmax.size, s.absmax.levels
    top = extreme(tile, 0, size)
    clamp_tile(tile, size, magnitude(top))
    top = minimum(maximum(top, -LARGEST), LARGEST)
    d = stored_scale(best_scale(tile, importance, 0, size, top, s.targets, s.rounds, s.target_levels, levels))
    absmax_d = round_to_f16((top if s.absmax.signed else magnitude(top)) / s.absmax.extreme_level)
    error, absmax_error = squared_errors(tile, importance, 0, size, d, absmax_d, levels)
    d = where(absmax_error < error, absmax_d, d)
    total = store_codes(tile, symbols, size, d, levels)
    store(symbols, size, f16_bits(d))
    store(symbols, size + 1, f16_bits(round_to_f16(total * d)))


@codec(Absmax)
def absmax_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Absmax) -> None:
    """Encode by the absmax rule, as ggml's ``quantize_row_*_ref`` do. Symbols as in ``search_lanes``.

    Codes are rounded at the scale before it is rounded to float16: halves up where the scale is signed, away from zero
    otherwise.
    """
    levels = s.levels
    top = extreme(tile, 0, s.size)
    if not s.signed:
        top = magnitude(top)
    d = top / s.extreme_level
    inverse = where(d == 0.0, splat(0.0), 1.0 / where(d == 0.0, splat(1.0), d))
    total = splat(0.0)
    for j in range(s.size):
        t = minimum(maximum(load(tile, j) * inverse, splat(-300.0)), splat(300.0))
        if levels.book is not None:
            level = nearest_level(t, splat(1.0), levels)
        elif s.signed:
            level = to_float(to_int(t + (levels.offset + HALF))) - levels.offset
        else:
            absolute = magnitude(t)
            rounded = to_float(to_int(absolute))
            rounded = where(absolute - rounded >= HALF, rounded + 1.0, rounded)
            level = where(t < 0.0, -rounded, rounded)
        level = minimum(maximum(level, levels.lo), levels.hi)
        total = total + level
        store(symbols, j, code_of(level, levels))
    store(symbols, s.size, f16_bits(round_to_f16(d)))
    store(symbols, s.size + 1, f16_bits(round_to_f16(total * d)))


def scaled_encoder(
    absmax: Absmax, fields: list[Field], targets: Floats, rounds: int, unweighted: Codec | None = None
) -> BlockEncoder:
    """Make the encoder of a type from the codecs of this module; ``unweighted`` as in ``block_encoder``."""
    search = Search(absmax, unbounded(absmax.levels, targets), targets, rounds)
    return block_encoder(absmax.size, absmax.size + 2, fields, search, absmax=absmax, unweighted=unweighted)


def unbounded(levels: Levels, targets: Floats) -> Levels:
    """``levels``, without bounds if no value of a block whose extreme value is at one of ``targets`` is beyond them."""
    reach = np.abs(targets).max()
    lo, hi = levels.lo, levels.hi
    return levels if lo is None or hi is None or reach > min(-lo, hi) else levels._replace(lo=None, hi=None)


def target_grid(*ranges: tuple[float, float, int]) -> Floats:
    """Evenly spaced targets: ``(first, last, count)`` of each range, one range after the other."""
    return np.concatenate([np.linspace(first, last, count, dtype=np.float32) for first, last, count in ranges])


IQ4_LEVELS = codebook(codebooks.IQ4_LEVELS)

encode_q2_0 = scaled_encoder(
    Absmax(64, extreme_level=np.float32(1), signed=False, levels=integers(-1, 2)),
    [whole_bytes([64], 2), consecutive_bits(range(64), 2)],
    target_grid((1, 4, 15), (-1, -4, 16)),
    rounds=2,
)
encode_iq4_nl = scaled_encoder(
    Absmax(32, extreme_level=np.float32(-127), signed=True, levels=IQ4_LEVELS),
    [whole_bytes([32], 2), bit_planes(interleaved(32, 2, 16), 4)],
    target_grid((-160, -105, 9), (100, 140, 6)),
    rounds=1,
)
