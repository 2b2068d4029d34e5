"""Super-blocks of integer sub-block scales: Q3_K, Q6_K, IQ4_XS. Value = d * scale[i] * level.

First each sub-block gets its own best real scale, as in scale.py. Then, for a few float16 ``d`` that map the largest of
these to the ends of the integer range, every sub-block chooses the integer scale near its own of least squared error,
its codes rounded anew for each, and ``d`` is refitted in closed form. The best of all, by the error of what is stored,
is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflike.kernels.encode.driver import BlockEncoder, block_encoder, codec
from gguflike.kernels.encode.packing import Field, bit_planes, interleaved, whole_bytes
from gguflike.kernels.encode.rounding import (
    Levels,
    clamp_tile,
    code_of,
    f16_bits,
    integers,
    nearest_level,
    reciprocal,
    round_to_f16,
    round_to_int,
    stored_scale,
)
from gguflike.kernels.encode.scale import (
    IQ4_LEVELS,
    best_scale,
    extreme,
    moments,
    squared_errors,
    target_grid,
)
from gguflike.kernels.encode.tiles import Floats, Importance, IntTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import float_rows, load, store
from gguflike.kernels.vector.lanes import magnitude, maximum, minimum, splat, to_int, where
from gguflike.kernels.vector.types import F32x16

BLOCK = 256


class SuperScale(NamedTuple):
    """Sub-blocks of ``size`` weights with integer scales ``least .. most``, stored plus ``bias``.

    ``extreme_level``: the level of a sub-block's extreme value by the absmax rule; without ``targets`` (as in scale.py)
    that rule is all there is. ``peaks`` float32: integers to which the largest scale maps, the absmax rule's first; for
    each, ``refits`` rounds in which sub-blocks choose their scales and then d is fitted to them. ``window`` float32:
    offsets from a sub-block's own scale that it may choose, an even number of them.
    """

    size: int
    extreme_level: np.float32
    targets: Floats
    rounds: int
    peaks: Floats
    window: Floats
    unmoved: Floats
    refits: int
    least: np.float32
    most: np.float32
    bias: int
    levels: Levels


@lean
def choose_scales(
    tile: Tile, importance: Importance, s: SuperScale, ideal: Tile, d: F32x16, window: Floats, chosen: Tile
) -> tuple[F32x16, F32x16, F32x16]:
    """Choose for each sub-block the integer scale of least squared error within ``window`` of ideal / d.

    ``ideal`` and ``chosen`` have a row per sub-block: real scales to start from, integer scales to be chosen. Returns
    the error over the super-block, sum w (x - d scale q)^2, and the two sums whose quotient is the d that minimizes it
    for these scales and levels: (sum w x scale q) / (sum w (scale q)^2).
    """
    size, least, most = s.size, s.least, s.most
    inverse = reciprocal(d)
    total = splat(0.0)
    xq_total = splat(0.0)
    qq_total = splat(0.0)
    for i in range(BLOCK // size):
        middle = round_to_int(minimum(maximum(load(ideal, i) * inverse, splat(least)), splat(most)))
        scale = middle
        error = splat(np.float32(np.inf))
        for k in range(0, len(window), 2):
            one = minimum(maximum(middle + window[k], splat(least)), splat(most))
            two = minimum(maximum(middle + window[k + 1], splat(least)), splat(most))
            error1, error2 = squared_errors(tile, importance, i * size, size, d * one, d * two, s.levels)
            scale = where(error1 < error, one, scale)
            error = minimum(error1, error)
            scale = where(error2 < error, two, scale)
            error = minimum(error2, error)
        xq, qq = moments(tile, importance, i * size, size, reciprocal(d * scale), s.levels)
        total = total + error
        xq_total = xq_total + scale * xq
        qq_total = qq_total + scale * scale * qq
        store(chosen, i, scale)
    return total, xq_total, qq_total


@codec(SuperScale)
def encode_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: SuperScale) -> None:
    """Encode super-blocks of scales. Symbols: the codes, the integer scales, the bits of d; then scratch."""
    size = s.size
    subs = BLOCK // size
    free = BLOCK + subs + 1
    ideal = float_rows(symbols, free, subs)
    chosen = float_rows(symbols, free + subs, subs)
    best = float_rows(symbols, free + 2 * subs, subs)
    clamp_tile(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
    for i in range(subs):
        store(ideal, i, extreme(tile, i * size, size) / s.extreme_level)
    best_d = round_to_f16(extreme(ideal, 0, subs) / s.peaks[0])
    best_error, xq, qq = choose_scales(tile, importance, s, ideal, best_d, s.unmoved, best)
    if len(s.targets) > 0:
        for i in range(subs):
            top = extreme(tile, i * size, size)
            store(ideal, i, best_scale(tile, importance, i * size, size, top, s.targets, s.rounds, s.levels, s.levels))
        largest = extreme(ideal, 0, subs)
        for p in range(len(s.peaks)):
            d = stored_scale(largest / s.peaks[p])
            for _ in range(s.refits):
                error, xq, qq = choose_scales(tile, importance, s, ideal, d, s.window, chosen)
                better = error < best_error
                best_error = where(better, error, best_error)
                best_d = where(better, d, best_d)
                for i in range(subs):
                    store(best, i, where(better, load(chosen, i), load(best, i)))
                d = stored_scale(xq * reciprocal(qq))
    for i in range(subs):
        scale = load(best, i)
        inverse = reciprocal(best_d * scale)
        for j in range(i * size, i * size + size):
            store(symbols, j, code_of(nearest_level(load(tile, j), inverse, s.levels), s.levels))
        store(symbols, BLOCK + i, to_int(scale) + s.bias)
    store(symbols, BLOCK + subs, f16_bits(best_d))


def super_encoder(
    size: int, levels: Levels, extreme_level: float, targets: Floats, peaks: tuple[float, ...],
    window: tuple[float, ...], scales: tuple[int, int], bias: int, fields: list[Field],
) -> BlockEncoder:  # fmt: skip
    """Make the encoder of a type of super-blocks with a scale for every ``size`` weights."""
    f32 = np.float32
    settings = SuperScale(
        size, f32(extreme_level), targets, 1, np.array(peaks, f32), np.array(window, f32), np.zeros(2, f32), 2,
        f32(scales[0]), f32(scales[1]), bias, levels,
    )  # fmt: skip
    absmax = settings._replace(targets=targets[:0])
    return block_encoder(BLOCK, BLOCK + (1 + 3) * (BLOCK // size) + 1, fields, settings, absmax)


_SCALES = range(BLOCK, BLOCK + 16)  # symbols of the scales


def _q3_scales() -> Field:
    """Twelve bytes: the low nibbles of scales i and i + 8, then the high bits of scales i, i + 4, i + 8, i + 12."""
    low = [[(_SCALES[i], 0, 15, 0), (_SCALES[i + 8], 0, 15, 4)] for i in range(8)]
    high = [[(_SCALES[i + 4 * k], 4, 3, 2 * k) for k in range(4)] for i in range(4)]
    return low + high


def _iq4_xs_scales() -> Field:
    """High bits of the eight scales, two each, then the low nibbles of neighbours."""
    high = [[(_SCALES[4 * b + k], 4, 3, 2 * k) for k in range(4)] for b in range(2)]
    low = [[(_SCALES[2 * b], 0, 15, 0), (_SCALES[2 * b + 1], 0, 15, 4)] for b in range(4)]
    return high + low


_D16, _D8 = whole_bytes([BLOCK + 16], 2), whole_bytes([BLOCK + 8], 2)

# fmt: off
encode_q3_k = super_encoder(
    16, integers(-4, 3), extreme_level=-4, scales=(-32, 31), bias=32,
    targets=target_grid((-4.9, -2.8, 7), (2.8, 4.0, 4)), peaks=(-32, 31), window=(0, 1),
    fields=[bit_planes(interleaved(256, 8, 32), 1, right=2), bit_planes(interleaved(256, 4, 32), 2, right=0),
            _q3_scales(), _D16],
)
encode_q6_k = super_encoder(
    16, integers(-32, 31), extreme_level=-32, scales=(-128, 127), bias=0,
    targets=target_grid((-33.5, -27, 9), (27, 32, 6)), peaks=(-128, -124, 127), window=(0, -1, 1, 2, -2, -3),
    fields=[bit_planes(interleaved(256, 2, 64), 4, right=0), bit_planes(interleaved(256, 4, 32), 2, right=4),
            whole_bytes(_SCALES), _D16],
)
encode_iq4_xs = super_encoder(
    32, IQ4_LEVELS, extreme_level=-127, scales=(-32, 31), bias=32,
    targets=target_grid((-140, -100, 9), (100, 130, 6)), peaks=(-32, -30.5, 31), window=(0, -1, 1, 2),
    fields=[_D8, _iq4_xs_scales(), bit_planes(interleaved(256, 2, 16), 4)],
)
# fmt: on
