"""Rounding to block types whose levels are scalars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.grids import Grid, Numbers
from gguflike.calibrate.objective import Objective
from gguflike.calibrate.outputs import descend_outputs
from gguflike.kernels.encode.rounding import Levels, integers
from gguflike.kernels.rounding import rows
from gguflike.kernels.rounding.feedback import carry, feed
from gguflike.kernels.rounding.local import factor_blocks
from gguflike.kernels.rounding.refine import refine
from gguflike.tensor import quantize_finite

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
OUTPUT_PASSES = 2  # over the rows of a matrix under both factors; each time a row descends by passes of its own
SPREAD = 0.02  # steps between candidates for a super-scale in the first round, half as much in each that follows


def fed_back(grid: Grid, targets: Floats, goal: Objective, threads: int | None) -> Numbers:
    """Round rows ``targets`` float32 (n, k) by error feedback, block by block in the order of ``goal``.

    The encoder chooses the scales of a block when it is reached, for what its columns then ought to be.
    """
    n, k = targets.shape
    size, importance = grid.block, goal.hessian.diagonal().copy()
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


class Descent:
    """Rows of numbers that descend to targets under the Hessian of ``goal``, in so many ``rounds`` of choices."""

    def __init__(self, grid: Grid, rounds: int, goal: Objective, threads: int | None) -> None:
        self._grid, self._hessian, self._threads = grid, goal.hessian, threads
        self._spreads = [SPREAD / 2**i for i in range(rounds)]
        self._tables = _tables(grid)
        self._block, self._sub = (
            factor_blocks(goal.hessian, width, grid.size, threads) for width in (grid.block, grid.size)
        )

    def rows(self, numbers: Numbers, targets: Floats, passes: int) -> tuple[Bytes, Floats]:
        """Blocks, uint8 (n, row bytes), for rows of ``targets`` float32 (n, k), and what they decode to: from
        ``numbers``, which change."""
        self._improve(numbers, targets, self._spreads, passes)
        return self._grid.pack(numbers), self._grid.values(numbers)

    def outputs(self, rounded: Bytes, targets: Floats, output: Floats, passes: int) -> Bytes:
        """The ``rounded`` blocks of a matrix, uint8 (n, row bytes), improved under ``output`` as well (outputs.py)."""
        grid = self._grid
        numbers = grid.parse(rounded)

        def improve(chosen: Indices, wanted: Floats) -> tuple[Floats, Callable[[], None]]:
            codes, scales, minima, d, m = numbers
            part = Numbers(codes[chosen], scales[chosen], minima[chosen], d[chosen], m[chosen])
            self._improve(part, wanted, [SPREAD / 4], passes)

            def keep() -> None:
                codes[chosen], scales[chosen], minima[chosen], d[chosen], m[chosen] = part

            return grid.values(part), keep

        descend_outputs(targets, grid.values(numbers), self._hessian, output, improve, OUTPUT_PASSES, self._threads)
        return grid.pack(numbers)

    def _improve(self, numbers: Numbers, targets: Floats, spreads: Sequence[float], passes: int) -> None:
        """Improve ``numbers`` in place to ``targets`` float32 (n, k).

        For each of ``spreads``, steps between candidates for a super-scale relative to it, there is a round in which
        all scales and minima are chosen anew, and the codes with them; then up to ``passes`` of coordinate descent.
        """
        refine(
            targets, self._hessian, self._tables, rows.Numbers(*numbers), self._block, self._sub,
            self._grid.d_at.size > 0, np.array(spreads, np.float32), passes, self._threads,
        )  # fmt: skip


def _tables(grid: Grid) -> rows.Tables:
    """The levels, scales and minima of a type for the kernels."""
    levels, step = grid.levels, np.float32(grid.step)
    if step == 1:
        nearest = integers(int(levels[0]), int(levels[-1]))
    else:
        middles = (levels[1:] + levels[:-1]) / 2
        nearest = Levels(levels[0], levels[-1], np.float32(0), np.concatenate([levels, middles]))
    shifted = grid.m_at.size > 0
    return rows.Tables(grid.size, levels, step, nearest, grid.scales, grid.minima, shifted, grid.added)
