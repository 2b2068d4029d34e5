"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1. Without importance, they are searched in 16-bit fixed point (pairs.py).

Candidates are compared by the squares that their codes explain at the best factors for these codes, as in scale.py and
affine.py; codes are then taken anew from the stored factors, in float32. The first candidate's codes are those of the
textbook rule, so what that rule would explain is known: it is taken where the search is not clearly better.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguflike.kernels.encode.affine import affine_encoder, clamped_range
from gguflike.kernels.encode.driver import Codec, codec
from gguflike.kernels.encode.leastsquares import PHASES, affine_error, code_grid
from gguflike.kernels.encode.packing import bit_string, layout, planes, strided, whole
from gguflike.kernels.encode.pairs import ROWS, SIZE, Candidates, fill, join, near_ties, pair_moments, put_before, scan
from gguflike.kernels.encode.rounding import (
    LARGEST,
    clamp_tile,
    f16_bits,
    integers,
    reciprocal,
    round_to_f16,
    stored_scale,
)
from gguflike.kernels.encode.scale import Absmax, extreme, scaled_encoder, squared_errors, target_grid
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import store
from gguflike.kernels.vector.lanes import any_lane, magnitude, maximum, minimum, splat, to_float, where

_PAIRS = 10  # the rows of pairs, after the words of a block
# ``pairs`` hold values to half a unit, so the difference of two sums of squared errors is off by 32 steps at most; half
# of that is more than any data show. And float32 rounds the squares.
_STEPS = np.float32(16)
_SQUARES = np.float32(1e-6)
_COARSE = np.float32(1 / 8)  # float16 loses so much of a step that exact errors must decide


class Scaled(NamedTuple):
    """Value = d * (code - zero), codes within ``bounds``.

    ``scan.unit`` is the extreme value in ``pairs``; ``most`` as in ``pair_moments``; ``summed``: the block stores d
    times the sum of its levels.
    """

    absmax: Absmax
    zero: np.float32
    bounds: tuple[np.float32, np.float32]
    scan: Candidates
    most: np.int64 | None
    width: int
    summed: bool


@lean(forceinline=True)
def best_scale(pairs: Any, scan: Candidates, most: Any) -> Any:
    """Of the candidate that explains most: (sum of x*q, sum of q*q); the same of the first one."""
    best_xq, best_qq = splat(0.0), splat(1.0)
    first_xq, first_qq = best_xq, best_qq
    for c in range(len(scan.candidates)):
        sums = pair_moments(pairs, _PAIRS, scan.candidates[c, 0], None, most)
        xq, qq = to_float(sums[0]), to_float(sums[1])
        if c == 0:
            first_xq, first_qq = xq, qq
        better = xq * xq * best_qq > best_xq * best_xq * qq
        best_xq = where(better, xq, best_xq)
        best_qq = where(better, qq, best_qq)
    return best_xq, best_qq, first_xq, first_qq


@lean(forceinline=True)
def clearly_more(explained: Any, plainly: Any, step: Any, lost: Any, ties: Any) -> Any:
    """Whether more squares are explained than by the textbook rule, beyond doubt.

    ``step`` is that of the rule before it is rounded, ``lost`` by how much rounding it moves values at most. ``ties``:
    how many values may have another code than the rule's, which makes up to twice ``lost`` times a step each.
    """
    return explained - plainly > (2.0 * lost * ties + _STEPS) * step + plainly * _SQUARES


@codec(Scaled)
def scaled_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Scaled) -> None:
    """Symbols: the words of a block."""
    top = extreme(tile, 0, SIZE)
    clamp_tile(tile, SIZE, magnitude(top))
    top = minimum(maximum(top, -LARGEST), LARGEST)
    if not s.absmax.signed:
        top = magnitude(top)
    to_pairs = reciprocal(top) * s.scan.unit
    step = top * (np.float32(1) / s.scan.unit)
    fill(tile, symbols, _PAIRS, None, to_pairs, np.float32(0), None)
    xq, qq, plain_xq, plain_qq = best_scale(symbols, s.scan, s.most)
    d = stored_scale(xq / qq * step)
    plain_d = round_to_f16(top / s.absmax.top)
    found, plainly = d * to_pairs, plain_d * to_pairs
    plain_step = s.scan.unit / s.absmax.top
    lost = magnitude(plainly - plain_step) * abs(s.absmax.top)
    better = clearly_more(
        found * (2.0 * xq - found * qq),
        plainly * (2.0 * plain_xq - plainly * plain_qq),
        plain_step,
        lost,
        near_ties(symbols, _PAIRS, s.scan.candidates[0, 0]),
    )
    coarse = lost > plain_step * _COARSE
    if any_lane(coarse):
        error, plain_error = squared_errors(tile, None, 0, SIZE, d, plain_d, s.absmax.levels)
        better = (coarse & (error < plain_error)) | (~coarse & better)
    d = where(better, d, plain_d)
    sum_of_codes = fill(tile, symbols, _PAIRS, None, reciprocal(d), s.zero, s.bounds)
    join(symbols, _PAIRS, symbols, 1, s.width)
    head = f16_bits(d)
    if s.summed:
        total = to_float(sum_of_codes) - s.zero * np.float32(SIZE)
        store(symbols, 0, head | (f16_bits(round_to_f16(total * d)) << 16))
    else:
        put_before(symbols, SIZE * s.width // 32, head)


class Affine(NamedTuple):
    """Value = d * code + m, codes up to ``hi``. ``scan.unit`` is the range of the values in ``pairs``."""

    hi: np.float32
    scan: Candidates
    width: int


@lean(forceinline=True)
def best_line(pairs: Any, scan: Candidates, total: Any) -> Any:
    """Of the candidate that explains most and of the first one: (scale, sum of x*q, sum of q*q, sum of q)."""
    best_n, best_det = splat(0.0), splat(1.0)
    best_sq = best_n
    first_n, first_det, first_sq = best_n, best_det, best_sq
    for c in range(len(scan.candidates)):
        xq, qq, sums = pair_moments(pairs, _PAIRS, scan.candidates[c, 0], scan.candidates[c, 1], None)
        n, det, sq = to_float(xq * SIZE - total * sums), to_float(qq * SIZE - sums * sums), to_float(sums)
        if c == 0:
            first_n, first_det, first_sq = n, det, sq
        better = (det > 0.0) & (n * n * best_det > best_n * best_n * det)
        best_n = where(better, n, best_n)
        best_det = where(better, det, best_det)
        best_sq = where(better, sq, best_sq)
    return _line(best_n, best_det, best_sq, total), _line(first_n, first_det, first_sq, total)


@lean(forceinline=True)
def _line(n: Any, det: Any, sq: Any, total: Any) -> Any:
    each = np.float32(1 / SIZE)
    return n / det, (n + to_float(total) * sq) * each, (det + sq * sq) * each, sq


@lean(forceinline=True)
def explained(d: Any, m: Any, total: Any, xq: Any, qq: Any, sq: Any) -> Any:
    """Squares explained by d * q + m."""
    return d * (2.0 * xq - d * qq) + m * (2.0 * (total - d * sq) - m * np.float32(SIZE))


@codec(Affine)
def affine_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Affine) -> None:
    """Symbols: the words of a block."""
    least, span = clamped_range(tile)
    to_pairs = reciprocal(span) * s.scan.unit
    step = span * (np.float32(1) / s.scan.unit)
    whole_total = fill(tile, symbols, _PAIRS, least, to_pairs, np.float32(0), None)
    total = to_float(whole_total)
    (scale, xq, qq, sq), (_, plain_xq, plain_qq, plain_sq) = best_line(symbols, s.scan, whole_total)
    offset = (total - scale * sq) * np.float32(1 / SIZE)
    m = round_to_f16(offset * step + least)
    moved = (m - least) * to_pairs
    scale = maximum(scale - (moved - offset) * sq * reciprocal(qq), splat(0.0))  # refitted to the rounded minimum
    d = stored_scale(scale * step)
    plain_d, plain_m = round_to_f16(span / s.hi), round_to_f16(least)
    plainly, plain_moved = plain_d * to_pairs, (plain_m - least) * to_pairs
    plain_step = s.scan.unit / s.hi
    lost = magnitude(plainly - plain_step) * s.hi + magnitude(plain_moved)
    better = clearly_more(
        explained(d * to_pairs, moved, total, xq, qq, sq),
        explained(plainly, plain_moved, total, plain_xq, plain_qq, plain_sq),
        plain_step,
        lost,
        near_ties(symbols, _PAIRS, s.scan.candidates[0, 0]),
    )
    coarse = lost > plain_step * _COARSE
    if any_lane(coarse):
        error = affine_error(tile, None, 0, SIZE, d, m, s.hi)
        plain_error = affine_error(tile, None, 0, SIZE, plain_d, plain_m, s.hi)
        better = (coarse & (error < plain_error)) | (~coarse & better)
    d = where(better, d, plain_d)
    m = where(better, m, plain_m)
    fill(tile, symbols, _PAIRS, m, reciprocal(d), np.float32(0), (np.float32(0), s.hi))
    join(symbols, _PAIRS, symbols, 1, s.width)
    store(symbols, 0, f16_bits(d) | (f16_bits(m) << 16))


def _unweighted(settings: Any, block_bytes: int) -> Codec:
    """A codec of this module; symbols are the words of a block, the last of which may be half of one."""
    words, rest = divmod(block_bytes, 4)
    fields = [whole(range(words), 4), whole(range(words, words + rest // 2), rest)]
    return Codec(settings, _PAIRS + ROWS, layout(fields))


def _scaled(absmax: Absmax, zero: int, most: int | None, targets: list[float], unit: int, width: int) -> Scaled:
    """``targets``: the extreme value in levels, without its sign."""
    levels = absmax.levels
    assert levels.lo is not None
    assert levels.hi is not None
    limits = levels.lo + np.float32(zero), levels.hi + np.float32(zero)
    candidates = scan(unit, [(target, 0) for target in targets])
    if absmax.signed:
        candidates = candidates._replace(unit=-candidates.unit)
    highest = None if most is None else np.int64(most)
    return Scaled(absmax, np.float32(zero), limits, candidates, highest, width, False)


def _affine(hi: int, unit: int, grid: list[tuple[float, float]], width: int) -> Affine:
    """``grid``: as for ``code_grid``; all codes must be within the bounds."""
    return Affine(np.float32(hi), scan(unit, [(hi + more, shift - more / 2) for more, shift in grid]), width)


# Few candidates, each of them the one that lowers the error on Gaussian rows most once those before it are there.
_Q4_0 = _scaled(Absmax(SIZE, np.float32(-8), True, integers(-8, 7)), 8, 7, [8, 8.5, 7, 7.5, 6], 1 << 14, 4)
_Q5_0 = _scaled(
    Absmax(SIZE, np.float32(-16), True, integers(-16, 15)), 16, 15,
    [16, 15, 16.5, 14, 15.5, 13, 14.5, 13.5], 1 << 14, 5,
)  # fmt: skip
_Q8_0 = _scaled(
    Absmax(SIZE, np.float32(127), False, integers(-127, 127, first=-127)), 128, None,
    [*range(127, 112, -1)], (1 << 15) - 1, 8,
)  # fmt: skip
_Q4_1 = _affine(15, 1 << 14, [(0, 0), (0, 0.3125), (0, -0.25), (0.5, 0.125)], 4)
_Q5_1 = _affine(
    31, 1 << 14,
    [(0, 0), (-0.5, -0.5), (0, -0.25), (0, 0.1875), (-2, 0), (-1, -0.4375), (-1, -0.6875), (-3, -0.5)], 5,
)  # fmt: skip

_D, _TWO_FACTORS = whole([SIZE], 2), whole([SIZE, SIZE + 1], 2)
_NIBBLES, _LOW_BITS = planes(strided(SIZE, 2, 16), 4), planes(strided(SIZE, 2, 16), 4, right=0)
_HIGH_BITS = bit_string(range(SIZE), 1, right=4)
_BYTES = whole(range(SIZE))
_NEAR_127 = target_grid((127, 114, 15))
# With importance, the extreme value may hardly count and be cut off: many targets, on both sides.
_WIDE = np.concatenate([code_grid([0], [0]), code_grid(np.linspace(-1, 6, 14), PHASES)])

# fmt: off
encode_q4_0 = scaled_encoder(_Q4_0.absmax, [_D, _NIBBLES], target_grid((-10.5, -6.2, 15), (6, 8.5, 10)), 1,
                             _unweighted(_Q4_0, 18))
encode_q5_0 = scaled_encoder(_Q5_0.absmax, [_D, _HIGH_BITS, _LOW_BITS], target_grid((-20, -13, 15), (13, 17, 10)), 1,
                             _unweighted(_Q5_0, 22))
encode_q8_0 = scaled_encoder(_Q8_0.absmax, [_D, _BYTES], _NEAR_127, 0, _unweighted(_Q8_0, 34))
encode_q8_1 = scaled_encoder(_Q8_0.absmax, [_TWO_FACTORS, _BYTES], _NEAR_127, 0,
                             _unweighted(_Q8_0._replace(summed=True), 36))
encode_q4_1 = affine_encoder(15, _WIDE, [_TWO_FACTORS, _NIBBLES], _unweighted(_Q4_1, 20))
encode_q5_1 = affine_encoder(31, _WIDE, [_TWO_FACTORS, _HIGH_BITS, _LOW_BITS], _unweighted(_Q5_1, 24))
# fmt: on
