"""How long a calibration takes: floating-point operations counted from shapes, at a rate that is measured.

The weights of operations are from a profile on two cores with AVX-512: how long each kind takes beside a product of
float32 matrices with as many operations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, cast

import numpy as np

from gguflike.blocks import BlockFormat
from gguflike.calibrate.grids import GRIDS
from gguflike.convert.prior import PIECE, PIECES

if TYPE_CHECKING:
    from gguflike.convert.calibration import Calibration
    from gguflike.convert.kept import Kept
    from gguflike.convert.plan import PlannedTensor

Ladders = Mapping[str, Sequence[BlockFormat]]
SIDE = 512  # of the matrices whose product is measured
FORWARD = 1.5  # products with all tokens: of the float model, and by int8 of the quantized one
BACKWARD = 4.0  # the same where the model runs backward: there, there again, and gradients by inputs and by weights
SUMS = 2.0  # for each token, and two columns of a matrix: H, of which a half is computed, and C, by int8
ELEMENT = 750.0  # for each number that is no product's, from norms to softmax
CALLS = 9e8  # for each sequence and part of a block, whatever their sizes: Python's part in it
SCALARS, POINTS = 35_000.0, 700_000.0  # for each weight: encoding, by levels or by points of a codebook
DESCENT = 120.0  # for each weight and column: error feedback, rounds, descent; with H_O, and row, too
FACTOR = 2.0  # for each column, cubed
PLAIN = 2_500.0  # for each weight: a plain encoder, and what it is off
WALKS = 2  # of the float model, where types are chosen: for all types, and for how much rounding gains


def operations(calibration: Calibration, tensors: Sequence[PlannedTensor]) -> float:
    """Floating-point operations of a calibration that rounds these ``tensors``, when their types are known."""
    total = walking(calibration, tensors)
    return total + learning(calibration) if calibration.effort.is_loss_aware else total


def walking(calibration: Calibration, tensors: Sequence[PlannedTensor]) -> float:
    """Operations of the walk that rounds ``tensors``: of both models, with what is summed up for it."""
    total = rounding(tensors, calibration.effort.is_loss_aware) + _elements(calibration)
    for (rows, columns, _), reached, is_new in _matrices(calibration):
        total += FORWARD * 2 * reached * rows * columns + SUMS * reached * columns**2 * is_new
    return total


def learning(calibration: Calibration) -> float:
    """Operations of the backward pass that finds out what outputs matter."""
    total = 2 * _elements(calibration)
    for (rows, columns, stacked), reached, _ in _matrices(calibration):
        total += BACKWARD * 2 * reached * rows * columns
        total += 2 * len(calibration.sequences) * min(stacked, calibration.sequence) * rows**2 * columns
    return total


def choosing(calibration: Calibration | Kept | None, ladders: Ladders, tensors: Sequence[PlannedTensor]) -> float:
    """Operations of measuring what each type of its ladder costs a tensor, which starts from what the float model
    multiplies, in two walks, unless that is kept. Without a calibration, pieces of tensors tell."""
    total, is_loss_aware = 0.0, calibration is not None and calibration.effort.is_loss_aware
    if hasattr(calibration, "sequences"):
        walked = cast("Calibration", calibration)
        total += WALKS * _elements(walked) / 2
        for (rows, columns, _), reached, is_new in _matrices(walked):
            total += WALKS * (2 * reached * rows * columns + SUMS / 2 * reached * columns**2 * is_new)
    for tensor in tensors:
        if tensor.name not in ladders:
            continue
        rows, columns = tensor.shape[-2:]
        if calibration is None:
            total += len(ladders[tensor.name]) * PLAIN * min(tensor.weights, PIECES * PIECE // 2)
            continue
        each = PLAIN + 2 * columns + 2 * rows * (is_loss_aware and tensor.name.startswith("blk."))
        total += tensor.weights * (len(ladders[tensor.name]) + 1) * each
        total += tensor.weights * (SCALARS + DESCENT * columns) + FACTOR * prod(tensor.shape[:-2]) * columns**3
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


def _matrices(calibration: Calibration) -> Iterator[tuple[tuple[int, int, int], float, bool]]:
    """As of `_shapes`, with the tokens that come to all matrices of a tensor."""
    tokens = calibration.tokens
    for (rows, columns, stacked), is_new in _shapes(place.tensor.shape for place in calibration.matrices()):
        reached = tokens if stacked == 1 else min(tokens, tokens * 8 / stacked) * stacked
        yield (rows, columns, stacked), reached, is_new


def _elements(calibration: Calibration) -> float:
    """Operations on numbers that are no products, where both models run, and what takes as long."""
    graph, total = calibration.graph, 0.0
    for mixer in graph.mixers():
        numbers = getattr(mixer, "heads", 0) * calibration.sequence / 2 + 2 * mixer.widest + 3 * graph.embedding.n_embd
        total += ELEMENT * calibration.tokens * numbers + CALLS * len(calibration.sequences)
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
