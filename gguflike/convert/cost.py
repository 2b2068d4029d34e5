"""How long a calibration takes: floating-point operations counted from shapes, at a rate that is measured.

The weights of operations are from a profile on two cores with AVX-512: how long each kind takes beside a product of
float32 matrices with as many operations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from gguflike.blocks import BlockFormat
from gguflike.calibrate.grids import GRIDS
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.prior import PIECE, PIECES
from gguflike.families.parts import Graph

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


class Run(NamedTuple):
    """A model that runs on text: its ``graph``, the ``shapes`` of the tensors that are looked at, matrices or stacks of
    them, and the ``lengths`` of the sequences, in tokens."""

    graph: Graph
    shapes: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def elements(self) -> float:
        """Operations on numbers that are no products, where both models run, and what takes as long."""
        total = 0.0
        for mixer in self.graph.mixers():
            numbers = getattr(mixer, "heads", 0) * self.longest / 2 + 2 * mixer.widest + 3 * self.graph.embedding.n_embd
            total += ELEMENT * self.tokens * numbers + CALLS * len(self.lengths)
        return total

    def matrices(self) -> Iterator[tuple[tuple[int, int, int], float, bool]]:
        """As of `_shapes`, with the tokens that come to all matrices of a tensor."""
        for (rows, columns, stacked), is_new in _shapes(self.shapes):
            reached = self.tokens if stacked == 1 else min(self.tokens, self.tokens * 8 / stacked) * stacked
            yield (rows, columns, stacked), reached, is_new


def walking(run: Run, tensors: Sequence[PlannedTensor], is_loss_aware: bool) -> float:
    """Operations of the walk that rounds ``tensors``, whose types are known: of both models, with what is summed up for
    it."""
    total = rounding(tensors, is_loss_aware) + run.elements()
    for (rows, columns, _), reached, is_new in run.matrices():
        total += FORWARD * 2 * reached * rows * columns + SUMS * reached * columns**2 * is_new
    return total


def learning(run: Run) -> float:
    """Operations of the backward pass that finds out what outputs matter."""
    total = 2 * run.elements()
    for (rows, columns, stacked), reached, _ in run.matrices():
        total += BACKWARD * 2 * reached * rows * columns
        total += 2 * len(run.lengths) * min(stacked, run.longest) * rows**2 * columns
    return total


def watching(run: Run) -> float:
    """Operations of the walks of the float model that tell what types cost."""
    total = WALKS * run.elements() / 2
    for (rows, columns, _), reached, is_new in run.matrices():
        total += WALKS * (2 * reached * rows * columns + SUMS / 2 * reached * columns**2 * is_new)
    return total


def choosing(ladders: Ladders, tensors: Sequence[PlannedTensor], is_loss_aware: bool) -> float:
    """Operations of measuring what each type of its ladder costs a tensor, for inputs that are known."""
    total = 0.0
    for tensor in (each for each in tensors if each.name in ladders):
        rows, columns = tensor.shape[-2:]
        each = PLAIN + 2 * columns + 2 * rows * (is_loss_aware and tensor.name.startswith("blk."))
        total += tensor.weights * (len(ladders[tensor.name]) + 1) * each
        total += tensor.weights * (SCALARS + DESCENT * columns) + FACTOR * prod(tensor.shape[:-2]) * columns**3
    return total


def expecting(ladders: Ladders, tensors: Sequence[PlannedTensor]) -> float:
    """Operations of the same where no inputs are known, and pieces of tensors tell."""
    found = [tensor for tensor in tensors if tensor.name in ladders]
    return sum(len(ladders[each.name]) * PLAIN * min(each.weights, PIECES * PIECE // 2) for each in found)


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
