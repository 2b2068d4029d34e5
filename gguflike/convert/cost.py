"""How long a calibration takes: floating-point operations counted from shapes, at a rate that is measured.

The weights of operations are from a profile on two cores with AVX-512: how long each kind takes beside a product of
float32 matrices with as many operations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from gguflike.calibrate.grids import GRIDS

if TYPE_CHECKING:
    from gguflike.convert.calibration import Calibration
    from gguflike.convert.plan import PlannedTensor

SIDE = 512  # of the matrices whose product is measured
FORWARD = 1.5  # products with all tokens: of the float model, and by int8 of the quantized one
BACKWARD = 4.0  # the same where the model runs backward: there, there again, and gradients by inputs and by weights
SUMS = 2.0  # for each token, and two columns of a matrix: H, of which a half is computed, and C, by int8
ELEMENT = 750.0  # for each number that is no product's, from norms to softmax
SCALARS, POINTS = 35_000.0, 700_000.0  # for each weight: encoding, by levels or by points of a codebook
DESCENT = 120.0  # for each weight and column: error feedback, rounds, descent; with H_O, and row, too
FACTOR = 2.0  # for each column, cubed


def operations(calibration: Calibration, tensors: Sequence[PlannedTensor]) -> float:
    """Floating-point operations of a calibration that rounds these ``tensors``."""
    graph, tokens, is_loss_aware = calibration.graph, calibration.tokens, calibration.effort.is_loss_aware
    shapes = [place.tensor.shape for place in calibration.matrices()]
    total, passes = rounding(tensors, is_loss_aware), FORWARD + BACKWARD * is_loss_aware
    for (rows, columns, stacked), is_new in _shapes(shapes):
        reached = tokens if stacked == 1 else min(tokens, tokens * 8 / stacked) * stacked
        total += passes * 2 * reached * rows * columns
        total += SUMS * reached * columns**2 * is_new
        if is_loss_aware:
            total += 2 * len(calibration.sequences) * min(stacked, calibration.sequence) * rows**2 * columns
    for mixer in graph.mixers():
        numbers = getattr(mixer, "heads", 0) * calibration.sequence / 2 + 2 * mixer.widest + 3 * graph.embedding.n_embd
        total += (1 + 2 * is_loss_aware) * ELEMENT * tokens * numbers
    return total


def rounding(tensors: Sequence[PlannedTensor], is_loss_aware: bool = False) -> float:
    """Floating-point operations of rounding matrices whose Hessians are known."""
    total = 0.0
    for tensor, ((rows, columns, stacked), is_new) in zip(tensors, _shapes(t.shape for t in tensors), strict=True):
        total += FACTOR * stacked * columns**3 * is_new
        each = SCALARS if tensor.format.name in GRIDS else POINTS
        total += stacked * rows * columns * (each + DESCENT * columns)
        if is_loss_aware and tensor.name.startswith("blk."):
            total += stacked * rows * columns * DESCENT * (rows + columns)
    return total


def speed() -> float:
    """Operations per second of all CPUs of this process."""
    return rate() * cpus()


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


def _shapes(shapes: Iterable[tuple[int, ...]]) -> Iterator[tuple[tuple[int, int, int], bool]]:
    """Rows, columns and number of the matrices of each tensor, and whether it multiplies something new, as far as its
    shape tells: the tensor before it may multiply the same."""
    known = None
    for *stack, rows, columns in shapes:
        number = prod(stack)
        yield (rows, columns, number), (columns, number) != known
        known = columns, number


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
