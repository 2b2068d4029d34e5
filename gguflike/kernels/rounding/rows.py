"""What descent knows of the rows it works on: their numbers, and G = E H, by which it sees what a change would cost.

A few rows (``TILE``) share what is read of the Hessian: all of them choose for the same columns, then G follows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.rounding import Levels
from gguflike.kernels.encode.tiles import Floats
from gguflike.kernels.engine.jit import inner
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

    ``factor``, ``shift`` (TILE, sub-blocks): a value is ``factor * level - shift``. ``g`` (TILE, k): G, and ``low``,
    ``high`` the bounds beyond which a code changes. ``moved`` (TILE, k): errors that G is to follow yet.
    ``changed`` (TILE,): codes that the last pass changed.
    """

    factor: Floats
    shift: Floats
    g: Floats
    low: Floats
    high: Floats
    moved: Floats
    changed: Indices


@inner
def make_rows(k: int, size: int) -> Rows:
    """Room for rows of ``k`` columns."""
    return Rows(
        np.empty((TILE, k // size), np.float32), np.empty((TILE, k // size), np.float32),
        np.empty((TILE, k), np.float32), np.empty((TILE, k), np.float32), np.empty((TILE, k), np.float32),
        np.empty((TILE, k), np.float32), np.empty(TILE, np.int64),
    )  # fmt: skip


@inner
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


@inner
def value(rows: Rows, numbers: Numbers, tables: Tables, first: int, r: int, j: int) -> np.float32:
    """The value of column ``j``, as its block decodes."""
    sub = j // tables.size
    return rows.factor[r, sub] * tables.levels[numbers.codes[first + r, j]] - rows.shift[r, sub]  # type: ignore[no-any-return]


@inner
def read(
    rows: Rows, numbers: Numbers, tables: Tables, first: int, r: int, begin: int, end: int, hessian: Floats
) -> None:
    """Take factors, shifts and bounds of columns ``begin .. end`` from the numbers of a row."""
    size, block, row = tables.size, hessian.shape[0] // numbers.d.shape[1], first + r
    for sub in range(begin // size, end // size):
        b = sub * size // block
        rows.factor[r, sub] = numbers.d[row, b] * tables.scales[numbers.scales[row, sub]]
        rows.shift[r, sub] = numbers.m[row, b] * tables.minima[numbers.minima[row, sub]]
    for j in range(begin, end):
        low, high = bounds(numbers.codes[row, j], rows.factor[r, j // size], tables.levels, hessian[j, j])
        rows.low[r, j], rows.high[r, j] = low, high


@inner
def begin_rows(
    rows: Rows, numbers: Numbers, tables: Tables, first: int, count: int, weights: Floats, hessian: Floats
) -> None:
    """Set everything for ``count`` rows from ``first`` on."""
    k = hessian.shape[0]
    for r in range(count):
        read(rows, numbers, tables, first, r, 0, k, hessian)
        for j in range(k):
            rows.moved[r, j] = weights[first + r, j] - value(rows, numbers, tables, first, r, j)
    rows.changed[:] = k  # no pass yet
    rows.g[:] = 0
    follow(rows, count, 0, k, hessian)


@inner
def follow(rows: Rows, count: int, begin: int, end: int, hessian: Floats) -> None:
    """Add ``moved`` H of columns ``begin .. end`` to G."""
    accumulate(rows.moved[:count], hessian, begin, end, 0, hessian.shape[0], rows.g[:count])


@inner
def sweep(rows: Rows, numbers: Numbers, tables: Tables, first: int, count: int, hessian: Floats) -> bool:
    """Coordinate descent: one pass over the columns of ``count`` rows. Returns whether another is worth while.

    The best value of a weight is v + G_j / H_jj, given all the others; its code is the nearest to that. A row of which
    the last pass changed hardly a code is left alone, whatever the others do: ``rows.changed`` counts.
    """
    k = hessian.shape[0]
    before = rows.changed.copy()
    rows.changed[:] = 0
    for j in range(k):
        column, sub = hessian[j], j // tables.size
        for r in range(count):
            if rows.low[r, j] <= rows.g[r, j] <= rows.high[r, j] or FEW * before[r] < k:
                continue
            factor, shift = rows.factor[r, sub], rows.shift[r, sub]
            old = value(rows, numbers, tables, first, r, j)
            code = nearest(old + rows.g[r, j] / column[j], factor, shift, tables.levels, tables.step)
            if code == numbers.codes[first + r, j]:
                continue
            numbers.codes[first + r, j] = code
            rows.low[r, j], rows.high[r, j] = bounds(code, factor, tables.levels, column[j])
            change, g = value(rows, numbers, tables, first, r, j) - old, rows.g[r]
            for i in range(k):
                g[i] -= change * column[i]
            rows.changed[r] += 1
    return bool(FEW * rows.changed.max() >= k)
