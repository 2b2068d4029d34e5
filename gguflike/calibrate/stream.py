"""A model layer by layer over calibration sequences, float and quantized side by side, in bounded memory.

At any time there are in memory: the float weights of one step of a layer (attention, a feed-forward) and what they
became, the sums of one group of matrices, and what a few sequences compute. Hidden states are on disk.

Matrices are quantized in the order in which they multiply, group by group: a group is what multiplies the same input,
found by watching. Before a group, all sequences run up to it, in the float model and in the quantized one, which at
that point has quantized weights everywhere before; after the last group the quantized model runs the step to its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.calibrate.blas import single_threaded
from gguflike.calibrate.needs import disk
from gguflike.calibrate.passes import Counting, Step, Task, divided
from gguflike.calibrate.sums import Collecting, Each, Floats, Hessians
from gguflike.calibrate.walk import Lazy, Stage, Standing, stages
from gguflike.calibrate.workspace import FLOAT, QUANTIZED, Contexts, Workspace
from gguflike.errors import ArgumentError
from gguflike.families.parts import Graph
from gguflike.kernels.engine.host import thread_count
from gguflike.progress import Progress
from gguflike.reference.formulas import Array
from gguflike.reference.forward import embed
from gguflike.tensor import QuantizedTensor

SUMS = 2**30
"""Bytes of sums that are made in one pass of the sequences, as far as they can be divided."""

Read = Callable[[str], Floats]
Quantize = Callable[[str, Floats, Any], Floats | QuantizedTensor]
Found = Callable[[tuple[str, ...], Any], None]


def stream(
    graph: Graph,
    read: Read,
    sequences: Sequence[Sequence[int]],
    quantize: Quantize | None,
    workspace: Path,
    *,
    found: Found | None = None,
    collecting: Collecting | None = None,
    counting: Counting | None = None,
    cross: bool = True,
    rows: Callable[[str, Array], Floats] | None = None,
    length: int = 0,
    key: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Run ``sequences`` (token ids) through a model, and have each of its matrices quantized when its inputs are known.

    ``read(name)`` gives a tensor by its GGUF name, float32. ``quantize(name, weights, statistics)`` gives what the
    matrix is after quantization: values, or blocks, with which inputs are then multiplied as a reader of the file does
    (of the output matrix, what it gives is not used). Statistics are a `Statistics`, of a
    stack of matrices (experts) a sequence with one for each, read from disk when asked for. Tables of which rows are
    looked up by token come first, as the rows that occur, with None. A matrix that stays as it is is given back. None
    instead of ``quantize``: there is only the float model.

    ``found(names, statistics)`` is told what each group of matrices multiplies, before they are quantized.
    ``counting(names)`` says how much each token counts in what a group of matrices multiplies, float32 (tokens of all
    sequences,), such as `fisher.token_weights`; None: all alike.
    ``collecting`` says what is summed up (default: `sums.Hessians`), ``cross`` whether products with the inputs of the
    float model are. ``rows(name, numbers)`` reads rows of a table, where to read it whole would take too much memory.
    ``length`` is the context that the model runs with (0: of each sequence, its own). ``threads``: all CPUs, unless
    given; results are the same bits with any number. ``progress`` counts tokens that have passed a step of the model.

    Hidden states are kept in the folder ``workspace``. A walk that was interrupted goes on with the layer it was in,
    where ``key`` (which should say all that results depend on) and the sequences are the same; the caller keeps what
    layers before it came to, for which nothing is called again.

    QuantizationError where inputs of a matrix are not finite, OutputError where the disk has no room, ArgumentError
    where sequences are no text that the model can read.
    """
    _check(graph, sequences)
    streams = (FLOAT,) if quantize is None else (FLOAT, QUANTIZED)
    lengths = [len(each) for each in sequences]
    summed = Hessians() if collecting is None else collecting
    both = quantize is not None
    needed = disk(graph, sum(lengths), summed, both)
    called = _digest(graph, sequences, key, streams)
    place = Workspace(workspace, streams, lengths, graph.embedding.n_embd, called, needed)
    with single_threaded(), ThreadPoolExecutor(thread_count(threads)) as pool:
        walk = _Walk(
            graph,
            read,
            (lambda name, numbers: read(name)[numbers]) if rows is None else rows,
            quantize,
            found,
            summed,
            counting,
            cross and both,
            place,
            Contexts(place, graph, lengths, length),
            [np.asarray(each, np.int64) for each in sequences],
            pool.map,
        )
        walk.run(progress)
    place.close()


class _Walk:
    """What `stream` does, with its arguments."""

    def __init__(
        self,
        graph: Graph,
        read: Read,
        rows: Callable[[str, Array], Floats],
        quantize: Quantize | None,
        found: Found | None,
        collecting: Collecting,
        counting: Counting | None,
        cross: bool,
        place: Workspace,
        contexts: Contexts,
        sequences: Sequence[Array],
        each: Each,
    ) -> None:
        self.graph, self.read, self.rows, self.quantize, self.found = graph, read, rows, quantize, found
        self.collecting, self.cross, self.place, self.contexts, self.each = collecting, cross, place, contexts, each
        self.counting = counting
        self.vocabulary = np.unique(np.concatenate(sequences))
        self.tokens = [np.searchsorted(self.vocabulary, each) for each in sequences]  # among the rows that occur
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.names: dict[int | None, dict[str, str]] = {None: {}}  # of each layer, by role
        for name, layer, tensor in graph.tensors():
            if tensor.used:
                self.shapes[name] = tensor.shape
                self.names.setdefault(layer, {})[tensor.role] = name

    def run(self, progress: Progress | None) -> None:
        layers, done = stages(self.graph), self.place.done
        tables = {} if done else self._embed()
        tokens, before = sum(map(len, self.tokens)), sum(map(len, layers[:done]))
        total = sum(map(len, layers)) * tokens
        for number, steps in enumerate(layers[done:], done):
            if number and not any(stage.last for stage in steps):
                self.place.begin(number - 1)
            for stage in steps:
                start, what = before * tokens, _description(stage, len(self.graph.blocks))

                def tell(share: float, start: int = start, what: str = what) -> None:
                    if progress is not None:
                        progress(start + int(share * tokens), total, what)

                tell(0)
                self._take(stage, {stream: dict(tables.get(stream, {})) for stream in self.place.streams}, tell)
                before += 1
            tables = {}
            self.place.finish(number + 1)
        if progress is not None:
            progress(total, total, "done")

    def _embed(self) -> dict[str, dict[str, Any]]:
        """Write the states before all layers. Gives the tables of each stream, of most only the rows that occur."""
        made: dict[str, dict[str, Any]] = {stream: {} for stream in self.place.streams}
        for part in (self.graph.embedding, *self.graph.inputs):
            for tensor in part.tensors():
                if tensor.used and tensor.form == "rows":
                    by_token = tensor.shape[0] == self.graph.embedding.n_vocab
                    table = self.rows(tensor.role, self.vocabulary) if by_token else self.read(tensor.role)
                    made[FLOAT][tensor.role] = table
                    if self.quantize is not None:
                        made[QUANTIZED][tensor.role] = self.quantize(tensor.role, table, None)
        others = Lazy(self.names[None], self.read)
        for stream, tables in made.items():
            for i, tokens in enumerate(self.tokens):
                self.place.states(stream, -1, i)[:] = embed(self.graph, Standing(tables, others), tokens.tolist())
        return made

    def _take(self, stage: Stage, tables: dict[str, dict[str, Any]], tell: Callable[[float], None]) -> None:
        """Have all matrices of a step quantized, and write the states after it. ``tell`` is told the share done."""
        floats = Lazy({**self.names[None], **self.names.get(stage.layer, {})}, self.read)
        step = Step(stage, floats, tables, self.tokens, self.place, self.contexts, self.each)
        passes, stacks = self._passes(step), dict[str, Any]()
        ends = self.quantize is not None and not stage.last  # in a pass of its own
        step.tell_of(max(len(passes), 1) + ends, tell)
        for number, tasks in enumerate(passes):
            to_end = number + 1 == len(passes) and not stage.last
            sums = step.sum_up(tasks, self.collecting, self.cross, to_end, self.counting)
            for task, results in zip(tasks, sums, strict=True):
                self._hand_over(step, task, results, stacks)
        if not passes:
            step.run_to_end(FLOAT)
        if ends:
            step.run_to_end(QUANTIZED)

    def _passes(self, step: Step) -> list[list[Task]]:
        """What is summed up in each pass of the sequences: tasks of one group, or, where nothing is quantized, of as
        many as there is memory for."""
        passes: list[list[Task]] = []
        filled = 0
        for group in step.groups():
            matrices = self.shapes[step.floats.names[group.names[0]]][0] if group.stacked else 1
            size = self.collecting.size(group.columns, self.cross and not group.stacked)
            for task in divided(group, matrices, size, SUMS):
                filled += size * (task.high - task.low)
                if not passes or self.quantize is not None or filled > SUMS:
                    passes.append([])
                    filled = size * (task.high - task.low)
                passes[-1].append(task)
        return passes

    def _hand_over(self, step: Step, task: Task, results: list[Any], stacks: dict[str, Any]) -> None:
        """Tell what a group multiplies, and have its matrices quantized; of stacks, when all results are there."""
        group, statistics = task.group, results[0]
        names = [step.floats.names[role] for role in group.names]
        if group.stacked:
            count, path = self.shapes[names[0]][0], self.place.folder / f"stack-{group.names[0]}.f32"
            if task.low == 0:
                stacks[names[0]] = self.collecting.stack(path, count, group.columns)
            statistics = stacks[names[0]]
            for each in results:
                statistics.append(each)
            if task.high < count:
                return
        if self.found is not None:
            self.found(tuple(names), statistics)
        if self.quantize is not None:
            if group.closes:  # nothing else of the step is needed any more
                step.floats.clear()
                step.over[QUANTIZED].clear()
            for role, name in zip(group.names, names, strict=True):
                step.over[QUANTIZED][role] = self.quantize(name, step.floats[role], statistics)


def _description(stage: Stage, layers: int) -> str:
    if stage.last:
        return "output matrix"
    return f"layer {stage.layer + 1} of {layers}" if stage.layer >= 0 else "embeddings"


def _check(graph: Graph, sequences: Sequence[Sequence[int]]) -> None:
    """Raise ArgumentError unless there are sequences, of tokens that the model has, as long as it can read."""
    lengths = [len(each) for each in sequences]
    if not lengths or 0 in lengths:
        raise ArgumentError("no text to calibrate on", field="sequences", expected="token ids", got=lengths[:8])
    part = graph.embedding
    wrong = [token for each in sequences for token in each if not 0 <= token < part.n_vocab]
    if wrong:
        raise ArgumentError("no such token", field="sequences", expected=f"0 to {part.n_vocab - 1}", got=wrong[0])
    if part.positions and max(lengths) > part.positions:
        raise ArgumentError(
            "sequences are longer than the model can read",
            field="sequences",
            expected=f"at most {part.positions} tokens",
            got=max(lengths),
        )


def _digest(graph: Graph, sequences: Sequence[Sequence[int]], key: str, streams: Sequence[str]) -> str:
    return hashlib.sha256(repr((graph, [list(each) for each in sequences], key, streams)).encode()).hexdigest()
