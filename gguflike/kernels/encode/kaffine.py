"""Super-blocks of integer scales and mins: Q2_K, Q4_K, Q5_K. Value = d * scale[i] * code - dmin * min[i].

As in kscale.py, with two factors: first the best real (scale, offset) of each sub-block, by leastsquares.py; then, for
float16 (d, dmin) at hand, the pair of integers near them of least squared error, codes rounded anew for each pair; then
(d, dmin) refitted by least squares for these integers and codes, and again.

The first search compares candidates by the squares that they explain. Where next to nothing is left to explain (a value
far beyond the others, or an importance of few values only), float32 does not tell them apart: ``refine`` searches again
by what is left, and its result competes with the first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflike.kernels.encode.driver import BlockEncoder, block_encoder, codec
from gguflike.kernels.encode.leastsquares import (
    PHASES,
    SINGULAR,
    affine_code,
    affine_error,
    affine_moments,
    best_affine,
    code_grid,
    refit_affine,
    spans,
    value_sums,
)
from gguflike.kernels.encode.packing import Field, bit_planes, interleaved, whole_bytes
from gguflike.kernels.encode.rounding import (
    clamp_tile,
    f16_bits,
    reciprocal,
    round_to_f16,
    round_to_int,
    stored_scale,
)
from gguflike.kernels.encode.scale import extreme, value_range
from gguflike.kernels.encode.tiles import Floats, Importance, IntTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import float_rows, load, store
from gguflike.kernels.vector.lanes import any_lane, magnitude, maximum, minimum, splat, to_int, where
from gguflike.kernels.vector.types import F32x16

BLOCK = 256
HIDDEN = np.float32(1e-4)  # an error below this share of the squares is hidden by the rounding of their sums


class SuperAffine(NamedTuple):
    """Sub-blocks of ``size`` codes 0 .. ``hi`` with integer scales and mins 0 .. ``most``.

    ``grid``, ``rounds``: where ``best_affine`` starts from, and how it goes on. ``peaks`` float32 (n, 2): integers to
    which the largest scale and the largest min map; for each, ``refits`` rounds in which sub-blocks choose their pairs
    and then (d, dmin) is fitted to them. ``window`` float32 (n, 2): offsets from a sub-block's own pair that it may
    choose. Without ``refits`` the absmax rule is all there is; it maps both to ``most``.
    """

    size: int
    hi: np.float32
    most: np.float32
    grid: Floats
    rounds: int
    peaks: Floats
    window: Floats
    refits: int


@lean
def refine(
    tile: Tile, importance: Importance, s: SuperAffine, sums: Tile, unexplained: Tile, scales: Tile, mins: Tile
) -> bool:
    """Search again, by what is left of the squares, where ``best_affine`` cannot tell candidates apart.

    Tiles as in ``encode_lanes``; better scales and mins replace those in ``scales`` and ``mins``. Returns whether there
    was such a sub-block.
    """
    size, hi = s.size, s.hi
    found = False
    for i in range(BLOCK // size):
        first = i * size
        hidden = load(unexplained, i) < load(sums, 3 * i + 2) * HIDDEN
        if any_lane(hidden):
            found = True
            sw = load(sums, 3 * i)
            scale = load(scales, i)
            offset = -load(mins, i)
            error = affine_error(tile, importance, first, size, scale, offset, hi)
            least, greatest = value_range(tile, first, size)
            least = minimum(least, splat(0.0))
            span = where(greatest > least, greatest - least, splat(1.0))
            for g in range(s.grid.shape[0] + s.rounds):
                if g < s.grid.shape[0]:
                    step = span / s.grid[g, 0]
                    shift = s.grid[g, 1] - least * reciprocal(step)
                else:
                    step = where(scale > 0.0, scale, span)
                    shift = -offset * reciprocal(step)
                scale, offset, error = refit_affine(
                    tile, importance, first, size, sw, step, shift, hi, scale, offset, error
                )
            store(scales, i, where(hidden, scale, load(scales, i)))
            store(mins, i, where(hidden, -offset, load(mins, i)))
    return found


@lean
def choose_pairs(
    tile: Tile, importance: Importance, s: SuperAffine, sums: Tile, scales: Tile, mins: Tile, d: F32x16, dmin: F32x16,
    window: Floats, pairs: Tile,
) -> tuple[F32x16, F32x16, F32x16]:  # fmt: skip
    """Choose for each sub-block the integers (scale, min) of least error near scales / d, mins / dmin: into ``pairs``.

    Tiles as in ``encode_lanes``. Returns the error over the super-block, sum w (x - d scale q + dmin min)^2, and the
    (d, dmin) >= 0 that minimize it for these integers and codes: with a = scale q and b = min, the normal equations are
    d aa - dmin ab = ax and d ab - dmin bb = bx.
    """
    size, hi, most = s.size, s.hi, s.most
    subs = BLOCK // size
    inverse_d = reciprocal(d)
    inverse_dmin = reciprocal(dmin)
    total = splat(0.0)
    aa = splat(0.0)
    ab = splat(0.0)
    bb = splat(0.0)
    ax = splat(0.0)
    bx = splat(0.0)
    for i in range(subs):
        first = i * size
        middle = round_to_int(minimum(load(scales, i) * inverse_d, splat(most)))
        middle_min = round_to_int(minimum(load(mins, i) * inverse_dmin, splat(most)))
        scale = middle
        low = middle_min
        error = affine_error(tile, importance, first, size, d * middle, -(dmin * middle_min), hi)
        for k in range(window.shape[0]):
            other = minimum(maximum(middle + window[k, 0], splat(0.0)), splat(most))
            other_min = minimum(maximum(middle_min + window[k, 1], splat(0.0)), splat(most))
            other_error = affine_error(tile, importance, first, size, d * other, -(dmin * other_min), hi)
            better = other_error < error
            scale = where(better, other, scale)
            low = where(better, other_min, low)
            error = minimum(other_error, error)
        sw = load(sums, 3 * i)
        sx = load(sums, 3 * i + 1)
        coarse = middle < 2.0
        if any_lane(coarse):  # the min sought belongs to a scale that is not to be had: the mean may do better
            flat = round_to_int(minimum(maximum(-sx * reciprocal(sw), splat(0.0)) * inverse_dmin, splat(most)))
            flat_error = affine_error(tile, importance, first, size, splat(0.0), -(dmin * flat), hi)
            better = coarse & (flat_error < error)
            scale = where(better, splat(0.0), scale)
            low = where(better, flat, low)
            error = where(better, flat_error, error)
        inverse = reciprocal(d * scale)
        xq, qq, sq = affine_moments(tile, importance, first, size, inverse, dmin * low * inverse, hi)
        aa = aa + scale * scale * qq
        ab = ab + scale * low * sq
        bb = bb + low * low * sw
        ax = ax + scale * xq
        bx = bx + low * sx
        total = total + error
        store(pairs, 2 * i, scale)
        store(pairs, 2 * i + 1, low)
    det = aa * bb - ab * ab
    usable = det > aa * bb * SINGULAR
    inverse_det = reciprocal(where(usable, det, splat(0.0)))
    new_d = where(usable, (ax * bb - bx * ab) * inverse_det, ax * reciprocal(aa))
    new_dmin = where(usable, (ax * ab - bx * aa) * inverse_det, splat(0.0))
    return total, maximum(new_d, splat(0.0)), maximum(new_dmin, splat(0.0))


@codec(SuperAffine)
def encode_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: SuperAffine) -> None:
    """Encode super-blocks of scales and mins. Symbols: the codes, the scales, the mins, the bits of d and of dmin;
    then scratch.

    Of each sub-block, ``scales`` and ``mins`` hold a real scale and minus a real offset, ``sums`` its ``value_sums``,
    ``unexplained`` the squares that are left, ``pairs`` and ``best`` an integer scale and min.
    """
    size, hi = s.size, s.hi
    subs = BLOCK // size
    free = BLOCK + 2 * subs + 2
    scales = float_rows(symbols, free, subs)
    mins = float_rows(symbols, free + subs, subs)
    sums = float_rows(symbols, free + 2 * subs, 3 * subs)
    unexplained = float_rows(symbols, free + 5 * subs, subs)
    pairs = float_rows(symbols, free + 6 * subs, 2 * subs)
    best = float_rows(symbols, free + 8 * subs, 2 * subs)
    clamp_tile(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
    for i in range(subs):
        least, greatest = value_range(tile, i * size, size)
        low = minimum(least, splat(0.0))
        store(scales, i, (maximum(greatest, splat(0.0)) - low) / hi)
        store(mins, i, 0.0 - low)
        for k, total in enumerate(value_sums(tile, importance, i * size, size)):
            store(sums, 3 * i + k, total)
    best_d = round_to_f16(extreme(scales, 0, subs) / s.most)
    best_dmin = round_to_f16(extreme(mins, 0, subs) / s.most)
    best_error, d, dmin = choose_pairs(tile, importance, s, sums, scales, mins, best_d, best_dmin, s.window[:0], best)
    if s.refits > 0:
        for i in range(subs):
            sw, sx = load(sums, 3 * i), load(sums, 3 * i + 1)
            scale, offset, explained = best_affine(tile, importance, i * size, size, sw, sx, s.grid, s.rounds, hi)
            store(unexplained, i, load(sums, 3 * i + 2) - explained)
            store(scales, i, scale)
            store(mins, i, -offset)
        for search in range(2):
            if search > 0 and not refine(tile, importance, s, sums, unexplained, scales, mins):
                break
            largest = extreme(scales, 0, subs)
            largest_min = extreme(mins, 0, subs)
            for p in range(s.peaks.shape[0]):
                d = stored_scale(largest / s.peaks[p, 0])
                dmin = stored_scale(largest_min / s.peaks[p, 1])
                for _ in range(s.refits):
                    error, next_d, next_dmin = choose_pairs(
                        tile, importance, s, sums, scales, mins, d, dmin, s.window, pairs
                    )
                    better = error < best_error
                    best_error = where(better, error, best_error)
                    best_d = where(better, d, best_d)
                    best_dmin = where(better, dmin, best_dmin)
                    for i in range(2 * subs):
                        store(best, i, where(better, load(pairs, i), load(best, i)))
                    d = stored_scale(next_d)
                    dmin = stored_scale(next_dmin)
    for i in range(subs):
        scale = load(best, 2 * i)
        low = load(best, 2 * i + 1)
        inverse = reciprocal(best_d * scale)
        shift = best_dmin * low * inverse
        for j in range(i * size, i * size + size):
            store(symbols, j, to_int(affine_code(load(tile, j), inverse, shift, hi)))
        store(symbols, BLOCK + i, to_int(scale))
        store(symbols, BLOCK + subs + i, to_int(low))
    store(symbols, BLOCK + 2 * subs, f16_bits(best_d))
    store(symbols, BLOCK + 2 * subs + 1, f16_bits(best_dmin))


def super_encoder(
    size: int, hi: int, most: int, grid: Floats, peaks: tuple[tuple[float, float], ...],
    fields: list[Field],
) -> BlockEncoder:  # fmt: skip
    """Make the encoder of a type of super-blocks with a scale and a minimum for every ``size`` weights."""
    f32 = np.float32
    around = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
    settings = SuperAffine(size, f32(hi), f32(most), spans(hi, grid), 1, np.array(peaks, f32), np.array(around, f32), 2)
    symbols = BLOCK + (2 + 10) * (BLOCK // size) + 2
    return block_encoder(BLOCK, symbols, fields, settings, absmax=settings._replace(refits=0))


_SC, _MN = range(BLOCK, BLOCK + 8), range(BLOCK + 8, BLOCK + 16)  # symbols of the scales, of the mins
_FACTORS = whole_bytes([BLOCK + 16, BLOCK + 17], 2)
# Twelve bytes: six bits of scales 0-3 under the high bits of scales 4-7, mins likewise, then the low nibbles of both.
_SCALES_AND_MINS: Field = (
    [[(_SC[i], 0, 63, 0), (_SC[i + 4], 4, 3, 6)] for i in range(4)]
    + [[(_MN[i], 0, 63, 0), (_MN[i + 4], 4, 3, 6)] for i in range(4)]
    + [[(_SC[i + 4], 0, 15, 0), (_MN[i + 4], 0, 15, 4)] for i in range(4)]
)
_Q2_SCALES: Field = [[(BLOCK + i, 0, 15, 0), (BLOCK + 16 + i, 0, 15, 4)] for i in range(16)]
_Q2_FACTORS = whole_bytes([BLOCK + 32, BLOCK + 33], 2)
_WIDE = code_grid(np.arange(-1, 4.5, 0.5), PHASES)

# fmt: off
encode_q2_k = super_encoder(16, hi=3, most=15, grid=code_grid([-0.6, -0.2, 0.2, 0.6, 1], PHASES),
                            peaks=((15, 15), (14, 14), (15, 13.5), (13, 15)),
                            fields=[_Q2_SCALES, bit_planes(interleaved(256, 4, 32), 2), _Q2_FACTORS])
encode_q4_k = super_encoder(32, hi=15, most=63, grid=_WIDE, peaks=((63, 63), (60, 60)),
                            fields=[_FACTORS, _SCALES_AND_MINS, bit_planes(interleaved(256, 2, 32), 4)])
encode_q5_k = super_encoder(32, hi=31, most=63, grid=_WIDE, peaks=((63, 63), (60, 60)),
                            fields=[_FACTORS, _SCALES_AND_MINS, bit_planes(interleaved(256, 8, 32), 1, right=4),
                                    bit_planes(interleaved(256, 2, 32), 4, right=0)])
# fmt: on
