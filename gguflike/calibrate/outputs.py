"""Descent under both factors of a loss-aware Hessian: tr(H_O E H E^T), where an error of one row may undo another's.

For one row r, the others being fixed, this is H_O,rr times the cost of the row with another target: its value and
(H_O E)_r / H_O,rr. So whatever rounds a row to a target under H serves here as well. Some rows are rounded at the same
time, which stand far apart, where they have least to do with each other. Should the cost rise all the same, because
they made up for the same errors, that is undone, and each half of them is rounded by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.fisher import DAMPING
from gguflike.kernels.rounding.products import product

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
GROUP = 8  # rows that are rounded at the same time
_AT_ONCE = 128  # rows whose products with H_O and H are there together

# improve(rows, targets): round these rows to targets (rows, k), starting from what they are; returns their values, and
# the function that keeps them
Improve = Callable[[Indices, Floats], tuple[Floats, Callable[[], None]]]


def descend_outputs(
    targets: Floats, values: Floats, gram: Floats, output: Floats, improve: Improve, passes: int, threads: int | None
) -> None:
    """Improve rounded ``values`` float32 (n, k) of a matrix under ``gram``, H (k, k), and ``output``, H_O (n, n).

    There are ``passes`` over the rows; ``values`` are kept up to date. A factor H_O of zeros says nothing: nothing is
    changed.
    """
    n = len(values)
    mean = output.diagonal().mean(dtype=np.float64)
    if not mean > 0:
        return
    damping = np.float32(DAMPING * mean)
    errors = targets - values

    def visit(rows: Indices) -> None:
        chosen = output[rows]  # a copy of these alone, to be damped: H_O may be the largest thing there is
        chosen[np.arange(len(rows)), rows] += damping
        among, pulls = np.ascontiguousarray(chosen[:, rows]), product(chosen, errors, threads)
        improved, keep = improve(rows, values[rows] + pulls / among.diagonal()[:, None])
        moves = improved - values[rows]
        bent = product(moves, gram, threads).astype(np.float64)
        if (bent * (product(among, moves, threads) - 2 * pulls)).sum() < 0:
            keep()
            values[rows] = improved
            errors[rows] = targets[rows] - improved
        elif len(rows) > 1 and moves.any():
            visit(rows[::2])
            visit(rows[1::2])

    count = -(-n // GROUP)
    for _ in range(passes):
        for first in range(count):
            visit(np.arange(first, n, count))


def both_costs(errors: Floats, gram: Floats, output: Floats, threads: int | None) -> float:
    """tr(H_O E H E^T) of errors float32 (n, k), with ``gram`` (k, k) and ``output`` (n, n)."""
    total = 0.0
    for start in range(0, len(errors), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        left, right = product(output[rows], errors, threads), product(errors[rows], gram, threads)
        total += float((left.astype(np.float64) * right).sum())
    return total
