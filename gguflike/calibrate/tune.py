"""End-to-end tuning: a quantized model is trained to say what the float model says, on the exact grids of its blocks.

Super-scales and norm gains move, then integer scales, then codes (`trained.Moves`); what is evaluated, and what comes
out, are the numbers that the file will hold. Training stops where text of another kind says so, and the best numbers on
that text are the result: they are never worse on it than those that tuning began with.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike import reference
from gguflike.blocks import BlockFormat
from gguflike.calibrate.adam import Adam, warm_cosine
from gguflike.calibrate.blas import single_threaded
from gguflike.calibrate.distill import Teacher
from gguflike.calibrate.forms import Form, Stored, trained
from gguflike.calibrate.reached import Kept, Mark, Tuned, lowest, worse
from gguflike.calibrate.trained import Moves
from gguflike.errors import ArgumentError, QuantizationError
from gguflike.families.parts import Graph
from gguflike.frozen import frozen
from gguflike.progress import Progress
from gguflike.reference.gradient.graph import gradients

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


@frozen
class Tuning:
    """How a model is tuned.

    ``moves``: what of a matrix is trained; codes only of types with at most ``bits`` bits a weight, of others the
    scales alone. ``steps`` of ``batch`` sequences each. Rates of Adam: ``rate`` of logarithms of super-scales and
    ``integers`` in units of integer scales, both times the relative error of the matrix, ``gains`` relative to the root
    mean square of gains and biases, times the mean of these errors, ``codes`` in distances of levels: so that what is
    nearly right moves in steps as small as what there is to mend. ``warm_up``: steps over which rates rise. ``top``:
    tokens of the float model's distribution that count one by one. Every ``every`` steps the other text is evaluated,
    and training ends when it has been worse than its best ``patience`` times in a row.
    """

    moves: Moves = "scales"
    bits: float = float("inf")
    steps: int = 80
    batch: int = 8
    rate: float = 3e-3
    gains: float = 1e-3
    integers: float = 0.04
    codes: float = 0.004
    warm_up: int = 20
    top: int = 1024
    every: int = 20
    patience: int = 3
    seed: int = 0

    def of(self, fmt: BlockFormat) -> Moves:
        """What moves of a matrix of a type."""
        return "scales" if self.moves == "codes" and fmt.bits_per_weight > self.bits else self.moves


DEFAULT = Tuning()
__all__ = ["DEFAULT", "Mark", "Tuned", "Tuning", "tune"]


def tune(
    graph: Graph,
    floats: Mapping[str, Floats],
    quantized: Mapping[str, Floats],
    matrices: Mapping[str, tuple[Form, Stored]],
    values: Sequence[str],
    sequences: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    workspace: Path,
    options: Tuning = DEFAULT,
    *,
    length: int = 0,
    key: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Train the ``matrices`` and ``values`` (names of gains and biases) of a model on ``sequences`` (token ids).

    ``floats`` and ``quantized`` are all weights by GGUF name, as the float model has them and as the file decodes to.
    A matrix is the form of its blocks and their numbers, (n, k), or of a stack (count, n, k) those of all its rows.
    ``held_out`` is text of another kind. ``length`` is the context that the model runs with (0: of each sequence, its
    own). What the float model says is kept in the folder ``workspace``; with a ``key`` (which should say all that
    results depend on) so is what was reached at each mark, from which a call with the same key goes on. ``threads``:
    all CPUs, unless given; the same bits with any number. ``progress`` is told of steps.

    ArgumentError where there is nothing to train or no text, QuantizationError where a loss is not finite.
    """
    if not sequences or not held_out:
        raise ArgumentError("no text", field="held_out" if sequences else "sequences", expected="token ids")
    student = _Student(floats, quantized, matrices, values, options)
    if not student.parameters:
        raise ArgumentError("nothing that can be trained", field="matrices", got=list(matrices)[:4])
    teachers = [
        Teacher(graph, floats, texts, workspace / name, options.top, length)
        for name, texts in (("teacher", sequences), ("held-out", held_out))
    ]
    kept = None if key is None else Kept(workspace / "reached.npz", key)
    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        return _Training(graph, student, teachers[0], teachers[1], options, length, pool, progress).run(kept)


class _Student:
    """All that is trained of a model, by matrix and name of parameter."""

    def __init__(
        self,
        floats: Mapping[str, Floats],
        quantized: Mapping[str, Floats],
        matrices: Mapping[str, tuple[Form, Stored]],
        values: Sequence[str],
        options: Tuning,
    ) -> None:
        self._fixed = {name: value for name, value in quantized.items() if name not in matrices}
        self._shapes = {name: quantized[name].shape for name in matrices}
        self.values = {name: np.array(quantized[name], np.float32) for name in values}
        self._forms = {name: form for name, (form, _) in matrices.items()}
        self.trained = {
            name: trained(form, numbers, options.of(form.format), np.asarray(floats[name]).reshape(numbers.codes.shape))
            for name, (form, numbers) in matrices.items()
        }
        self.parameters: dict[Hashable, Floats] = {(name, ""): value for name, value in self.values.items()}
        self.rates: dict[Hashable, float] = {}
        errors = {name: _relative_error(np.asarray(floats[name]), quantized[name]) for name in matrices}
        for name, value in self.values.items():
            size = float(np.sqrt(np.square(value).mean())) or 1.0
            self.rates[name, ""] = options.gains * size * float(np.mean([*errors.values()] or [1.0]))
        for name, each in self.trained.items():
            rate, integers = options.rate * errors[name], options.integers * errors[name]
            of = {"d": rate, "m": rate, "scales": integers, "minima": integers}
            of["weights"] = options.codes * each.distance
            for what, parameter in each.parameters.items():
                self.parameters[name, what] = parameter
                self.rates[name, what] = of[what]

    @property
    def wanted(self) -> list[str]:
        """The weights whose gradients are needed."""
        return [*self.values, *(name for name, each in self.trained.items() if each.parameters)]

    def numbers(self) -> dict[str, Stored]:
        return {name: each.numbers() for name, each in self.trained.items()}

    def weights(self, numbers: Mapping[str, Stored]) -> dict[str, Floats]:
        """All weights, those of matrices as their blocks decode."""
        decoded = {name: form.values(numbers[name]).reshape(self._shapes[name]) for name, form in self._forms.items()}
        return {**self._fixed, **self.values, **decoded}

    def pull(self, numbers: Mapping[str, Stored], by_weights: Mapping[str, Array]) -> dict[Hashable, Floats]:
        """The gradients by all parameters."""
        found: dict[Hashable, Floats] = {(name, ""): by_weights[name] for name in self.values}
        for name, each in self.trained.items():
            if each.parameters:
                gradient = by_weights[name].reshape(numbers[name].codes.shape)
                for what, value in each.pull(numbers[name], gradient).items():
                    found[name, what] = value
        return found


def _relative_error(floats: Floats, quantized: Floats) -> float:
    """The root mean square of what ``quantized`` is off, by that of ``floats``; 1 where these are all zero."""
    size = float(np.square(floats, dtype=np.float64).mean())
    return float(np.sqrt(np.square(floats - quantized, dtype=np.float64).mean() / size)) if size > 0 else 1.0


class _Training:
    """What `tune` does, with its arguments."""

    def __init__(
        self,
        graph: Graph,
        student: _Student,
        teacher: Teacher,
        held_out: Teacher,
        options: Tuning,
        length: int,
        pool: ThreadPoolExecutor,
        progress: Progress | None,
    ) -> None:
        self._graph, self._student, self._teacher, self._held_out = graph, student, teacher, held_out
        self._options, self._length, self._pool, self._progress = options, length, pool, progress

    def run(self, kept: Kept | None) -> Tuned:
        options, student = self._options, self._student
        adam = Adam(student.parameters, student.rates)
        reached = None if kept is None else kept.read(student.parameters, adam)
        numbers = student.numbers()
        if reached is None:
            if self._progress is not None:
                self._progress(0, options.steps, "tuning, held-out text as it is")
            reached = Tuned(*self._kept(numbers), [Mark(0, None, self._evaluated(numbers))])
        best, marks = reached, reached.marks
        since: list[float] = []
        for step, batch in enumerate(self._batches()):
            least = lowest(marks)
            if worse(marks) >= options.patience:
                break
            if step < marks[-1].step:
                continue  # made before
            if self._progress is not None:
                self._progress(step, options.steps, f"tuning, held-out divergence {least:.5f}")
            loss, by_weights = self._gradients(numbers, batch)
            since.append(loss)
            adam.step(student.pull(numbers, by_weights), warm_cosine(step, options.steps, options.warm_up))
            numbers = student.numbers()
            if (step + 1) % options.every and step + 1 < options.steps:
                continue
            marks.append(Mark(step + 1, float(np.mean(since)), self._evaluated(numbers)))
            since = []
            if marks[-1].held_out < least:
                best = Tuned(*self._kept(numbers), marks)
            if kept is not None:
                kept.write(student.parameters, adam, best)
        return best

    def _batches(self) -> list[list[int]]:
        """Numbers of sequences: all of them in a drawn order, and again in another one."""
        rng, count = np.random.default_rng(self._options.seed), len(self._teacher.sequences)
        needed = self._options.steps * self._options.batch
        order = np.concatenate([rng.permutation(count) for _ in range(-(-needed // count))])[:needed]
        return [list(map(int, each)) for each in order.reshape(self._options.steps, -1)]

    def _gradients(self, numbers: Mapping[str, Stored], batch: Sequence[int]) -> tuple[float, dict[str, Array]]:
        """The mean loss of a batch, and its gradients by weights, added up in order."""
        weights, wanted = self._student.weights(numbers), self._student.wanted

        def one(number: int) -> tuple[float, dict[str, Array]]:
            ids = self._teacher.sequences[number]
            with np.errstate(all="ignore"):  # what is not finite is an error with a name
                return gradients(self._graph, weights, ids, self._teacher.loss(number), wanted, self._length)

        losses: list[float] = []
        total: dict[str, Array] = {}
        at_once = self._pool._max_workers
        for start in range(0, len(batch), at_once):
            for loss, found in self._pool.map(one, batch[start : start + at_once]):
                losses.append(loss)
                for name, each in found.items():
                    total[name] = total[name] + each if name in total else each
        if not np.isfinite(losses).all():
            remedy = "check the weights, or leave out the text, that the model overflows on"
            raise QuantizationError("the divergence that is trained on is not finite", remedy=remedy)
        return float(np.mean(losses)), {name: each / np.float32(len(batch)) for name, each in total.items()}

    def _evaluated(self, numbers: Mapping[str, Stored]) -> float:
        """The mean divergence on the other text."""
        weights = self._student.weights(numbers)

        def one(number: int) -> float:
            ids = self._held_out.sequences[number]
            with np.errstate(all="ignore"):  # what is not finite counts as worse
                logits = reference.logits(self._graph, weights, ids, self._length)
                return self._held_out.loss(number)(logits)[0] * len(ids)

        sequences = self._held_out.sequences
        return sum(self._pool.map(one, range(len(sequences)))) / sum(map(len, sequences))

    def _kept(self, numbers: dict[str, Stored]) -> tuple[dict[str, Stored], dict[str, Floats]]:
        return numbers, {name: value.copy() for name, value in self._student.values.items()}
