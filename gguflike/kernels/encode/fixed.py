"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1. Without importance, they are searched in 16-bit fixed point (pairs.py).

Candidates are compared by the squares that their codes explain at the best factors for these codes, as in scale.py and
affine.py; codes are then taken anew from the stored factors, in float32. The first candidate's codes are those of the
absmax rule, so what that rule would explain is known, too: it is taken where the search is not better beyond doubt.

Scales, offsets and sums are in units of the fixed point; ``Candidates.unit`` of these units make up the block's range,
or its extreme value. Only ``d``, ``m`` and what is computed from the tile are in the values' own; ``unit`` is the value
of one unit. ``absmax_`` marks what belongs to the absmax rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.kernels.encode.affine import affine_encoder, clamped_range
from gguflike.kernels.encode.driver import Codec, codec
from gguflike.kernels.encode.leastsquares import PHASES, affine_error, code_grid
from gguflike.kernels.encode.packing import bit_planes, consecutive_bits, interleaved, plan_packing, whole_bytes
from gguflike.kernels.encode.pairs import (
    ROWS,
    SIZE,
    Candidates,
    count_near_ties,
    make_candidates,
    pack_codes,
    pair_moments,
    prepend_short,
    store_pairs,
)
from gguflike.kernels.encode.rounding import (
    LARGEST,
    Levels,
    clamp_tile,
    f16_bits,
    integers,
    reciprocal,
    round_to_f16,
    stored_scale,
)
from gguflike.kernels.encode.scale import Absmax, extreme, scaled_encoder, squared_errors, target_grid
from gguflike.kernels.encode.tiles import Importance, IntTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import store
from gguflike.kernels.vector.lanes import any_lane, magnitude, maximum, minimum, splat, to_float, where
from gguflike.kernels.vector.types import F32x16, I32x16, Mask

_PAIRS = 10  # the rows of pairs, after the words of a block
# ``pairs`` hold values to half a unit, so the difference of two sums of squared errors is off by 32 steps at most; half
# of that is more than any data show. And float32 rounds the squares.
_STEPS = np.float32(16)
_SQUARES = np.float32(1e-6)
_COARSE = np.float32(1 / 8)  # of a step: where float16 loses more, exact errors must decide


class Scaled(NamedTuple):
    """Value = d * (code - zero), codes within ``limits``, of ``width`` bits each.

    ``candidates.unit`` is the extreme value in ``pairs``; ``most`` as in ``pair_moments``; with ``summed`` the block
    stores d times the sum of its levels, too.
    """

    absmax: Absmax
    zero: np.float32
    limits: tuple[np.float32, np.float32]
    candidates: Candidates
    most: np.int64 | None
    width: int
    summed: bool


@lean(forceinline=True)
def best_scale(
    pairs: IntTile, candidates: Candidates, most: np.int64 | None
) -> tuple[F32x16, F32x16, F32x16, F32x16]:  # fmt: skip
    """(sum x q, sum q^2) of the candidate that explains most, (sum x q)^2 / sum q^2; then those of the first one."""
    best_xq, best_qq = splat(0.0), splat(1.0)
    first_xq, first_qq = best_xq, best_qq
    for c in range(len(candidates.table)):
        sums = pair_moments(pairs, _PAIRS, candidates.table[c, 0], None, most)
        xq, qq = to_float(sums[0]), to_float(sums[1])
        if c == 0:
            first_xq, first_qq = xq, qq
        better = xq * xq * best_qq > best_xq * best_xq * qq
        best_xq = where(better, xq, best_xq)
        best_qq = where(better, qq, best_qq)
    return best_xq, best_qq, first_xq, first_qq


@lean(forceinline=True)
def clearly_more(
    explained: F32x16, absmax_explained: F32x16, absmax_step: F32x16, rounding: F32x16, near_ties: F32x16
) -> Mask:
    """Whether more squares are explained than by the absmax rule, beyond doubt.

    ``absmax_step`` is the rule's scale before it is rounded to float16, ``rounding`` by how much that moves values at
    most. ``near_ties`` values may have another code at the rounded scale than at the unrounded one; for each, the
    squares that the rule explains are off by up to 2 * rounding * step.
    """
    doubt = (2.0 * rounding * near_ties + _STEPS) * absmax_step + absmax_explained * _SQUARES
    return explained - absmax_explained > doubt


@codec(Scaled)
def scaled_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Scaled) -> None:
    """Encode blocks of one scale, all importance being equal. Symbols: the words of a block."""
    top = extreme(tile, 0, SIZE)
    clamp_tile(tile, SIZE, magnitude(top))
    top = minimum(maximum(top, -LARGEST), LARGEST)
    if not s.absmax.signed:
        top = magnitude(top)
    to_units = reciprocal(top) * s.candidates.unit
    unit = top * (np.float32(1) / s.candidates.unit)
    store_pairs(tile, symbols, _PAIRS, None, to_units, np.float32(0), None)
    xq, qq, absmax_xq, absmax_qq = best_scale(symbols, s.candidates, s.most)
    d = stored_scale(xq / qq * unit)
    absmax_d = round_to_f16(top / s.absmax.extreme_level)
    scale, absmax_scale = d * to_units, absmax_d * to_units
    absmax_step = s.candidates.unit / s.absmax.extreme_level
    rounding = magnitude(absmax_scale - absmax_step) * abs(s.absmax.extreme_level)
    better = clearly_more(
        scale * (2.0 * xq - scale * qq),
        absmax_scale * (2.0 * absmax_xq - absmax_scale * absmax_qq),
        absmax_step,
        rounding,
        count_near_ties(symbols, _PAIRS, s.candidates.table[0, 0]),
    )
    coarse = rounding > absmax_step * _COARSE
    if any_lane(coarse):
        error, absmax_error = squared_errors(tile, None, 0, SIZE, d, absmax_d, s.absmax.levels)
        better = (coarse & (error < absmax_error)) | (~coarse & better)
    d = where(better, d, absmax_d)
    sum_of_codes = store_pairs(tile, symbols, _PAIRS, None, reciprocal(d), s.zero, s.limits)
    pack_codes(symbols, _PAIRS, symbols, 1, s.width)
    head = f16_bits(d)
    if s.summed:
        total = to_float(sum_of_codes) - s.zero * np.float32(SIZE)
        store(symbols, 0, head | (f16_bits(round_to_f16(total * d)) << 16))
    else:
        prepend_short(symbols, SIZE * s.width // 32, head)


class Affine(NamedTuple):
    """Value = d * code + m, codes 0 .. ``hi`` of ``width`` bits; ``candidates.unit`` is the values' range in pairs."""

    hi: np.float32
    candidates: Candidates
    width: int


Line = tuple[F32x16, F32x16, F32x16, F32x16]  # scale, sum x q, sum q^2, sum q


@lean(forceinline=True)
def best_line(pairs: IntTile, candidates: Candidates, total: I32x16) -> tuple[Line, Line]:
    """The line of the candidate that explains most, and that of the first one; ``total`` is the sum of the values.

    As in affine.py: scale = n / det, and n^2 / det is compared.
    """
    best_n, best_det = splat(0.0), splat(1.0)
    best_sq = best_n
    first_n, first_det, first_sq = best_n, best_det, best_sq
    for c in range(len(candidates.table)):
        xq, qq, sums = pair_moments(pairs, _PAIRS, candidates.table[c, 0], candidates.table[c, 1], None)
        n, det, sq = to_float(xq * SIZE - total * sums), to_float(qq * SIZE - sums * sums), to_float(sums)
        if c == 0:
            first_n, first_det, first_sq = n, det, sq
        better = (det > 0.0) & (n * n * best_det > best_n * best_n * det)
        best_n = where(better, n, best_n)
        best_det = where(better, det, best_det)
        best_sq = where(better, sq, best_sq)
    return _line(best_n, best_det, best_sq, total), _line(first_n, first_det, first_sq, total)


@lean(forceinline=True)
def _line(n: F32x16, det: F32x16, sq: F32x16, total: I32x16) -> Line:
    """The scale and the moments, from n = 32 sum x q - total sum q and det = 32 sum q^2 - (sum q)^2."""
    mean = np.float32(1 / SIZE)
    return n / det, (n + to_float(total) * sq) * mean, (det + sq * sq) * mean, sq


@lean(forceinline=True)
def explained(d: F32x16, m: F32x16, total: F32x16, xq: F32x16, qq: F32x16, sq: F32x16) -> F32x16:
    """The squares that d * q + m explains: sum x^2 - sum (x - d q - m)^2."""
    return d * (2.0 * xq - d * qq) + m * (2.0 * (total - d * sq) - m * np.float32(SIZE))


@codec(Affine)
def affine_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Affine) -> None:
    """Encode blocks of a scale and a minimum, all importance being equal. Symbols: the words of a block."""
    least, span = clamped_range(tile)
    to_units = reciprocal(span) * s.candidates.unit
    unit = span * (np.float32(1) / s.candidates.unit)
    int_total = store_pairs(tile, symbols, _PAIRS, least, to_units, np.float32(0), None)
    total = to_float(int_total)
    (scale, xq, qq, sq), (_, absmax_xq, absmax_qq, absmax_sq) = best_line(symbols, s.candidates, int_total)
    offset = (total - scale * sq) * np.float32(1 / SIZE)
    m = round_to_f16(offset * unit + least)
    rounded_offset = (m - least) * to_units
    scale = maximum(scale - (rounded_offset - offset) * sq * reciprocal(qq), splat(0.0))  # refitted to that offset
    d = stored_scale(scale * unit)
    absmax_d, absmax_m = round_to_f16(span / s.hi), round_to_f16(least)
    absmax_scale, absmax_offset = absmax_d * to_units, (absmax_m - least) * to_units
    absmax_step = s.candidates.unit / s.hi
    rounding = magnitude(absmax_scale - absmax_step) * s.hi + magnitude(absmax_offset)
    better = clearly_more(
        explained(d * to_units, rounded_offset, total, xq, qq, sq),
        explained(absmax_scale, absmax_offset, total, absmax_xq, absmax_qq, absmax_sq),
        absmax_step,
        rounding,
        count_near_ties(symbols, _PAIRS, s.candidates.table[0, 0]),
    )
    coarse = rounding > absmax_step * _COARSE
    if any_lane(coarse):
        error = affine_error(tile, None, 0, SIZE, d, m, s.hi)
        absmax_error = affine_error(tile, None, 0, SIZE, absmax_d, absmax_m, s.hi)
        better = (coarse & (error < absmax_error)) | (~coarse & better)
    d = where(better, d, absmax_d)
    m = where(better, m, absmax_m)
    store_pairs(tile, symbols, _PAIRS, m, reciprocal(d), np.float32(0), (np.float32(0), s.hi))
    pack_codes(symbols, _PAIRS, symbols, 1, s.width)
    store(symbols, 0, f16_bits(d) | (f16_bits(m) << 16))


def _unweighted(settings: Any, name: str) -> Codec:
    """Make the codec of a type by this module: its symbols are the words of a block; the last may be half of one."""
    words, rest = divmod(FORMATS[name].block_bytes, 4)
    fields = [whole_bytes(range(words), 4), whole_bytes(range(words, words + rest // 2), rest)]
    return Codec(settings, SIZE, _PAIRS + ROWS, plan_packing(fields))


def _scaled(
    extreme_level: int, levels: Levels, zero: int, most: int | None, targets: list[float], unit: int, width: int
) -> Scaled:
    """Settings of a type with one scale; ``targets`` are the levels that the extreme value maps to, without sign.

    The extreme value keeps its sign where ``extreme_level`` is negative.
    """
    assert levels.lo is not None
    assert levels.hi is not None
    absmax = Absmax(SIZE, np.float32(extreme_level), extreme_level < 0, levels)
    limits = levels.lo + np.float32(zero), levels.hi + np.float32(zero)
    candidates = make_candidates(unit, [(target, 0) for target in targets])
    if absmax.signed:
        candidates = candidates._replace(unit=-candidates.unit)
    highest = None if most is None else np.int64(most)
    return Scaled(absmax, np.float32(zero), limits, candidates, highest, width, summed=False)


def _affine(hi: int, grid: list[tuple[float, float]], width: int) -> Affine:
    """Settings of a type with a minimum; ``grid`` is as ``code_grid`` makes it, with all codes within 0 .. hi."""
    ranges = [(hi + stretch, shift - stretch / 2) for stretch, shift in grid]
    return Affine(np.float32(hi), make_candidates(1 << 14, ranges), width)


# Few candidates, each of them the one that lowers the error on Gaussian rows most once those before it are there.
_Q4_0 = _scaled(-8, integers(-8, 7), zero=8, most=7, targets=[8, 8.5, 7, 7.5, 6], unit=1 << 14, width=4)
_Q5_0 = _scaled(
    -16, integers(-16, 15), zero=16, most=15, targets=[16, 15, 16.5, 14, 15.5, 13, 14.5, 13.5], unit=1 << 14, width=5
)
_Q8_0 = _scaled(
    127,
    integers(-127, 127, first=-127),
    zero=128,
    most=None,
    targets=[*range(127, 112, -1)],
    unit=(1 << 15) - 1,
    width=8,
)
_Q4_1 = _affine(15, [(0, 0), (0, 0.3125), (0, -0.25), (0.5, 0.125)], width=4)
_Q5_1 = _affine(
    31,
    [(0, 0), (-0.5, -0.5), (0, -0.25), (0, 0.1875), (-2, 0), (-1, -0.4375), (-1, -0.6875), (-3, -0.5)],
    width=5,
)

_D, _TWO_FACTORS = whole_bytes([SIZE], 2), whole_bytes([SIZE, SIZE + 1], 2)
_NIBBLES, _LOW_BITS = bit_planes(interleaved(SIZE, 2, 16), 4), bit_planes(interleaved(SIZE, 2, 16), 4, right=0)
_HIGH_BITS = consecutive_bits(range(SIZE), 1, right=4)
_BYTES = whole_bytes(range(SIZE))
_NEAR_127 = target_grid((127, 114, 15))
# With importance, the extreme value may hardly count and be cut off: many targets, on both sides.
_WIDE = np.concatenate([code_grid([0], [0]), code_grid(np.linspace(-1, 6, 14), PHASES)])

# fmt: off
encode_q4_0 = scaled_encoder(_Q4_0.absmax, [_D, _NIBBLES], target_grid((-10.5, -6.2, 15), (6, 8.5, 10)), 1,
                             _unweighted(_Q4_0, "Q4_0"))
encode_q5_0 = scaled_encoder(_Q5_0.absmax, [_D, _HIGH_BITS, _LOW_BITS], target_grid((-20, -13, 15), (13, 17, 10)), 1,
                             _unweighted(_Q5_0, "Q5_0"))
encode_q8_0 = scaled_encoder(_Q8_0.absmax, [_D, _BYTES], _NEAR_127, 0, _unweighted(_Q8_0, "Q8_0"))
encode_q8_1 = scaled_encoder(_Q8_0.absmax, [_TWO_FACTORS, _BYTES], _NEAR_127, 0,
                             _unweighted(_Q8_0._replace(summed=True), "Q8_1"))
encode_q4_1 = affine_encoder(15, _WIDE, [_TWO_FACTORS, _NIBBLES], _unweighted(_Q4_1, "Q4_1"))
encode_q5_1 = affine_encoder(31, _WIDE, [_TWO_FACTORS, _HIGH_BITS, _LOW_BITS], _unweighted(_Q5_1, "Q5_1"))
# fmt: on
