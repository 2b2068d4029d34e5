"""How long a calibration takes: floating-point operations counted from shapes, at a rate that is measured.

The weights of operations are from profiles of one thread with AVX-512, of models of 6 and 190 million weights: how long
each kind takes beside a product of float32 matrices with as many operations (`scripts/bench_stages.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from gguflike.blocks import BlockFormat
from gguflike.calibrate import scaling
from gguflike.calibrate.blas import single_threaded
from gguflike.calibrate.grids import GRIDS
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.prior import PIECE, PIECES
from gguflike.families.parts import Graph, Head, experts_used

Ladders = Mapping[str, Sequence[BlockFormat]]
SIDE = 512  # of the matrices whose product is measured
MEASURED = 0.03  # seconds of it: there are clocks that tick every 16 ms
FORWARD = 1.5  # products with all tokens: of the float model, and by int8 of the quantized one
BACKWARD = 4.0  # the same where the model is trained: there, there again, and gradients by inputs and by weights
BY_INPUTS = 3.0  # where it runs backward without the last
SUMS = 2.0  # for each token, and two columns of a matrix: H, of which a half is computed, and C, by int8
ELEMENT = 750.0  # for each number that is no product's, from norms to softmax
CALLS = 9e8  # for each sequence and part of a block, whatever their sizes: Python's part in it
BACK = 1.5  # what is no product, where the model runs backward
LOGIT = 2_500.0  # for each logit: probabilities, the label that is drawn, the gradient by it
SCALARS, POINTS = 42_000.0, 480_000.0  # for each weight: encoding, by levels or by points of a codebook
DESCENT = 80.0  # for each weight and column: error feedback, rounds, descent; as much again under H_O
OUTPUTS = 30.0  # for each weight and row: what errors of other rows, by H_O, want of a row
FACTOR = 2.0  # for each column, cubed
PLAIN = 2_500.0  # for each weight: a plain encoder, and what it is off
LEVELS_TRIED, POINTS_TRIED = 1_300.0, 3_400.0  # the same of few rows, by levels or by points
WALKS = 2  # of the float model, where types are chosen: for all types, and for how much rounding gains


class Matrix(NamedTuple):
    """What a model multiplies with: ``stacked`` matrices of ``rows`` and ``columns``, to which so many tokens come that
    are ``reached``, all matrices together. ``is_new``: the matrix before it multiplies something else."""

    rows: int
    columns: int
    stacked: int
    reached: int
    is_new: bool


class Run(NamedTuple):
    """A model that runs on text: its ``graph``, and the ``lengths`` of the sequences, in tokens."""

    graph: Graph
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

    def matrices(self) -> Iterator[Matrix]:
        """Those of the blocks; with the output matrix, nothing is multiplied but where a model runs backward."""
        places = self.graph.tensors()
        shapes = (each.tensor.shape for each in places if each.layer is not None and each.tensor.is_matrix)
        used = experts_used(self.graph.mixers())
        for (rows, columns, stacked), is_new in _shapes(shapes):
            yield Matrix(rows, columns, stacked, self.tokens * min(used, stacked), is_new)


def walking(run: Run, tensors: Sequence[PlannedTensor], is_loss_aware: bool) -> float:
    """Operations of the walk that rounds ``tensors``, whose types are known: of both models, with what is summed up for
    it."""
    total = rounding(tensors, is_loss_aware) + run.elements()
    for each in run.matrices():
        total += FORWARD * 2 * each.reached * each.rows * each.columns
        total += SUMS * each.reached * each.columns**2 * each.is_new
    return total


def learning(run: Run) -> float:
    """Operations of the backward pass that finds out what outputs matter: H_O of the matrices in the blocks; and
    before, the logits, and the gradients by what they are made of."""
    total = BACK * run.elements()
    for each in run.matrices():
        total += BY_INPUTS * 2 * each.reached * each.rows * each.columns
        total += SUMS / 2 * each.reached * each.rows**2
    if isinstance(run.graph.head, Head):
        total += run.tokens * run.graph.head.n_vocab * (2 * 2 * run.graph.head.n_embd + LOGIT)
    return total


def saying(run: Run) -> float:
    """Operations of the model in floats up to its logits, and what these say beside others."""
    total = running(run)
    if isinstance(run.graph.head, Head):
        total += run.tokens * run.graph.head.n_vocab * (2 * run.graph.head.n_embd + LOGIT)
    return total


def training(run: Run, held_out: Run, marks: int) -> float:
    """Operations of training on so many sequences: what the float model says of them, and by which it is to be told how
    far the other is from that, forward and backward; and of evaluating the model on text that is ``held_out``, so many
    times."""
    total = saying(run) + BACK * run.elements() + marks * saying(held_out)
    for each in run.matrices():
        total += BACKWARD * 2 * each.reached * each.rows * each.columns
    if isinstance(run.graph.head, Head):
        total += run.tokens * run.graph.head.n_vocab * (3 * 2 * run.graph.head.n_embd + LOGIT)
    return total


def watching(run: Run) -> float:
    """Operations of the walks of the float model that tell what types cost."""
    return WALKS * (running(run) + summing(run))


def summing(run: Run) -> float:
    """Operations of summing up Gram matrices of what the float model multiplies."""
    return sum(SUMS / 2 * each.reached * each.columns**2 * each.is_new for each in run.matrices())


def running(run: Run) -> float:
    """Operations of the float model alone."""
    return run.elements() / 2 + sum(2 * each.reached * each.rows * each.columns for each in run.matrices())


def trying(matrices: Iterable[tuple[tuple[int, ...], BlockFormat]]) -> float:
    """Operations of finding AWQ's scales for matrices, or stacks of them, of such shapes and types: some of their rows
    are encoded for each exponent, and multiplied with some inputs."""
    total = 0.0
    for shape, fmt in matrices:
        each = (LEVELS_TRIED if fmt.name in GRIDS else POINTS_TRIED) + 2 * scaling.SAMPLE
        total += (len(scaling.EXPONENTS) + 1) * min(scaling.ROWS, prod(shape[:-1])) * shape[-1] * each
    return total


def choosing(ladders: Ladders, tensors: Sequence[PlannedTensor], is_loss_aware: bool) -> float:
    """Operations of measuring what each type of its ladder costs a tensor, for inputs that are known."""
    total = 0.0
    for tensor in (each for each in tensors if each.name in ladders):
        rows, columns = tensor.shape[-2:]
        aware = is_loss_aware and tensor.name.startswith("blk.")
        each = PLAIN + 2 * columns + 2 * rows * aware
        total += tensor.weights * (len(ladders[tensor.name]) + 1) * each
        total += tensor.weights * _of_weight(rows, columns, aware) + FACTOR * prod(tensor.shape[:-2]) * columns**3
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
        aware = is_loss_aware and tensor.name.startswith("blk.")
        points = 0.0 if tensor.format.name in GRIDS else POINTS
        total += stacked * rows * columns * _of_weight(rows, columns, aware, points)
    return total


def _of_weight(rows: int, columns: int, is_loss_aware: bool, points: float = 0.0) -> float:
    """Operations of rounding a weight of a matrix with so many rows and columns, by levels or by ``points``."""
    alone = (points or SCALARS) + DESCENT * columns
    return alone + points + DESCENT * columns + OUTPUTS * rows if is_loss_aware else alone


def speed() -> float:
    """Operations per second of all CPUs of this process."""
    return rate() * cpus()


def cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rate() -> float:
    """Operations of a product of float32 matrices per second of one CPU, as numpy computes it: whatever else the
    machine does, and how many threads OpenBLAS would use."""
    a = np.ones((SIDE, SIDE), np.float32)
    with single_threaded():
        a @ a
        count, start, taken = 0, time.thread_time(), 0.0
        while taken < MEASURED:
            a @ a
            count, taken = count + 1, time.thread_time() - start
    return 2 * SIDE**3 * count / taken


def _shapes(shapes: Iterable[tuple[int, ...]]) -> Iterator[tuple[tuple[int, int, int], bool]]:
    """Rows, columns and number of the matrices of each tensor, and whether it multiplies something new, as far as its
    shape tells: the tensor before it may multiply the same."""
    known = None
    for *stack, rows, columns in shapes:
        number = prod(stack)
        yield (rows, columns, number), (columns, number) != known
        known = columns, number
