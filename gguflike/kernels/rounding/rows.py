"""What descent knows of the rows it works on: their numbers, and G = E H, by which it sees what a change would cost.

A few rows (``TILE``) share what is read of the Hessian: all of them choose for the same columns, then G follows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.rounding import Levels
from gguflike.kernels.encode.tiles import Floats
from gguflike.kernels.engine.jit import inner, lean
from gguflike.kernels.rounding.feedback import nearest
from gguflike.kernels.rounding.products import TILE, accumulate

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
FEW = 1000  # a row's descent ends with a pass that changes less than one code in so many


class Tables(NamedTuple):
    """What the numbers of a type stand for. ``size`` columns share the integers ``scales`` and ``minima``.

    ``levels`` ascend, by ``step`` each or (0) as they like; ``nearest`` are the same for vectors. ``shifted``: whether
    there is an ``m``; ``signed``: whether it may be negative.
    """

    size: int
    levels: Floats
    step: np.float32
    nearest: Levels
    scales: Floats
    minima: Floats
    shifted: bool
    signed: bool


class Numbers(NamedTuple):
    """The numbers of all rows: codes, integer scales and minima as positions in the tables, super-scales d and m."""

    codes: Bytes
    scales: Bytes
    minima: Bytes
    d: Floats
    m: Floats


class Rows(NamedTuple):
    """State of ``TILE`` rows, the first of which is row ``first`` of the matrix.

    ``factor``, ``shift`` (TILE, sub-blocks): a value is ``factor * level - shift``, as its block decodes; ``values``
    (TILE, k) are these. ``g`` (TILE, k): G, and ``low``, ``high`` the bounds beyond which a code changes. ``moved``
    (TILE, k): errors that G is to follow yet. ``changed`` and ``before`` (TILE,): codes that the last pass changed, and
    the one before it. ``diagonal`` (k,) is that of H.
    """

    factor: Floats
    shift: Floats
    values: Floats
    g: Floats
    low: Floats
    high: Floats
    moved: Floats
    changed: Indices
    before: Indices
    diagonal: Floats


@inner
def make_rows(size: int, hessian: Floats) -> Rows:
    """Room for rows under a Hessian."""
    k = hessian.shape[0]
    diagonal = np.empty(k, np.float32)
    for j in range(k):
        diagonal[j] = hessian[j, j]
    return Rows(
        np.empty((TILE, k // size), np.float32), np.empty((TILE, k // size), np.float32),
        np.empty((TILE, k), np.float32), np.empty((TILE, k), np.float32), np.empty((TILE, k), np.float32),
        np.empty((TILE, k), np.float32), np.empty((TILE, k), np.float32), np.empty(TILE, np.int64),
        np.empty(TILE, np.int64), diagonal,
    )  # fmt: skip


@lean
def bounds(code: int, factor: np.float32, levels: Floats, diagonal: np.float32) -> tuple[np.float32, np.float32]:
    """The G below and above which a code costs more than its neighbours: half the change of the value, times H_jj."""
    low, high = np.float32(-np.inf), np.float32(np.inf)
    if factor != 0:
        half = np.float32(0.5) * diagonal * factor
        if code + 1 < len(levels):
            up = half * (levels[code + 1] - levels[code])
            if up > 0:
                high = up
            else:
                low = up
        if code > 0:
            down = half * (levels[code - 1] - levels[code])
            if down > 0:
                high = down
            else:
                low = down
    return low, high


@lean
def read(
    rows: Rows, numbers: Numbers, tables: Tables, first: int, r: int, begin: int, end: int, hessian: Floats
) -> None:
    """Take factors, shifts, values and bounds of columns ``begin .. end`` from the numbers of a row."""
    size, block, row = tables.size, hessian.shape[0] // numbers.d.shape[1], first + r
    for sub in range(begin // size, end // size):
        b = sub * size // block
        factor = numbers.d[row, b] * tables.scales[numbers.scales[row, sub]]
        shift = numbers.m[row, b] * tables.minima[numbers.minima[row, sub]]
        rows.factor[r, sub], rows.shift[r, sub] = factor, shift
        for j in range(sub * size, (sub + 1) * size):
            code = numbers.codes[row, j]
            rows.values[r, j] = factor * tables.levels[code] - shift
            low, high = bounds(code, factor, tables.levels, rows.diagonal[j])
            rows.low[r, j], rows.high[r, j] = low, high


@lean
def begin_rows(
    rows: Rows, numbers: Numbers, tables: Tables, first: int, count: int, weights: Floats, hessian: Floats
) -> None:
    """Set everything for ``count`` rows from ``first`` on."""
    k = hessian.shape[0]
    for r in range(count):
        read(rows, numbers, tables, first, r, 0, k, hessian)
        for j in range(k):
            rows.moved[r, j] = weights[first + r, j] - rows.values[r, j]
            rows.g[r, j] = 0
        rows.changed[r] = k  # no pass yet
    follow(rows, count, 0, k, hessian)


@lean
def follow(rows: Rows, count: int, begin: int, end: int, hessian: Floats) -> None:
    """Add ``moved`` H of columns ``begin .. end`` to G."""
    accumulate(rows.moved[:count], hessian, begin, end, 0, hessian.shape[0], rows.g[:count])


@lean
def sweep(rows: Rows, numbers: Numbers, tables: Tables, first: int, count: int, hessian: Floats) -> bool:
    """Coordinate descent: one pass over the columns of ``count`` rows. Returns whether another is worth while.

    The best value of a weight is v + G_j / H_jj, given all the others; its code is the nearest to that. A row of which
    the last pass changed hardly a code is left alone, whatever the others do: ``rows.changed`` counts.
    """
    k, size = hessian.shape[0], tables.size
    for r in range(count):
        rows.before[r], rows.changed[r] = rows.changed[r], 0
    for sub in range(k // size):
        for j in range(sub * size, (sub + 1) * size):
            for r in range(count):
                if rows.low[r, j] <= rows.g[r, j] <= rows.high[r, j] or FEW * rows.before[r] < k:
                    continue
                factor, shift, old = rows.factor[r, sub], rows.shift[r, sub], rows.values[r, j]
                code = nearest(old + rows.g[r, j] / rows.diagonal[j], factor, shift, tables.levels, tables.step)
                if code == numbers.codes[first + r, j]:
                    continue
                new = factor * tables.levels[code] - shift
                numbers.codes[first + r, j], rows.values[r, j] = code, new
                rows.low[r, j], rows.high[r, j] = bounds(code, factor, tables.levels, rows.diagonal[j])
                change = new - old
                for i in range(k):
                    rows.g[r, i] -= change * hessian[j, i]
                rows.changed[r] += 1
    most = 0
    for r in range(count):
        most = max(most, rows.changed[r])
    return bool(FEW * most >= k)
