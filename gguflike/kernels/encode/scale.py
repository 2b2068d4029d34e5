"""Blocks of one float16 scale: Q8_0, Q8_1, Q4_0, Q5_0, Q2_0, IQ4_NL. Value = d * level, levels uniform or a codebook.

The search tries scales that map the largest weight to a row of targets (of both signs where it pays, since the level
ranges are lopsided), takes for each the codes nearest to the weights and the squared error that the best scale for
these codes leaves, then alternates codes and closed-form scale from the best one. The outcome competes with absmax by
exact error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks import codebooks
from gguflike.kernels.encode.driver import Codec, Encode, block_encoder, codec
from gguflike.kernels.encode.packing import Slot, bit_string, planes, strided, whole
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
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import any_lane, fma, magnitude, maximum, minimum, splat, to_float, to_int, where

Targets = npt.NDArray[np.float32]


class Absmax(NamedTuple):
    """The textbook rule: the extreme value (``signed``: with its sign) maps to level ``top``."""

    size: int
    top: np.float32
    signed: bool
    levels: Levels


class Search(NamedTuple):
    """Search from ``targets`` for the extreme value, ``rounds`` of codes and scale in turn; competes with ``absmax``.

    ``scan`` as in ``best_scale``.
    """

    absmax: Absmax
    scan: Levels
    targets: Targets
    rounds: int


@lean
def value_range(tile: Any, first: int, count: int) -> Any:
    """(least, greatest) value."""
    least = load(tile, first)
    greatest = least
    for j in range(first + 1, first + count):
        x = load(tile, j)
        least = minimum(x, least)
        greatest = maximum(x, greatest)
    return least, greatest


@lean
def extreme(tile: Any, first: int, count: int) -> Any:
    """The value of largest magnitude (the first of equals), with its sign."""
    least, greatest = value_range(tile, first, count)
    size = maximum(greatest, -least)
    value = where(greatest == size, greatest, least)
    if any_lane(greatest == -least):
        for j in range(first + count - 1, first - 1, -1):
            x = load(tile, j)
            value = where(magnitude(x) == size, x, value)
    return value


@lean
def moments(tile: Any, importance: Any, first: int, count: int, inverse: Any, levels: Any) -> Any:
    """(sum w*x*q, sum w*q*q) over the levels nearest at scale ``1 / inverse``."""
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
    tile: Any, importance: Any, first: int, count: int, top: Any, targets: Any, rounds: int, scan: Any, levels: Any
) -> Any:
    """The scale, unrounded, found by the search described above; ``top`` is the extreme value.

    ``scan``: the levels for the targets, ``levels``, but without bounds where no target reaches beyond them.
    """
    inverse_top = reciprocal(top)
    best_xq = splat(0.0)
    best_qq = splat(1.0)
    for t in range(len(targets)):  # one at a time: the sums of two do not fit the registers of AVX2
        xq, qq = moments(tile, importance, first, count, inverse_top * targets[t], scan)
        # The best scale for given codes is xq / qq, and it explains xq**2 / qq of the squares.
        better = xq * xq * best_qq > best_xq * best_xq * qq
        best_xq = where(better, xq, best_xq)
        best_qq = where(better, qq, best_qq)
    d = best_xq / best_qq
    for _ in range(rounds):
        xq, qq = moments(tile, importance, first, count, reciprocal(d), levels)
        d = where(qq > 0.0, xq * reciprocal(qq), d)
    return d


@lean
def squared_errors(tile: Any, importance: Any, first: int, count: int, d1: Any, d2: Any, levels: Any) -> Any:
    """Sums of w * (x - d * q)**2 with the levels nearest at each of two scales."""
    inverse1 = reciprocal(d1)
    inverse2 = reciprocal(d2)
    total1 = splat(0.0)
    total2 = splat(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        rest1 = fma(-d1, nearest_level(x, inverse1, levels), x)
        rest2 = fma(-d2, nearest_level(x, inverse2, levels), x)
        total1 = fma(rest1, weighted(importance, j, rest1), total1)
        total2 = fma(rest2, weighted(importance, j, rest2), total2)
    return total1, total2


@lean
def store_codes(tile: Any, symbols: Any, size: int, d: Any, levels: Any) -> Any:
    """Codes at scale ``d``; returns the sum of their levels."""
    inverse = reciprocal(d)
    total = splat(0.0)
    for j in range(size):
        q = nearest_level(load(tile, j), inverse, levels)
        total = total + q
        store(symbols, j, code_of(q, levels))
    return total


@codec(Search)
def search_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Search) -> None:
    """Symbols: the codes, the scale, scale * sum of levels."""
    size, levels = s.absmax.size, s.absmax.levels
    top = extreme(tile, 0, size)
    clamp_tile(tile, size, magnitude(top))
    top = minimum(maximum(top, -LARGEST), LARGEST)
    d = stored_scale(best_scale(tile, importance, 0, size, top, s.targets, s.rounds, s.scan, levels))
    absmax_d = round_to_f16((top if s.absmax.signed else magnitude(top)) / s.absmax.top)
    found, plainly = squared_errors(tile, importance, 0, size, d, absmax_d, levels)
    d = where(plainly < found, absmax_d, d)
    total = store_codes(tile, symbols, size, d, levels)
    store(symbols, size, f16_bits(d))
    store(symbols, size + 1, f16_bits(round_to_f16(total * d)))


@codec(Absmax)
def plain_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Absmax) -> None:
    """Codes are rounded from the unrounded scale, halves up where the scale is signed and away from zero otherwise, as
    ggml's plain encoders do. Symbols as in ``search_lanes``."""
    levels = s.levels
    top = extreme(tile, 0, s.size)
    if not s.signed:
        top = magnitude(top)
    d = top / s.top
    inverse = where(d == 0.0, splat(0.0), 1.0 / where(d == 0.0, splat(1.0), d))
    total = splat(0.0)
    for j in range(s.size):
        t = minimum(maximum(load(tile, j) * inverse, splat(-300.0)), splat(300.0))
        if levels.book is not None:
            level = nearest_level(t, splat(1.0), levels)
        elif s.signed:
            level = to_float(to_int(t + (levels.offset + HALF))) - levels.offset
        else:
            size_t = magnitude(t)
            whole_part = to_float(to_int(size_t))
            whole_part = where(size_t - whole_part >= HALF, whole_part + 1.0, whole_part)
            level = where(t < 0.0, -whole_part, whole_part)
        level = minimum(maximum(level, levels.lo), levels.hi)
        total = total + level
        store(symbols, j, code_of(level, levels))
    store(symbols, s.size, f16_bits(round_to_f16(d)))
    store(symbols, s.size + 1, f16_bits(round_to_f16(total * d)))


def scaled_encoder(
    absmax: Absmax,
    fields: list[list[list[Slot]]],
    targets: Targets,
    rounds: int,
    unweighted: Codec | None = None,
) -> Encode:
    """Make the encoder of a type from the codecs of this module; ``unweighted`` as in ``block_encoder``."""
    search = Search(absmax, unbounded(absmax.levels, targets), targets, rounds)
    return block_encoder(absmax.size, absmax.size + 2, fields, search, absmax=absmax, unweighted=unweighted)


def unbounded(levels: Levels, targets: Targets) -> Levels:
    """The levels, without bounds if no value whose largest is at one of the targets can reach beyond them."""
    reach = np.abs(targets).max()
    lo, hi = levels.lo, levels.hi
    return levels if lo is None or hi is None or reach > min(-lo, hi) else levels._replace(lo=None, hi=None)


def target_grid(*ranges: tuple[float, float, int]) -> Targets:
    """Evenly spaced targets: ``(first, last, count)`` of each range, one range after the other."""
    return np.concatenate([np.linspace(*each, dtype=np.float32) for each in ranges])


IQ4_LEVELS = codebook(codebooks.IQ4_LEVELS)

encode_q2_0 = scaled_encoder(
    Absmax(64, np.float32(1), False, integers(-1, 2)), [whole([64], 2), bit_string(range(64), 2)],
    target_grid((1, 4, 15), (-1, -4, 16)), rounds=2,
)  # fmt: skip
encode_iq4_nl = scaled_encoder(
    Absmax(32, np.float32(-127), True, IQ4_LEVELS), [whole([32], 2), planes(strided(32, 2, 16), 4)],
    target_grid((-160, -105, 9), (100, 140, 6)), rounds=1,
)  # fmt: skip
