"""Coordinate descent: one code at a time to the value that costs least, given all the others.

With G = E H, the best value of a weight is v + G_j / H_jj. A code changes where that is beyond the middle between its
value and the next: G_j above or below a threshold that is kept for each weight.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.kernels.engine.jit import inner, jit
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.rounding.feedback import nearest
from gguflike.kernels.rounding.products import TILE, accumulate

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@inner
def thresholds(code: int, factor: np.float32, levels: Floats, diagonal: np.float32) -> tuple[np.float32, np.float32]:
    """The G below and above which the code of a weight changes."""
    low, high = np.float32(-np.inf), np.float32(np.inf)
    half = np.float32(0.5) * diagonal
    if factor != 0:
        if code + 1 < len(levels):
            change = half * (factor * (levels[code + 1] - levels[code]))
            if change > 0:
                high = change
            else:
                low = change
        if code > 0:
            change = half * (factor * (levels[code - 1] - levels[code]))
            if change > 0:
                high = change
            else:
                low = change
    return low, high


@jit
def _descend(
    start: int, stop: int, weights: Floats, hessian: Floats, factors: Floats, shifts: Floats, size: int, levels: Floats,
    step: np.float32, passes: int, codes: Bytes,
) -> None:  # fmt: skip
    k = weights.shape[1]
    errors, g = np.empty((TILE, k), np.float32), np.empty((TILE, k), np.float32)
    low, high = np.empty((TILE, k), np.float32), np.empty((TILE, k), np.float32)
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        count = last - first
        for r in range(count):
            row = first + r
            for j in range(k):
                factor = factors[row, j // size]
                value = factor * levels[codes[row, j]] - shifts[row, j // size]
                errors[r, j] = weights[row, j] - value
                low[r, j], high[r, j] = thresholds(codes[row, j], factor, levels, hessian[j, j])
        g[:] = 0
        accumulate(errors[:count], hessian, 0, k, 0, k, g)
        for _ in range(passes):
            moved = 0
            for j in range(k):
                column = hessian[j]
                for r in range(count):
                    if low[r, j] <= g[r, j] <= high[r, j]:
                        continue
                    row = first + r
                    factor, shift = factors[row, j // size], shifts[row, j // size]
                    old = codes[row, j]
                    value = factor * levels[old] - shift
                    code = nearest(value + g[r, j] / column[j], factor, shift, levels, step)
                    if code == old:
                        continue
                    change = factor * levels[code] - shift - value
                    codes[row, j] = code
                    low[r, j], high[r, j] = thresholds(code, factor, levels, column[j])
                    gradient = g[r]
                    for i in range(k):
                        gradient[i] -= change * column[i]
                    moved += 1
            if 1000 * moved < count * k:
                break


def descend(
    weights: Floats, hessian: Floats, factors: Floats, shifts: Floats, size: int, levels: Floats, step: float,
    passes: int, codes: Bytes, threads: int | None,
) -> None:  # fmt: skip
    """Improve ``codes`` uint8 (n, k) in place, in up to ``passes`` passes over the columns.

    A weight is ``factor * level - shift``, with those of its ``size`` columns: float32 (n, k / size).
    """
    run_rows(
        _descend, len(weights), weights, hessian, factors, shifts, size, levels, np.float32(step), passes, codes,
        threads=threads, least=TILE,
    )  # fmt: skip
