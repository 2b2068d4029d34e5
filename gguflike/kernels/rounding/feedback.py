"""Error feedback: a column is rounded to its target, its weight plus what the errors of earlier columns ask of it.

With H = B D B^T the cost of a row is sum_j D_j (target_j - value_j)^2, target_j = weight_j + sum_(i<j) error_i B_ij. As
B does not depend on the rows, this is GPTQ's column loop without an inverse of H.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.kernels.engine.jit import inner, jit
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.rounding.products import TILE, accumulate

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@inner
def nearest(value: np.float32, factor: np.float32, shift: np.float32, levels: Floats, step: np.float32) -> int:
    """The position in ``levels`` of which ``factor * level - shift`` is nearest to ``value``; 0 where factor is 0."""
    if factor == 0:
        return 0
    level = (value + shift) / factor
    if step != 0:
        place = (level - levels[0]) / step
        if not place > 0:
            return 0
        return int(min(np.floor(place + np.float32(0.5)), np.float32(len(levels) - 1)))
    position = 0
    for i in range(1, len(levels)):
        if level > np.float32(0.5) * (levels[i - 1] + levels[i]):
            position = i
    return position


@jit
def _carry(start: int, stop: int, errors: Floats, b: Floats, begin: int, end: int, targets: Floats) -> None:
    """Add to ``targets`` what the errors of columns before ``begin`` ask of columns ``begin .. end``."""
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        accumulate(errors[first:last], b, 0, begin, begin, end, targets[first:last])


@jit
def _feed(
    start: int, stop: int, weights: Floats, targets: Floats, factors: Floats, shifts: Floats, group: Indices, b: Floats,
    begin: int, levels: Floats, step: np.float32, codes: Bytes, errors: Floats,
) -> None:  # fmt: skip
    """Round the columns of a block, in order. ``group``: the sub-block of each, whose factor and shift hold.

    ``errors`` (n, k) receives those of the block's columns, from ``begin`` on.
    """
    width = targets.shape[1]
    for r in range(start, stop):
        target = targets[r]
        for i in range(width):
            factor, shift = factors[r, group[i]], shifts[r, group[i]]
            code = nearest(target[i], factor, shift, levels, step)
            codes[r, i] = code
            error = weights[r, i] - (factor * levels[code] - shift)
            errors[r, begin + i] = error
            row = b[begin + i, begin : begin + width]
            for j in range(i + 1, width):
                target[j] += error * row[j]


def carry(errors: Floats, b: Floats, begin: int, end: int, targets: Floats, threads: int | None) -> None:
    """Add to ``targets`` (n, end - begin) what ``errors`` (n, k) before column ``begin`` ask of these columns."""
    run_rows(_carry, len(errors), errors, b, begin, end, targets, threads=threads, least=TILE)


def feed(
    weights: Floats, targets: Floats, factors: Floats, shifts: Floats, group: Indices, b: Floats,
    begin: int, levels: Floats, step: float, codes: Bytes, errors: Floats, threads: int | None,
) -> None:  # fmt: skip
    """Round the columns of a block one after the other; ``targets`` is used up. See ``_feed``."""
    run_rows(
        _feed, len(targets), weights, targets, factors, shifts, group, b, begin, levels, np.float32(step), codes,
        errors, threads=threads, least=TILE,
    )  # fmt: skip
