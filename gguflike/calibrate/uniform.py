"""Rounding to block types whose levels are scalars."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.grids import Grid, Numbers
from gguflike.calibrate.objective import Objective
from gguflike.kernels.rounding.descent import descend
from gguflike.kernels.rounding.feedback import carry, feed
from gguflike.tensor import quantize_finite

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def fed_back(targets: Floats, grid: Grid, goal: Objective, importance: Floats, threads: int | None) -> Numbers:
    """Round rows ``targets`` float32 (n, k) by error feedback, block by block in the order of ``goal``.

    The encoder chooses the scales of a block when it is reached, for what its columns then ought to be.
    """
    n, k = targets.shape
    size = grid.block
    errors = np.zeros((n, k), np.float32)
    numbers = Numbers(
        np.empty((n, k), np.uint8), np.empty((n, k // grid.size), np.uint8), np.empty((n, k // grid.size), np.uint8),
        np.empty((n, k // size), np.float32), np.empty((n, k // size), np.float32),
    )  # fmt: skip
    codes = np.empty((n, size), np.uint8)
    for begin in range(0, k, size):
        columns = goal.order[begin : begin + size]
        block = int(columns[0]) // size
        local = columns - block * size
        weights = np.ascontiguousarray(targets[:, columns])
        wanted = weights.copy()
        carry(errors, goal.b, begin, begin + size, wanted, threads)
        natural = np.empty_like(wanted)
        natural[:, local] = wanted
        encoded = quantize_finite(
            natural, grid.format, importance[block * size : (block + 1) * size], "search", threads, ""
        )
        part = grid.parse(encoded.rows)
        factors, shifts = grid.factors(part)
        feed(
            weights, wanted, factors, shifts, local // grid.size, goal.b, begin, grid.levels, grid.step, codes, errors,
            threads,
        )  # fmt: skip
        numbers.codes[:, columns] = codes
        subs = slice(block * size // grid.size, (block + 1) * size // grid.size)
        numbers.scales[:, subs], numbers.minima[:, subs] = part.scales, part.minima
        numbers.d[:, block], numbers.m[:, block] = part.d[:, 0], part.m[:, 0]
    return numbers


def round_rows(grid: Grid, targets: Floats, goal: Objective, passes: int, threads: int | None) -> tuple[Bytes, Floats]:
    """Round rows ``targets`` float32 (n, k): error feedback, then descent.

    Returns the blocks, uint8 (n, row bytes), and what they decode to.
    """
    numbers = fed_back(targets, grid, goal, goal.hessian.diagonal().copy(), threads)
    factors, shifts = grid.factors(numbers)
    descend(targets, goal.hessian, factors, shifts, grid.size, grid.levels, grid.step, passes, numbers.codes, threads)
    return grid.pack(numbers), grid.values(numbers)
