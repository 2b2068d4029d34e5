"""Passes of all sequences through one step of a model: up to a group of matrices, whose inputs are summed up, or to its
end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gguflike.calibrate.sums import Collecting, Collector, Each, Floats
from gguflike.calibrate.walk import Group, Lazy, Seen, Stage, Standing, closed, groups, inputs
from gguflike.calibrate.workspace import FLOAT, QUANTIZED, Contexts, Workspace
from gguflike.errors import QuantizationError
from gguflike.frozen import frozen
from gguflike.reference.formulas import Array
from gguflike.tensor import QuantizedTensor

SLAB = 2048
"""Tokens whose inputs are summed up at once. Sums depend on it in their last bits."""


Counting = Callable[[tuple[str, ...]], "Floats | None"]
"""The GGUF names of the matrices of a group -> how much each token counts in what they multiply, all sequences one
behind the other."""


@frozen
class Task:
    """A group whose inputs are summed up; of stacks, for the matrices from ``low`` to ``high``."""

    group: Group
    low: int = 0
    high: int = 1


def divided(group: Group, matrices: int, size: int, limit: int) -> Iterator[Task]:
    """A group in tasks whose sums take at most ``limit`` bytes (at least one matrix's), where one takes ``size``."""
    at_once = max(limit // max(size, 1), 1)
    return (Task(group, low, min(low + at_once, matrices)) for low in range(0, matrices, at_once))


class Step:
    """One step of a model, and all sequences at it.

    ``over`` holds, for each stream, what stands in for the ``floats`` of the layer: tables, quantized matrices.
    ``tokens`` are the numbers of the tokens of each sequence among the rows of tables.
    """

    def __init__(
        self,
        stage: Stage,
        floats: Lazy,
        over: Mapping[str, dict[str, Array | QuantizedTensor]],
        tokens: Sequence[Array],
        place: Workspace,
        contexts: Contexts,
        each: Each,
    ) -> None:
        self.stage, self.floats, self.over, self.tokens = stage, floats, over, tokens
        self.place, self.contexts, self.each = place, contexts, each
        self._at = stage.layer - stage.last  # the output matrix reads what the last layer gave
        self._tell: Callable[[float], None] = lambda _: None
        self._passed, self._all = 0, 1
        self._closing: tuple[str, Array] | None = None  # a matrix with which the step ends, and what it multiplies

    def tell_of(self, passes: int, tell: Callable[[float], None]) -> None:
        """Tell of the share that is done of so many passes."""
        self._tell, self._passed, self._all = tell, 0, passes * sum(map(len, self.tokens))

    def groups(self) -> list[Group]:
        """The groups of matrices, in the order in which they multiply."""
        context = self.contexts.load(FLOAT, 0, self.stage.layer)
        return groups(self.stage, self._weights(FLOAT, 0), self._states(FLOAT, 0), context)

    def sum_up(
        self,
        wanted: Sequence[Task],
        collecting: Collecting,
        cross: bool,
        to_end: bool,
        counting: Counting | None = None,
    ) -> list[list[Any]]:
        """Of each task the results for its matrices. ``to_end``: the float model runs the step to its end, and the
        states after it are written. ``counting``: how much tokens count, as of `stream`."""
        sums = [
            [collecting.one(task.group.columns, cross and not task.group.stacked) for _ in range(task.low, task.high)]
            for task in wanted
        ]
        firsts = {task.group.names[0]: task.group.times for task in wanted}
        if QUANTIZED in self.place.streams and to_end and wanted[0].group.closes:
            self._closing = wanted[0].group.names[0], self.place.inputs(wanted[0].group.columns)
        for slab in self._slabs():
            seen = {
                stream: list(self.each(partial(self._run, stream, firsts, to_end and stream == FLOAT), slab))
                for stream in self.place.streams
            }
            for task, collectors in zip(wanted, sums, strict=True):
                name = task.group.names[0]
                names = tuple(self.floats.names[role] for role in task.group.names)
                counted = None if counting is None else counting(names)
                shares = None if counted is None else [counted[self.place.span(i)] for i in slab]
                told = {stream: [one.pop(name) for one in all_] for stream, all_ in seen.items()}
                self._add(task, collectors, told, shares)
            self._pass(slab)
        return [[collector.result() for collector in collectors] for collectors in sums]

    def run_to_end(self, stream: str) -> None:
        """Write the states of a stream after the step."""
        run = partial(self._run, stream, {}, True) if self._closing is None or stream == FLOAT else self._close
        for slab in self._slabs():
            for _ in self.each(run, slab):
                pass
            self._pass(slab)

    def _close(self, sequence: int) -> None:
        """Write the states of the quantized stream after a step of which all but the last product is computed."""
        assert self._closing is not None
        assert self.stage.branch is not None
        name, kept = self._closing
        weights, x = self._weights(QUANTIZED, sequence), self._states(QUANTIZED, sequence)
        context = self.contexts.load(QUANTIZED, sequence, self.stage.layer)
        inputs = np.array(kept[self.place.span(sequence)])
        with np.errstate(all="ignore"):
            after = closed(self.stage.branch, name, inputs, weights, x, context)
        self.place.states(QUANTIZED, self._at, sequence)[:] = after

    def _pass(self, slab: Sequence[int]) -> None:
        self.place.release()
        self._passed += sum(len(self.tokens[i]) for i in slab)
        self._tell(self._passed / self._all)

    def _run(self, stream: str, wanted: Mapping[str, int], to_end: bool, sequence: int) -> dict[str, Seen]:
        """What a sequence's inputs of the matrices are that are ``wanted`` as of `inputs`."""
        states, context = self._states(stream, sequence), self.contexts.load(stream, sequence, self.stage.layer)
        with np.errstate(all="ignore"):  # what is not finite is an error with a name
            seen, after = inputs(self.stage, wanted, self._weights(stream, sequence), states, context, to_end)
        if self._closing is not None and stream == QUANTIZED and wanted:
            name, kept = self._closing
            [(kept[self.place.span(sequence)], _)] = seen[name]
            self.contexts.save(stream, sequence, context, self.stage.layer)
        if after is not None:
            self.place.states(stream, self._at, sequence)[:] = after
            self.contexts.save(stream, sequence, context, self.stage.layer)
        return seen

    def _add(
        self,
        task: Task,
        collectors: Sequence[Collector],
        seen: Mapping[str, list[Seen]],
        shares: Sequence[Floats] | None = None,
    ) -> None:
        """Add the inputs of a slab, which stand by stream and sequence and are used up, to the sums of a task; each
        token's as often as ``shares`` say, by sequence."""
        roots = None if shares is None else _by_row(np.sqrt(np.concatenate(shares)), shares, seen[FLOAT])
        found = {}
        for stream, all_ in seen.items():
            found[stream] = _joined([each for one in all_ for each in one])
            all_.clear()  # which is as much again
        for stream, (x, _) in found.items():
            if not np.isfinite(x).all():
                names = [self.floats.names[name] for name in task.group.names]
                raise QuantizationError(
                    "what the matrix multiplies is not finite",
                    tensor=names[0],
                    got=f"NaN or infinity in the {stream} model",
                    remedy="check the weights of this layer and of those before it, or leave the text out",
                )
        floats = found[FLOAT][0] if len(found) > 1 else None
        x, which = found[self.place.streams[-1]]
        if roots is not None:
            x, floats = x * roots, None if floats is None else floats * roots
        if which is None:
            collectors[0].add(x, floats, self.each)
            return

        def add(number: int) -> None:
            collectors[number - task.low].add(x[which == number], None)

        for _ in self.each(add, range(task.low, task.high)):
            pass

    def _weights(self, stream: str, sequence: int) -> Standing:
        return Standing({"ids": self.tokens[sequence], **self.over[stream]}, self.floats)

    def _states(self, stream: str, sequence: int) -> Floats:
        return np.array(self.place.states(stream, self._at, sequence))

    def _slabs(self) -> Iterator[list[int]]:
        """Sequences in their order, in lots of about `SLAB` tokens."""
        lot: list[int] = []
        for i in range(len(self.tokens)):
            lot.append(i)
            if sum(len(self.tokens[each]) for each in lot) >= SLAB or i + 1 == len(self.tokens):
                yield lot
                lot = []


def _by_row(values: Floats, shares: Sequence[Floats], seen: Sequence[Seen]) -> Floats:
    """Values of the tokens of sequences for each row that these multiply, (rows, 1), as `_joined` arranges them: a
    sequence has several products where a token's experts come one by one."""
    ends = np.cumsum([len(each) for each in shares])
    parts = []
    for own, products in zip(np.split(values, ends[:-1]), seen, strict=True):
        for x, _ in products:
            parts.append(np.repeat(own, int(np.prod(x.shape[:-1])) // len(own)))
    return np.concatenate(parts)[:, None]


def _joined(seen: Seen) -> tuple[Floats, Array | None]:
    """All that a matrix multiplied, one below the other, and which of a stack's matrices did."""
    x = np.concatenate([np.reshape(each, (-1, each.shape[-1])) for each, _ in seen])
    which = [each for _, each in seen if each is not None]
    return x, np.concatenate(which) if which else None
