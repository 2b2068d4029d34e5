"""Least squares of one run of values: x = scale * q + offset for codes q = 0 .. hi, what Q4_1 and Q4_K have in common.

The search compares candidates by the squares that they explain, which takes fewest instructions. ``refit_affine``
goes by what is left instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from gguflike.kernels.encode.rounding import MAGIC, reciprocal, weighted
from gguflike.kernels.encode.scale import value_range
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load
from gguflike.kernels.vector.lanes import fma, maximum, minimum, splat, where

Floats = npt.NDArray[np.float32]

# Shifts of the codes against the values by thirds of a step: which of them fits best is as good as random.
PHASES = np.array([-1 / 3, 0, 1 / 3], np.float32)


@lean(forceinline=True)
def affine_code(x: Any, inverse: Any, shift: Any, hi: Any) -> Any:
    """The code in [0, hi] nearest to x * inverse + shift, as float32."""
    return minimum(maximum(fma(x, inverse, shift) + MAGIC, splat(MAGIC)), splat(hi) + MAGIC) - MAGIC


@lean
def affine_moments(tile: Any, importance: Any, first: int, count: int, inverse: Any, shift: Any, hi: Any) -> Any:
    """Weighted sums of x*q, q*q and q over the nearest codes."""
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
def value_sums(tile: Any, importance: Any, first: int, count: int) -> Any:
    """Sums of w, w*x and w*x*x."""
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
def fit_affine(sw: Any, sx: Any, xq: Any, qq: Any, sq: Any) -> Any:
    """Least-squares (scale, offset) of x against q with offset <= 0, and the squares that they explain."""
    det = sw * qq - sq * sq
    usable = det > sw * qq * np.float32(1e-6)
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
    tile: Any, importance: Any, first: int, count: int, sw: Any, sx: Any, grid: Any, rounds: int, hi: Any
) -> Any:
    """(scale, offset <= 0, squares explained), searched from ``grid``: pairs (range in codes, code of the minimum).

    ``sw``, ``sx``: as from ``value_sums``.
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
    tile: Any, importance: Any, first: int, count: int, sw: Any, step: Any, shift: Any, hi: Any,
    scale: Any, offset: Any, error: Any,
) -> Any:  # fmt: skip
    """Least-squares (scale, offset <= 0, error) for the codes nearest to x / step + shift, or the ones given if better.

    Sums are over the parts of codes that rounding leaves, so that the error is right however small beside the values.
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
    usable = det > sw * qq * np.float32(1e-6)
    stretch = where(usable, (sw * rq - sr * sq) / where(usable, det, splat(1.0)), splat(-1.0))
    move = (sr - stretch * sq) * reciprocal(sw)
    stretch = where(move > shift, (rq - shift * sq) * reciprocal(qq), stretch)
    stretch = maximum(stretch, splat(-1.0))
    move = minimum(move, shift)
    e = rr - 2.0 * (stretch * rq + move * sr)
    e = (e + stretch * stretch * qq + 2.0 * stretch * move * sq + move * move * sw) * step * step
    better = e < error
    scale = where(better, step + stretch * step, scale)
    offset = where(better, (move - shift) * step, offset)
    return scale, offset, where(better, e, error)


@lean
def affine_error(tile: Any, importance: Any, first: int, count: int, scale: Any, offset: Any, hi: Any) -> Any:
    """Sum of w * (x - scale * q - offset)**2 with the nearest codes."""
    inverse = reciprocal(scale)
    shift = -offset * inverse
    total = splat(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        rest = x - fma(scale, affine_code(x, inverse, shift, hi), offset)
        total = fma(rest, weighted(importance, j, rest), total)
    return total


def code_grid(stretches: ArrayLike, shifts: ArrayLike) -> npt.NDArray[np.float32]:
    """Starting points: the values' range spans ``stretch`` codes more than there are, its middle is ``shift`` off."""
    pairs = np.meshgrid(np.asarray(stretches, np.float32), np.asarray(shifts, np.float32), indexing="ij")
    return np.stack(pairs, axis=-1).reshape(-1, 2)


def spans(hi: int, grid: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``code_grid`` for codes 0 .. hi as ``best_affine`` takes it: (codes in the range, code of the minimum)."""
    return np.stack([hi + grid[:, 0], grid[:, 1] - grid[:, 0] / 2], axis=-1)
