"""How long a calibration takes: floating-point operations counted from shapes, at a rate that is measured.

The weights of operations are from a profile on two cores with AVX-512: how long each kind takes beside a product of
float32 matrices with as many operations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gguflike.convert.calibration import Calibration
    from gguflike.families.parts import Place

SIDE = 512  # of the matrices whose product is measured
FORWARD = 1.5  # products with all tokens: of the float model, and by int8 of the quantized one
SUMS = 2.0  # for each token, and two columns of a matrix: H, of which a half is computed, and C, by int8
ELEMENT = 750.0  # for each number that is no product's, from norms to softmax
ROUNDING = 40_000.0, 40.0  # for each weight; and for each and column: error feedback, rounds, descent


def operations(calibration: Calibration) -> float:
    """Floating-point operations of a calibration."""
    tokens, total, known = calibration.tokens, rounding(calibration.matrices()), None
    for rows, columns, stacked in _shapes(calibration.matrices()):
        reached = tokens if stacked == 1 else min(tokens, tokens * 8 / stacked) * stacked
        total += FORWARD * 2 * reached * rows * columns
        if (columns, stacked) != known:  # the next may multiply the same
            total += SUMS * reached * columns**2
        known = columns, stacked
    graph = calibration.graph
    for mixer in graph.mixers():
        numbers = getattr(mixer, "heads", 0) * calibration.sequence / 2 + 2 * mixer.widest + 3 * graph.embedding.n_embd
        total += ELEMENT * tokens * numbers
    return total


def rounding(matrices: Iterable[Place]) -> float:
    """Floating-point operations of rounding matrices whose Hessians are known."""
    total, known = 0.0, None
    for rows, columns, stacked in _shapes(matrices):
        if (columns, stacked) != known:  # the next may have the same
            total += stacked * columns**3
        known = columns, stacked
        total += stacked * rows * columns * (ROUNDING[0] + ROUNDING[1] * columns)
    return total


def rounding_seconds(matrices: Iterable[Place]) -> float:
    """How long that takes about on all CPUs of this process."""
    return rounding(matrices) / (rate() * cpus())


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


def _shapes(matrices: Iterable[Place]) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and number of the matrices of each tensor."""
    for place in matrices:
        *stack, rows, columns = place.tensor.shape
        yield rows, columns, prod(stack)


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
