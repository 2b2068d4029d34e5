"""How long a calibration takes: floating-point operations counted from shapes, at a rate that is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gguflike.convert.calibration import Calibration

SIDE = 512  # of the matrices whose product is measured
FORWARD = 6.0  # how often each matrix multiplies all tokens: both models run up to every group of matrices
ROUNDING = 24.0  # operations for each weight and column, from error feedback to the last pass of the descent


def operations(calibration: Calibration) -> float:
    """Floating-point operations of a calibration."""
    tokens, total = calibration.tokens, 0.0
    for rows, columns, stacked in _matrices(calibration):
        weights = stacked * rows * columns
        reached = tokens if stacked == 1 else min(tokens, tokens * 8 / stacked) * stacked
        total += FORWARD * 2 * reached * rows * columns
        total += 3 * reached * columns * columns / 2  # H is symmetric, C is not; about two matrices share them
        total += ROUNDING * weights * columns + stacked * columns**3
    return total


def seconds(calibration: Calibration) -> float:
    """How long it takes about on all CPUs of this process."""
    return operations(calibration) / (rate() * cpus())


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rate() -> float:
    """Operations per second of a product of float32 matrices, as numpy computes it now."""
    a = np.ones((SIDE, SIDE), np.float32)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best


def _matrices(calibration: Calibration) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and number of the matrices of each tensor."""
    for place in calibration.matrices():
        *stack, rows, columns = place.tensor.shape
        yield rows, columns, prod(stack)


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
