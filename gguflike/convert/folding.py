"""Scales that are folded between tensors before these are quantized: what is asked for, and tensors that are scaled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from gguflike.blocks import BlockFormat
from gguflike.calibrate import needs
from gguflike.calibrate.folds import Fold, Scaling, find
from gguflike.calibrate.scaling import MagnitudeSums
from gguflike.calibrate.stream import SUMS
from gguflike.calibrate.texts import Text, sequences
from gguflike.checkpoint.elsewhere import Extent
from gguflike.container import Typed, ValueType
from gguflike.convert import workload
from gguflike.convert.calibration import float_model, longest
from gguflike.convert.effort import Effort
from gguflike.convert.floats import FloatModel
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.sources import Floats, Source, StackSource, check
from gguflike.convert.stages import FOLDS, Stage, stage_of
from gguflike.errors import UnsupportedError, counted
from gguflike.kernels.engine.host import thread_count

TOKENS = 8192
"""Of text that scales are chosen on: magnitudes of channels are known after few."""


@dataclass(frozen=True)
class FoldedSource:
    """A tensor that is scaled as it is read."""

    source: Source
    scaling: Scaling
    name: str
    stored: str = "F32"  # what holds it: no longer the type of its source

    @property
    def origin(self) -> str:
        return self.source.origin

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def group(self) -> int:
        return self.source.group

    @property
    def is_divisible(self) -> bool:
        return bool(getattr(self.source, "is_divisible", False))

    def extents(self) -> list[Extent]:
        """Where what is read stands, in the order of reading."""
        return list(getattr(self.source, "extents", list)())

    def read(self, start: int, stop: int, limit: float) -> Floats:
        return self._scaled(self.source.read(start, stop, limit), (start,), start, limit)

    def read_rows(self, index: int, low: int, high: int, limit: float) -> Floats:
        rows = cast("StackSource", self.source).read_rows(index, low, high, limit)
        return self._scaled(rows, (index, low), 0, limit)  # of a stack, no rows are scaled

    def _scaled(self, values: Floats, at: tuple[int, ...], start: int, limit: float) -> Floats:
        result = self.scaling.apply(np.asarray(values, np.float32), start)
        check(result, self.origin, at, limit)
        return result


@dataclass(frozen=True)
class Folding:
    """What is to be folded in a conversion, and on which ``texts`` that is decided. ``speed``: operations a second."""

    method: str
    model: FloatModel = field(repr=False, compare=False)
    sequences: tuple[tuple[int, ...], ...] = field(repr=False)
    folds: tuple[Fold, ...] = field(repr=False)
    notices: tuple[str, ...] = ()
    speed: float | None = field(default=None, compare=False)
    texts: tuple[Text, ...] = field(default=(), repr=False)

    def possible(self, tensors: Iterable[PlannedTensor]) -> list[Fold]:
        """The folds that touch nothing which is kept bit for bit."""
        kept = {tensor.name for tensor in tensors if tensor.kept}
        return [fold for fold in self.folds if kept.isdisjoint(_touched(fold))]

    def check(self, tensors: Sequence[PlannedTensor], recipe: str) -> None:
        """UnsupportedError where it is known that no scales will be moved."""
        folds = self.possible(tensors)
        encoded = {tensor.name for tensor in tensors if tensor.format.is_quantized}
        what = ""
        if not self.folds:
            what = "the model has no place where they could be"
        elif not folds:
            what = "a tensor of each fold is kept bit for bit"
        elif self.method == "awq" and not any(encoded & set(fold.multiplied) for fold in folds):
            what = "no matrix is encoded in blocks, which is what they are moved for"
        if what:
            raise UnsupportedError(
                f"no scales to move: {what}",
                field="fold",
                got="; ".join([recipe, *self.notices]),
                remedy="leave out `fold`",
            )

    def stage(self, formats: Mapping[str, BlockFormat]) -> Stage:
        """The stage in which scales are chosen, for tensors of these types by name."""
        graph, lengths = self.model.graph, tuple(map(len, self.sequences))
        count = workload.running(workload.Run(graph, lengths))
        if self.method == "awq":
            shapes = {place.name: place.tensor.shape for place in graph.tensors()}
            readers = {name for fold in self.folds for name in fold.multiplied if name in formats}
            count += workload.trying((shapes[name], formats[name]) for name in readers)
        threads = thread_count(None)
        memory = needs.memory(graph, max(lengths), MagnitudeSums(), False, False, threads, SUMS)
        return stage_of(FOLDS, count, self.speed, needs.BASE + memory)

    def lines(self) -> list[str]:
        """What is to be said of it in a plan."""
        tokens = counted(sum(map(len, self.sequences)), "token")
        return [f"{self.method}: up to {counted(len(self.folds), 'fold')} of scales, chosen on {tokens}"]

    def metadata(self) -> dict[str, Any]:
        """What a file says of it."""
        tokens = sum(map(len, self.sequences))
        return {"gguflike.folding.method": self.method, "gguflike.folding.tokens": Typed(tokens, ValueType.UINT64)}


def _touched(fold: Fold) -> Iterable[str]:
    return (*(rows.name for rows in fold.divided), *fold.multiplied)


def folding_of(effort: Effort, metadata: Mapping[str, Any], sources: Sequence[Source], label: str) -> Folding:
    """What is folded in the model of these ``sources`` and ``metadata``; errors as of `planning.prepared`."""
    assert effort.fold is not None
    model = float_model(metadata, sources, label, "fold")
    found, notices = find(model.graph)
    texts = model.texts(effort.texts, effort.chat)
    ids = sequences(texts, model.encode, longest(model), model.begin, min(TOKENS, effort.tokens))
    sequenced = tuple(map(tuple, ids))
    return Folding(effort.fold, model, sequenced, tuple(found), tuple(notices), workload.speed(), tuple(texts))
