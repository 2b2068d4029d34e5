"""How much each output of a matrix, and each token, matters to what a model says: its Fisher information, by one
backward pass.

The second derivative of the divergence from the float model is the Fisher information, E[g g^T] over labels that are
sampled from the model itself. For a matrix it is a matrix over pairs of weights, taken as a Kronecker product of two
factors, as if tokens were independent (K-FAC, arXiv 1503.05671): H_I over columns, for which the Gram matrix of the
inputs stands, and H_O over rows, which is made here of the gradients g_t by outputs. A few tokens, the first of a text
among them, have gradients that are hundreds of times as long as those of others. So that neither factor is made of
these alone, s_t, the mean of g_t**2 over the outputs, is divided among both: tokens count as s_t**.5 in the Gram matrix
(s_t itself is GuidedQuant, arXiv 2505.07004), and H_O is the sum of g_t g_t^T / s_t**.5.

Sequences go through the model block by block, first to the end and then back; hidden states and their gradients are on
disk, and there are in memory one block's weights, the factors of its matrices, the gradients by outputs of a few
sequences and what sequences compute of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.blas import single_threaded
from gguflike.calibrate.states import States
from gguflike.calibrate.steps import Steps
from gguflike.calibrate.sums import Each, add_gram, mirror
from gguflike.calibrate.tables import Table, TableSums, by_rows, is_told, variances
from gguflike.calibrate.walk import Lazy
from gguflike.errors import ArgumentError, QuantizationError
from gguflike.families.parts import Block, Graph, Head, experts_used
from gguflike.progress import Progress
from gguflike.reference.formulas import normalize
from gguflike.reference.gradient import Product
from gguflike.reference.gradient.graph import Blocks, State

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

AT_ONCE = 8
"""Sequences whose results are held at most before they are added up."""
GRADIENTS = 192 << 20
"""Bytes of gradients by the outputs of a block's matrices that are held so; of one sequence, where they are more."""
LOGITS = 1 << 27
"""Bytes of logits that are computed together, on each thread."""
ROWS = 64
"""Tokens whose logits become probabilities together."""
_PREDICTED = "predicted"
"""What the logits say of the tables is called so, until the gradients by the embedding are there."""
DAMPING = 0.05
"""Share of its mean diagonal that is added to H_O's diagonal before rounding: it is a sum over few tokens."""


class Sensitivity:
    """The Fisher information of one matrix (n, k), or of a stack of ``count``, as far as it is seen.

    ``tokens`` float32 (tokens,): s_t of all sequences, one behind the other; of a stack, the sum over a token's
    matrices. ``reached``: tokens that came to each matrix of the stack.
    """

    def __init__(self, factors: Floats, tokens: Floats, reached: npt.NDArray[np.int64]) -> None:
        self._factors, self.tokens, self.reached = factors, tokens, reached
        self._mean: Floats | None = None  # of a stack, once it is asked for

    def output(self, member: int = 0) -> Floats:
        """H_O, float32 (n, n), of mean diagonal 1; the identity where no gradient came.

        That of one of a stack is drawn to the mean of the stack the more, the fewer tokens reached it.
        """
        own, count = self._scaled(member), len(self._factors)
        if count == 1:
            return own
        if self._mean is None:
            parts = (self._scaled(each) for each in range(count) if self.reached[each])
            total = sum(parts, np.zeros_like(own)) / np.float32(max(int(np.count_nonzero(self.reached)), 1))
            self._mean = total if total.any() else np.eye(len(own), dtype=np.float32)
        reached = float(self.reached[member])
        weight = np.float32(reached / (reached + len(own)))
        return np.asarray(weight * own + (1 - weight) * self._mean, np.float32)

    def _scaled(self, member: int) -> Floats:
        factor = np.asarray(self._factors[member])
        mean = np.trace(factor) / len(factor)
        return factor / mean if mean > 0 else np.eye(len(factor), dtype=np.float32)


def token_weights(matrices: Iterable[Sensitivity], power: float = 0.5) -> Floats:
    """How much each token counts in the Gram matrix of what ``matrices`` multiply, float32 (tokens,), of mean 1.

    It is the mean of their s_t, each divided by its mean, to a ``power``: with few sequences s_t itself is noise. All 1
    where no gradient came.
    """
    tokens = [each.tokens for each in matrices]
    parts = [each / mean for each in tokens if (mean := float(each.mean(dtype=np.float64))) > 0]
    if not parts:
        return np.ones(len(tokens[0]), np.float32)
    weights = np.mean(parts, axis=0) ** power
    return np.asarray(weights / weights.mean(), np.float32)


Tell = Callable[[str, Sensitivity], None]


def fisher(
    graph: Graph,
    read: Callable[[str], Floats],
    sequences: Sequence[Sequence[int]],
    found: Tell,
    workspace: Path,
    *,
    tables: Callable[[str, Table], None] | None = None,
    length: int = 0,
    seed: int = 0,
    steps: Steps | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Tell ``found(name, sensitivity)`` of every matrix in the blocks of a model, from the last block to the first, and
    ``tables(name, table)`` of its embedding and its output matrix, where `tables.is_told`.

    ``read(name)`` gives a tensor by its GGUF name, float32. ``seed`` draws the labels. ``length`` is the context that
    the model runs with (0: of each sequence, its own). Hidden states are kept in the folder ``workspace``: as many
    float32 as there are tokens times width times blocks + 2. What ``found`` is told of stacks is in files there, and
    gone when `fisher` returns. ``threads``: all CPUs, unless given; results are the same bits with any number.
    ``progress`` is told of passes of the sequences through a block.

    A pass that was cut off goes on with the block that it was in, where ``steps``, of that folder, have a key that says
    all that results depend on: those of blocks that are done are told of by then, and not again. The caller notes there
    what it keeps of them.

    Matrices that are not multiplied as ``x @ matrix.T`` (those absorbed by latent attention) are left out.

    ArgumentError for a model without logits and where there are no sequences, QuantizationError where a gradient is not
    finite, OutputError where the disk has no room.
    """
    if not isinstance(graph.head, Head):
        raise ArgumentError("the model has no logits, by which its loss is known", field="graph")
    if not sequences or not all(sequences):
        raise ArgumentError("no text", field="sequences", expected="token ids", got=[len(each) for each in sequences])
    everything = 2 * len(graph.blocks) + 3  # with the tables
    if steps is not None and steps.done == everything:
        return
    place = States(workspace, graph, [len(each) for each in sequences], steps)
    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        sums = TableSums(graph) if tables is not None and is_told(graph) else None
        walk = _Walk(graph, read, sequences, place, length, pool, sums)
        total = 2 * len(graph.blocks) + 1

        def tell(done: int, what: str) -> None:
            if progress is not None:
                progress(done, total, what)

        walk.run(seed, found, tell)
        if tables is not None and sums is not None:
            walk.starts()
            for name, table in sums.results().items():
                tables(name, table)
    place.close(everything)


class _Walk:
    """What `fisher` does, with its arguments."""

    def __init__(
        self,
        graph: Graph,
        read: Callable[[str], Floats],
        sequences: Sequence[Sequence[int]],
        place: States,
        length: int,
        pool: ThreadPoolExecutor,
        sums: TableSums | None,
    ) -> None:
        self.graph, self.read, self.place, self.pool, self.sums = graph, read, place, pool, sums
        self.sequences = [list(each) for each in sequences]
        self.blocks = [Blocks(graph, length or len(each)) for each in sequences]
        self.names: dict[int | None, dict[str, str]] = {None: {}}
        self.matrices: dict[int, dict[str, tuple[int, ...]]] = {}  # of each layer by role: their shapes
        for name, layer, tensor in graph.tensors():
            if tensor.used:
                self.names.setdefault(layer, {})[tensor.role] = name
                if layer is not None and tensor.is_matrix:
                    self.matrices.setdefault(layer, {})[tensor.role] = tensor.shape

    def weights(self, layer: int | None) -> Lazy:
        """The tensors of a layer and those of none."""
        return Lazy({**self.names[None], **(self.names.get(layer, {}) if layer is not None else {})}, self.read)

    def run(self, seed: int, found: Tell, tell: Callable[[int, str], None]) -> None:
        """All steps that are not done: into the first block, through each, the logits, and back."""
        count, place = len(self.graph.blocks), self.place
        for step in range(place.steps.done, 2 * count + 2):
            back = 2 * count + 1 - step
            if step == 0:
                self.start()
            elif step <= count:
                tell(step - 1, f"block {step - 1}, forward")
                self.forward(step - 1)
            elif step == count + 1:
                tell(count, "logits")
                self.ends(seed)
            else:
                tell(step - 1, f"block {back}, backward")
                self.backward(back, found)
            if step <= count:
                place.finish(step + 1, step)
            else:
                place.finish_gradient(step + 1, back)

    def start(self) -> None:
        """Write what the first block is given."""
        weights = self.weights(None)
        for i, ids in enumerate(self.sequences):
            self.place.save(0, i, self.blocks[i].start(weights, ids))

    def forward(self, layer: int) -> None:
        """Write what the next block is given."""
        here = self.weights(layer)

        def run(i: int) -> None:
            self.place.save(layer + 1, i, self.blocks[i].run(layer, here, self.place.load(layer, i)))

        list(self.pool.map(run, range(len(self.sequences))))

    def ends(self, seed: int) -> None:
        """Write the gradients by what the last block gives."""
        weights, last = self.weights(None), len(self.graph.blocks)

        assert isinstance(self.graph.head, Head)
        rows = logit_rows(self.graph.head.n_vocab)

        def run(i: int) -> tuple[Floats, Array] | None:
            spread: list[Array] = []
            rng = np.random.default_rng([seed, i])

            def loss(logits: Array) -> tuple[float, Array]:
                value, gradient = sampled(logits, rng)
                if self.sums is not None:
                    spread.append(variances(gradient))
                return value, gradient

            x = self.place.load(last, i).x
            parts = [x[start : start + rows] for start in range(0, len(x), rows)]
            gradients = [self.blocks[i].ends(weights, part, loss)[1] for part in parts]
            self.place.save_gradient(last, i, State(np.concatenate(gradients), {}, {}))
            if self.sums is None:
                return None
            x = normalize(self.graph.norm, weights, x)
            return x.T @ x, np.sum(spread, axis=0) if len(spread) > 1 else spread[0]

        for lot in self.lots(AT_ONCE):
            for seen in self.pool.map(run, lot):
                if seen is not None and self.sums is not None:
                    self.sums.predicted(*seen)
        if self.sums is not None:
            self.place.keep(_PREDICTED, self.sums.predictions)

    def starts(self) -> None:
        """Add up what the embedding comes to, by the first block's gradients, and what the output matrix did."""
        assert self.sums is not None
        self.sums.predictions = self.place.kept(_PREDICTED)

        def run(i: int) -> tuple[Array, Floats]:
            ids = np.asarray(self.sequences[i], np.int64)
            return ids, by_rows(ids, self.place.load_gradient(0, i).x)

        for lot in self.lots(AT_ONCE):
            for ids, seen in self.pool.map(run, lot):
                self.sums.looked_up(ids, seen)

    def lots(self, size: int) -> Iterable[range]:
        """Sequences of which results are held before they are added up, ``size`` of them each time."""
        count = len(self.sequences)
        return (range(start, min(start + size, count)) for start in range(0, count, size))

    def backward(self, layer: int, found: Tell) -> None:
        """Write the gradients by what a block was given, and tell ``found`` of its matrices."""
        weights, shapes = self.weights(layer), self.matrices.get(layer, {})
        sums = {role: _Sum(self.place, role, shape) for role, shape in shapes.items()}

        def run(i: int) -> _Seen:
            seen = _Seen(len(self.sequences[i]))
            state, gradient = self.place.load(layer, i), self.place.load_gradient(layer + 1, i)
            by_state, _ = self.blocks[i].back(layer, weights, state, gradient, watched=sums, watch=seen, apart=True)
            self.place.save_gradient(layer, i, by_state)
            return seen

        for lot in self.lots(at_once(max(map(len, self.sequences)), self.graph.blocks[layer])):
            for seen in list(self.pool.map(run, lot)):  # all of them, so that the pool can add up what they find
                for (role, member), gradients in seen.gradients.items():
                    sums[role].grow(member, gradients, self.pool.map)
                for role, each in sums.items():
                    each.count(seen, role)
        weights.clear()  # which nobody needs any more, while factors are as large again
        for role in shapes:
            each = sums.pop(role)
            if each.seen:
                found(self.names[layer][role], each.result())


def at_once(longest: int, block: Block) -> int:
    """Of how many sequences of up to ``longest`` tokens the gradients by outputs of a block's matrices are held."""
    return min(max(GRADIENTS // max(gradient_bytes(longest, block), 1), 1), AT_ONCE)


def gradient_bytes(tokens: int, block: Block) -> int:
    """Bytes of the gradients by outputs of a block's matrices: of a stack, of those that a token comes to."""
    outputs = 0
    for step in block:
        used = experts_used(step.mixers())
        shapes = (tensor.shape for tensor in step.tensors() if tensor.is_matrix)
        outputs += sum(shape[-2] * (used if len(shape) == 3 else 1) for shape in shapes)
    return np.dtype(np.float32).itemsize * tokens * outputs


def logit_rows(vocabulary: int) -> int:
    """Of how many tokens of a sequence logits are there together."""
    return max(LOGITS // (np.dtype(np.float32).itemsize * vocabulary), 1)


class _Seen:
    """What the products of one sequence of ``length`` tokens come to: by matrix, the gradients by its outputs, each
    divided by s_t**.25, and by role, s_t."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.gradients: dict[tuple[str, int | None], list[Array]] = {}
        self.tokens: dict[str, Floats] = {}
        self.reached: dict[tuple[str, int | None], int] = {}

    def __call__(self, product: Product) -> None:
        key, gradient = (product.name, product.member), product.gradient
        if not np.isfinite(gradient).all():
            raise QuantizationError(
                "a gradient is not finite",
                tensor=product.name,
                remedy="check the weights of this layer and of those behind it, or leave the text out",
            )
        squares = np.mean(np.square(gradient), axis=1)
        scale = np.where(squares > 0, squares, 1)[:, None] ** -0.25
        self.gradients.setdefault(key, []).append(gradient * scale)
        self.reached[key] = self.reached.get(key, 0) + len(gradient)
        tokens = self.tokens.setdefault(product.name, np.zeros(self._length, np.float32))
        tokens[slice(None) if product.rows is None else product.rows] += squares


class _Sum:
    """The sums over sequences for the matrix, or the stack, that is called ``role``; those of a stack are on disk."""

    def __init__(self, place: States, role: str, shape: tuple[int, ...]) -> None:
        count, n = (shape[0] if len(shape) == 3 else 1), shape[-2]
        self._factors: Floats = place.scratch(role, (count, n, n)) if count > 1 else np.zeros((1, n, n), np.float32)
        self._tokens: list[Floats] = []
        self._reached = np.zeros(count, np.int64)
        self.seen = False

    def grow(self, member: int | None, gradients: Iterable[Array], each: Each) -> None:
        """Add what a sequence comes to for one matrix."""
        for gradient in gradients:
            add_gram(gradient, self._factors[member or 0], each)
        self.seen = True

    def count(self, seen: _Seen, role: str) -> None:
        """Add the tokens of a sequence."""
        for (name, member), reached in seen.reached.items():
            if name == role:
                self._reached[member or 0] += reached
        self._tokens.append(seen.tokens.get(role, np.zeros(seen._length, np.float32)))

    def result(self) -> Sensitivity:
        for factor in self._factors:
            mirror(factor)
        return Sensitivity(self._factors, np.concatenate(self._tokens), self._reached)


def sampled(logits: Array, rng: np.random.Generator) -> tuple[float, Array]:
    """-log p of labels that are drawn from the model, summed over tokens, and its gradient by the logits."""
    shares, labels = np.empty_like(logits), np.empty(len(logits), np.int64)
    uniform = rng.random((len(logits), 1))
    for start in range(0, len(logits), ROWS):
        rows = slice(start, start + ROWS)
        part = np.exp(logits[rows] - logits[rows].max(axis=-1, keepdims=True))
        part /= part.sum(axis=-1, keepdims=True)
        reach = np.cumsum(part, axis=-1, dtype=np.float64)
        labels[rows] = np.minimum((reach <= uniform[rows] * reach[:, -1:]).sum(axis=-1), part.shape[1] - 1)
        shares[rows] = part
    place = np.arange(len(labels)), labels
    loss = -float(np.log(np.maximum(shares[place], np.finfo(shares.dtype).tiny)).sum())
    shares[place] -= 1
    return loss, shares
