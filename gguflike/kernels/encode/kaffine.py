"""Super-blocks of integer scales and mins: Q2_K, Q4_K, Q5_K. Value = d * scale[i] * code - dmin * min[i].

As in kscale.py, with two factors: the best real (scale, min) per sub-block first; then, for float16 (d, dmin) at hand,
the pair of integers near them of least squared error, codes rounded anew for each pair; then (d, dmin) refitted by
least squares for these integers and codes, and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from gguflike.kernels._jit import inner, jit, run_rows
from gguflike.kernels.dispatch import register
from gguflike.kernels.encode.layout import Slot, layout, planes, strided, whole
from gguflike.kernels.encode.scale import extreme
from gguflike.kernels.encode.search import (
    MAGIC,
    clamp_tile,
    f16_bits,
    groups_of,
    load_blocks,
    load_weights,
    pack,
    reciprocal,
    round_to_int,
    stored_scale,
    to_f16_grid,
    weight,
    weight_tile,
    weighted,
)
from gguflike.kernels.lanes import (
    LANES,
    fma,
    lanes,
    load,
    magnitude,
    make_int_tile,
    make_tile,
    maximum,
    minimum,
    store,
    to_int,
    where,
)

Array = npt.NDArray[Any]
BLOCK = 256


@inner(forceinline=True)
def affine_code(x: Any, inverse: Any, shift: Any, hi: Any) -> Any:
    """The code in [0, hi] nearest to x * inverse + shift, as float32."""
    return (minimum(maximum(fma(x, inverse, shift), lanes(0.0)), lanes(hi)) + MAGIC) - MAGIC


@inner
def bounds(tile: Any, first: int, count: int) -> Any:
    """(least, greatest) value."""
    least = load(tile, first)
    greatest = least
    for j in range(first + 1, first + count):
        x = load(tile, j)
        least = minimum(x, least)
        greatest = maximum(x, greatest)
    return least, greatest


@inner
def affine_moments(tile: Any, weights: Any, first: int, count: int, inverse: Any, shift: Any, hi: Any) -> Any:
    """Weighted sums of x*q, q*q and q over the nearest codes."""
    xq = lanes(0.0)
    qq = lanes(0.0)
    sq = lanes(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        q = affine_code(x, inverse, shift, hi)
        wq = weighted(weights, j, q)
        xq = fma(x, wq, xq)
        qq = fma(q, wq, qq)
        sq = sq + wq
    return xq, qq, sq


@inner
def totals(tile: Any, weights: Any, first: int, count: int) -> Any:
    """(sum of w, sum of w*x)."""
    sw = lanes(0.0)
    sx = lanes(0.0)
    for j in range(first, first + count):
        w = weight(weights, j)
        sw = sw + w
        sx = fma(w, load(tile, j), sx)
    return sw, sx


@inner(forceinline=True)
def fit(sw: Any, sx: Any, xq: Any, qq: Any, sq: Any, ceiling: Any) -> Any:
    """Least-squares (scale, offset) of x against q with offset <= ceiling, and the squares that they explain."""
    det = sw * qq - sq * sq
    usable = det > sw * qq * np.float32(1e-6)
    scale = where(usable, (sw * xq - sx * sq) / where(usable, det, lanes(1.0)), lanes(0.0))
    offset = (sx - scale * sq) * reciprocal(sw)
    capped = offset > ceiling
    offset = where(capped, lanes(ceiling), offset)
    scale = where(capped, (xq - offset * sq) * reciprocal(qq), scale)
    scale = maximum(scale, lanes(0.0))
    explained = (scale * xq + offset * sx) * 2.0 - (
        scale * scale * qq + 2.0 * scale * offset * sq + offset * offset * sw
    )
    return scale, offset, explained


@inner
def best_affine(tile: Any, weights: Any, first: int, count: int, grid: Any, rounds: int, hi: Any, ceiling: Any) -> Any:
    """(scale, offset) of least squared error, searched from ``grid``: pairs (range in codes, code of the minimum).

    ``ceiling``: the largest offset allowed (0 where a min is stored negated, infinity where it is free).
    """
    least, greatest = bounds(tile, first, count)
    least = minimum(least, lanes(ceiling))
    inverse_range = reciprocal(greatest - least)
    sw, sx = totals(tile, weights, first, count)
    scale = lanes(0.0)
    offset = minimum(sx * reciprocal(sw), lanes(ceiling))
    explained = offset * (2.0 * sx - offset * sw)
    for g in range(grid.shape[0]):
        inverse = inverse_range * grid[g, 0]
        shift = grid[g, 1] - least * inverse
        xq, qq, sq = affine_moments(tile, weights, first, count, inverse, shift, hi)
        s, o, e = fit(sw, sx, xq, qq, sq, ceiling)
        better = e > explained
        scale = where(better, s, scale)
        offset = where(better, o, offset)
        explained = where(better, e, explained)
    for _ in range(rounds):
        inverse = reciprocal(scale)
        xq, qq, sq = affine_moments(tile, weights, first, count, inverse, -offset * inverse, hi)
        s, o, e = fit(sw, sx, xq, qq, sq, ceiling)
        better = e > explained
        scale = where(better, s, scale)
        offset = where(better, o, offset)
        explained = where(better, e, explained)
    return scale, offset


@inner
def affine_error(tile: Any, weights: Any, first: int, count: int, scale: Any, offset: Any, hi: Any) -> Any:
    """Sum of w * (x - scale * q - offset)**2 with the nearest codes."""
    inverse = reciprocal(scale)
    shift = -offset * inverse
    total = lanes(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        rest = x - fma(scale, affine_code(x, inverse, shift, hi), offset)
        total = fma(rest, weighted(weights, j, rest), total)
    return total


@inner
def choose_pairs(
    tile: Any,
    weights: Any,
    size: int,
    scales: Any,
    mins: Any,
    d: Any,
    dmin: Any,
    window: Any,
    pairs: Any,
    most: Any,
    hi: Any,
) -> Any:
    """Per sub-block the integers (scale, min) of least error in a ``window`` around scales / d, mins / dmin: ``pairs``.

    Returns the error over the super-block and the (d, dmin) of least squares for these integers and codes.
    """
    subs = BLOCK // size
    inverse_d = reciprocal(d)
    inverse_dmin = reciprocal(dmin)
    total = lanes(0.0)
    aa = lanes(0.0)
    ab = lanes(0.0)
    bb = lanes(0.0)
    ax = lanes(0.0)
    bx = lanes(0.0)
    for i in range(subs):
        first = i * size
        middle = round_to_int(minimum(load(scales, i) * inverse_d, lanes(most)))
        middle_min = round_to_int(minimum(load(mins, i) * inverse_dmin, lanes(most)))
        scale = middle
        low = middle_min
        error = affine_error(tile, weights, first, size, d * middle, -(dmin * middle_min), hi)
        for k in range(window.shape[0]):
            other = minimum(maximum(middle + window[k, 0], lanes(0.0)), lanes(most))
            other_min = minimum(maximum(middle_min + window[k, 1], lanes(0.0)), lanes(most))
            e = affine_error(tile, weights, first, size, d * other, -(dmin * other_min), hi)
            better = e < error
            scale = where(better, other, scale)
            low = where(better, other_min, low)
            error = minimum(e, error)
        inverse = reciprocal(d * scale)
        xq, qq, sq = affine_moments(tile, weights, first, size, inverse, dmin * low * inverse, hi)
        sw, sx = totals(tile, weights, first, size)
        aa = aa + scale * scale * qq
        ab = ab + scale * low * sq
        bb = bb + low * low * sw
        ax = ax + scale * xq
        bx = bx + low * sx
        total = total + error
        store(pairs, 2 * i, scale)
        store(pairs, 2 * i + 1, low)
    det = aa * bb - ab * ab
    usable = det > aa * bb * np.float32(1e-6)
    inverse_det = reciprocal(where(usable, det, lanes(0.0)))
    new_d = where(usable, (ax * bb - bx * ab) * inverse_det, ax * reciprocal(aa))
    new_dmin = where(usable, (ax * ab - bx * aa) * inverse_det, lanes(0.0))
    return total, maximum(new_d, lanes(0.0)), maximum(new_dmin, lanes(0.0))


@jit
def encode_groups(
    start: int, stop: int, x: Any, weights: Any, out: Any, size: int, grid: Any, rounds: int, peaks: Any,
    window: Any, tries: int, most: Any, hi: Any, places: Any,
) -> None:  # fmt: skip
    """Encode groups of sixteen super-blocks. ``peaks``: integers to which the largest scale and min map; with no
    ``tries`` by the plain rule only, both to ``most``."""
    blocks = len(x) // BLOCK
    subs = BLOCK // size
    tile = make_tile(BLOCK)
    wtile = weight_tile(weights, BLOCK)
    scales = make_tile(subs)
    mins = make_tile(subs)
    pairs = make_tile(2 * subs)
    best = make_tile(2 * subs)
    symbols = make_int_tile(BLOCK + 2 * subs + 2)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, BLOCK, x, tile, starts)
        load_weights(group, blocks, BLOCK, weights, wtile, starts)
        clamp_tile(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
        for i in range(subs):
            least, greatest = bounds(tile, i * size, size)
            low = minimum(least, lanes(0.0))
            store(scales, i, (maximum(greatest, lanes(0.0)) - low) / hi)
            store(mins, i, -low)
        best_d = to_f16_grid(extreme(scales, 0, subs) / most)
        best_dmin = to_f16_grid(extreme(mins, 0, subs) / most)
        error, d, dmin = choose_pairs(tile, wtile, size, scales, mins, best_d, best_dmin, window[:0], best, most, hi)
        if tries > 0:
            for i in range(subs):
                s, o = best_affine(tile, wtile, i * size, size, grid, rounds, hi, np.float32(0.0))
                store(scales, i, s)
                store(mins, i, -o)
            peak = extreme(scales, 0, subs)
            peak_min = extreme(mins, 0, subs)
            for p in range(peaks.shape[0]):
                d = stored_scale(peak / peaks[p, 0])
                dmin = stored_scale(peak_min / peaks[p, 1])
                for _ in range(tries):
                    e, next_d, next_dmin = choose_pairs(
                        tile, wtile, size, scales, mins, d, dmin, window, pairs, most, hi
                    )
                    better = e < error
                    error = where(better, e, error)
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
        pack(group, blocks, symbols, places, out, scratch)


@dataclass(frozen=True)
class SuperAffineFormat:
    """One type of this family: sub-blocks of ``size`` codes 0 .. ``hi``, integer scales and mins 0 .. ``most``."""

    name: str
    size: int
    hi: int
    most: int
    grid: npt.NDArray[np.float32]
    peaks: tuple[tuple[float, float], ...]
    window: tuple[tuple[float, float], ...]
    fields: list[list[list[Slot]]]
    tries: int = 2
    rounds: int = 1

    def register(self) -> None:
        """Make this the encoder of the type."""
        f32, plan = np.float32, layout(self.fields)
        peaks, window, grid = np.array(self.peaks, f32), np.array(self.window, f32), spans(self.hi, self.grid)

        @register("encode", self.name)
        def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
            searching = method != "absmax"
            run_rows(
                encode_groups, groups_of(x.size // BLOCK), x.reshape(-1), weights if searching else None,
                out.reshape(-1), self.size, grid, self.rounds, peaks, window, self.tries if searching else 0,
                f32(self.most), f32(self.hi), plan, threads=threads,
            )  # fmt: skip


def code_grid(stretches: ArrayLike, shifts: ArrayLike) -> npt.NDArray[np.float32]:
    """Starting points: the values' range spans ``stretch`` codes more than there are, its middle is ``shift`` off."""
    pairs = np.meshgrid(np.asarray(stretches, np.float32), np.asarray(shifts, np.float32), indexing="ij")
    return np.stack(pairs, axis=-1).reshape(-1, 2)


def spans(hi: int, grid: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``code_grid`` for codes 0 .. hi as ``best_affine`` takes it: (codes in the range, code of the minimum)."""
    return np.stack([hi + grid[:, 0], grid[:, 1] - grid[:, 0] / 2], axis=-1)


# Shifts of the codes against the values by thirds of a step: which of them fits best is as good as random.
PHASES = np.array([-1 / 3, 0, 1 / 3], np.float32)

SC, MN = list(range(BLOCK, BLOCK + 8)), list(range(BLOCK + 8, BLOCK + 16))
FACTORS = whole([BLOCK + 16, BLOCK + 17], 2)
# Twelve bytes: six bits of scales 0-3 under the high bits of scales 4-7, mins likewise, then the low nibbles of both.
SCALES_AND_MINS: list[list[Slot]] = (
    [[(SC[i], 0, 63, 0), (SC[i + 4], 4, 3, 6)] for i in range(4)]
    + [[(MN[i], 0, 63, 0), (MN[i + 4], 4, 3, 6)] for i in range(4)]
    + [[(SC[i + 4], 0, 15, 0), (MN[i + 4], 0, 15, 4)] for i in range(4)]
)
_Q2_SCALES: list[list[Slot]] = [[(BLOCK + i, 0, 15, 0), (BLOCK + 16 + i, 0, 15, 4)] for i in range(16)]
_AROUND = tuple((float(a), float(b)) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b)
_WIDE = code_grid(np.arange(-1, 4.5, 0.5), PHASES)

# fmt: off
for _format in (
    SuperAffineFormat("Q2_K", size=16, hi=3, most=15, grid=code_grid([-0.6, -0.2, 0.2, 0.6, 1], PHASES),
                      peaks=((15, 15), (14, 14), (15, 13.5), (13, 15)), window=_AROUND,
                      fields=[_Q2_SCALES, planes(strided(256, 4, 32), 2), whole([BLOCK + 32, BLOCK + 33], 2)]),
    SuperAffineFormat("Q4_K", size=32, hi=15, most=63, grid=_WIDE, peaks=((63, 63), (60, 60)), window=_AROUND,
                      fields=[FACTORS, SCALES_AND_MINS, planes(strided(256, 2, 32), 4)]),
    SuperAffineFormat("Q5_K", size=32, hi=31, most=63, grid=_WIDE, peaks=((63, 63), (60, 60)), window=_AROUND,
                      fields=[FACTORS, SCALES_AND_MINS, planes(strided(256, 8, 32), 1, right=4),
                              planes(strided(256, 2, 32), 4, right=0)]),
):
    _format.register()
# fmt: on
