"""Least squares of a run of values x against codes q = 0 .. hi, x = scale * q + offset: what Q4_1 and Q4_K share.

For given codes, minimizing sum w (x - scale q - offset)^2 is a linear problem in (scale, offset); its normal equations
need only the moments sum w q, sum w q^2 and sum w x q besides ``value_sums``. The search compares candidates by the
squares that they explain, which takes fewest instructions. ``refit_affine`` compares by the squares that are left.

Names of sums: ``sw`` = sum w, ``sx`` = sum w x, ``xx`` = sum w x^2, ``xq`` = sum w x q, ``qq`` = sum w q^2, ``sq`` =
sum w q.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gguflike.kernels.encode.rounding import MAGIC, reciprocal, weighted
from gguflike.kernels.encode.scale import value_range
from gguflike.kernels.encode.tiles import Floats, Importance, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load
from gguflike.kernels.vector.lanes import fma, maximum, minimum, splat, where
from gguflike.kernels.vector.types import F32x16

# Shifts of the codes against the values by thirds of a step: which of them fits best is as good as random.
PHASES = np.array([-1 / 3, 0, 1 / 3], np.float32)
SINGULAR = np.float32(1e-6)  # a determinant below this share of sw * qq: all codes are one, but for rounding


@lean(forceinline=True)
def affine_code(x: F32x16, inverse: F32x16, shift: F32x16, hi: np.float32) -> F32x16:
    """The code in [0, hi] nearest to x * inverse + shift, as float32."""
    return minimum(maximum(fma(x, inverse, shift) + MAGIC, splat(MAGIC)), splat(hi) + MAGIC) - MAGIC


@lean
def affine_moments(
    tile: Tile, importance: Importance, first: int, count: int, inverse: F32x16, shift: F32x16, hi: np.float32
) -> tuple[F32x16, F32x16, F32x16]:
    """(xq, qq, sq) over the codes nearest to x * ``inverse`` + ``shift``."""
    xq = splat(0.0)
    qq = splat(0.0)
    sq = splat(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        q = affine_code(x, inverse, shift, hi)
        wq = weighted(importance, j, q)
        xq = fma(x, wq, xq)
        qq = fma(q, wq, qq)
        sq = sq + wq
    return xq, qq, sq


@lean
def value_sums(tile: Tile, importance: Importance, first: int, count: int) -> tuple[F32x16, F32x16, F32x16]:
    """(sw, sx, xx) of rows ``first .. first + count - 1``."""
    sw = splat(0.0)
    sx = splat(0.0)
    xx = splat(0.0)
    for j in range(first, first + count):
        if importance is not None:
            sw = sw + load(importance, j)
        x = load(tile, j)
        wx = weighted(importance, j, x)
        sx = sx + wx
        xx = fma(x, wx, xx)
    if importance is None:
        sw = splat(count)
    return sw, sx, xx


@lean(forceinline=True)
def fit_affine(sw: F32x16, sx: F32x16, xq: F32x16, qq: F32x16, sq: F32x16) -> tuple[F32x16, F32x16, F32x16]:
    """The (scale >= 0, offset <= 0) that minimize sum w (x - scale q - offset)^2, and the squares that they explain.

    The normal equations give scale = (sw xq - sx sq) / (sw qq - sq^2) and offset = (sx - scale sq) / sw. Where that
    offset is positive, 0 is best, and scale = xq / qq. Explained: sum w x^2 less the squared error.
    """
    det = sw * qq - sq * sq
    usable = det > sw * qq * SINGULAR
    scale = where(usable, (sw * xq - sx * sq) / where(usable, det, splat(1.0)), splat(0.0))
    offset = (sx - scale * sq) * reciprocal(sw)
    scale = where(offset > 0.0, xq * reciprocal(qq), scale)
    offset = minimum(offset, splat(0.0))
    scale = maximum(scale, splat(0.0))
    explained = (scale * xq + offset * sx) * 2.0 - (
        scale * scale * qq + 2.0 * scale * offset * sq + offset * offset * sw
    )
    return scale, offset, explained


@lean
def best_affine(
    tile: Tile, importance: Importance, first: int, count: int, sw: F32x16, sx: F32x16, grid: Floats, rounds: int,
    hi: np.float32,
) -> tuple[F32x16, F32x16, F32x16]:  # fmt: skip
    """Search (scale, offset <= 0) by the squares explained, which is the third result.

    ``grid`` float32 (n, 2) holds where to start: pairs (codes in the range of the values, code of the least value), as
    ``spans`` makes them. After them come ``rounds`` of codes and ``fit_affine`` in turn, from the best one.
    """
    least, greatest = value_range(tile, first, count)
    least = minimum(least, splat(0.0))
    inverse_range = reciprocal(greatest - least)
    scale = splat(0.0)
    offset = minimum(sx * reciprocal(sw), splat(0.0))
    explained = offset * (2.0 * sx - offset * sw)
    for g in range(grid.shape[0]):
        inverse = inverse_range * grid[g, 0]
        shift = grid[g, 1] - least * inverse
        xq, qq, sq = affine_moments(tile, importance, first, count, inverse, shift, hi)
        s, o, e = fit_affine(sw, sx, xq, qq, sq)
        better = e > explained
        scale = where(better, s, scale)
        offset = where(better, o, offset)
        explained = where(better, e, explained)
    for _ in range(rounds):
        inverse = reciprocal(scale)
        xq, qq, sq = affine_moments(tile, importance, first, count, inverse, -offset * inverse, hi)
        s, o, e = fit_affine(sw, sx, xq, qq, sq)
        better = e > explained
        scale = where(better, s, scale)
        offset = where(better, o, offset)
        explained = where(better, e, explained)
    return scale, offset, explained


@lean
def refit_affine(
    tile: Tile, importance: Importance, first: int, count: int, sw: F32x16, step: F32x16, shift: F32x16,
    hi: np.float32, scale: F32x16, offset: F32x16, error: F32x16,
) -> tuple[F32x16, F32x16, F32x16]:  # fmt: skip
    """Minimize sum w (x - s q - o)^2 over (s >= 0, o <= 0), in residual form: returns the better (s, o, error).

    The codes q are those nearest to t = x / ``step`` + ``shift``; (``scale``, ``offset``, ``error``) compete. With the
    residuals r = t - q, the best s is step * (1 + a) and the best o is step * (b - shift), where (a, b) minimize
    sum w (r - a q - b)^2. Sums over residuals are exact to float32 however small the error is beside the values, which
    sums over the values are not.
    """
    inverse = reciprocal(step)
    rq = splat(0.0)
    sr = splat(0.0)
    rr = splat(0.0)
    qq = splat(0.0)
    sq = splat(0.0)
    for j in range(first, first + count):
        t = fma(load(tile, j), inverse, shift)
        q = affine_code(t, splat(1.0), splat(0.0), hi)
        wq = weighted(importance, j, q)
        wr = weighted(importance, j, t - q)
        rq = fma(q, wr, rq)
        sr = sr + wr
        rr = fma(t - q, wr, rr)
        qq = fma(q, wq, qq)
        sq = sq + wq
    det = sw * qq - sq * sq
    usable = det > sw * qq * SINGULAR
    a = where(usable, (sw * rq - sr * sq) / where(usable, det, splat(1.0)), splat(-1.0))
    b = (sr - a * sq) * reciprocal(sw)
    a = where(b > shift, (rq - shift * sq) * reciprocal(qq), a)
    a = maximum(a, splat(-1.0))
    b = minimum(b, shift)
    e = rr - 2.0 * (a * rq + b * sr)
    e = (e + a * a * qq + 2.0 * a * b * sq + b * b * sw) * step * step
    better = e < error
    scale = where(better, step + a * step, scale)
    offset = where(better, (b - shift) * step, offset)
    return scale, offset, where(better, e, error)


@lean
def affine_error(
    tile: Tile, importance: Importance, first: int, count: int, scale: F32x16, offset: F32x16, hi: np.float32
) -> F32x16:
    """sum w (x - scale q - offset)^2 with the nearest codes q."""
    inverse = reciprocal(scale)
    shift = -offset * inverse
    total = splat(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        residual = x - fma(scale, affine_code(x, inverse, shift, hi), offset)
        total = fma(residual, weighted(importance, j, residual), total)
    return total


def code_grid(stretches: ArrayLike, shifts: ArrayLike) -> Floats:
    """All pairs (stretch, shift), float32 (n, 2): the values' range spans ``stretch`` codes more than there are, and
    its middle is ``shift`` codes off theirs."""
    pairs = np.meshgrid(np.asarray(stretches, np.float32), np.asarray(shifts, np.float32), indexing="ij")
    return np.stack(pairs, axis=-1).reshape(-1, 2)


def spans(hi: int, grid: Floats) -> Floats:
    """``code_grid`` for codes 0 .. hi as ``best_affine`` takes it: (codes in the range, code of the least value)."""
    return np.stack([hi + grid[:, 0], grid[:, 1] - grid[:, 0] / 2], axis=-1)
