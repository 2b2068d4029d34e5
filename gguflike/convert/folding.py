"""Scales that are folded between tensors before these are quantized, as AWQ and SmoothQuant choose them.

The float model runs on a little text; then every tensor comes from its source by way of its scales. What the model
computes stays the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from gguflike.calibrate import scaling
from gguflike.calibrate.folds import Fold, Scaling, find, scalings
from gguflike.calibrate.texts import sequences
from gguflike.checkpoint.elsewhere import Extent
from gguflike.container import Typed, ValueType
from gguflike.convert.calibration import float_model, longest
from gguflike.convert.effort import Effort
from gguflike.convert.floats import FloatModel
from gguflike.convert.plan import ConversionPlan, PlannedTensor
from gguflike.convert.sources import Floats, Source, StackSource, check
from gguflike.errors import counted
from gguflike.progress import CALIBRATING, Progress
from gguflike.tensor import quantize

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
    """What is to be folded in a conversion, and on which text that is decided."""

    method: str
    model: FloatModel = field(repr=False, compare=False)
    sequences: tuple[tuple[int, ...], ...] = field(repr=False)
    folds: tuple[Fold, ...] = field(repr=False)
    notices: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What is to be said of it in a plan."""
        tokens = sum(map(len, self.sequences))
        return [f"{self.method}: up to {counted(len(self.folds), 'fold')} of scales, chosen on {tokens:,} tokens"]

    def metadata(self) -> dict[str, Any]:
        """What a file says of it."""
        tokens = sum(map(len, self.sequences))
        return {"gguflike.folding.method": self.method, "gguflike.folding.tokens": Typed(tokens, ValueType.UINT64)}


def folding_of(effort: Effort, metadata: Mapping[str, Any], sources: Sequence[Source], label: str) -> Folding:
    """What is folded in the model of these ``sources`` and ``metadata``; errors as of `effort.prepared`."""
    assert effort.fold is not None
    model = float_model(metadata, sources, label, "fold")
    found, notices = find(model.graph)
    texts = model.texts(effort.texts, effort.chat)
    ids = sequences(texts, model.encode, longest(model), model.begin, min(TOKENS, effort.tokens))
    return Folding(effort.fold, model, tuple(map(tuple, ids)), tuple(found), tuple(notices))


def folded(plan: ConversionPlan, threads: int | None, progress: Progress | None) -> ConversionPlan:
    """``plan`` with the scales of its folding chosen, and all tensors read by way of them; nothing is left to fold."""
    folding = plan.folding
    assert folding is not None
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    kept = {tensor.name for tensor in plan.tensors if tensor.kept}
    possible = [fold for fold in folding.folds if kept.isdisjoint(_touched(fold))]

    def encode(name: str, rows: Floats, importance: Floats) -> Floats:
        tensor = tensors[name]
        if not tensor.format.is_quantized:
            return rows
        is_weighed = plan.calibration is not None or tensor.importance is not None
        return quantize(rows, tensor.format.name, importance=importance if is_weighed else None).dequantize()

    def choose(fold: Fold, seen: scaling.Magnitudes, readers: Mapping[str, Floats]) -> Floats | None:
        if folding.method == "awq":
            return scaling.awq(fold, seen, readers, encode)
        return scaling.smooth(fold, seen, readers)

    def tell(done: int, total: int, what: str) -> None:
        if progress is not None:
            progress(done, total, f"{CALIBRATING}{folding.method}, {what}")

    with tempfile.TemporaryDirectory(prefix="gguflike-") as place:
        found = scaling.chosen(
            folding.model.graph,
            possible,
            choose,
            folding.model.read,
            folding.sequences,
            Path(place),
            rows=folding.model.rows,
            length=max(map(len, folding.sequences)),
            threads=threads,
            progress=tell,
        )
    said = [f"{folding.method}: scales of {len(found)} of {counted(len(folding.folds), 'fold')} were moved"]
    if len(possible) < len(folding.folds):
        left = counted(len(folding.folds) - len(possible), "fold")
        said.append(f"no scales for {left}, some of whose tensors are kept bit for bit")
    return _with(plan, scalings(found), said)


def _touched(fold: Fold) -> Iterable[str]:
    return (*(rows.name for rows in fold.divided), *fold.multiplied)


def _with(plan: ConversionPlan, by_name: Mapping[str, Scaling], said: Sequence[str]) -> ConversionPlan:
    """The plan whose tensors are scaled."""
    tensors = tuple(_scaled(tensor, by_name.get(tensor.name)) for tensor in plan.tensors)
    calibration = plan.calibration
    if calibration is not None:
        model = FloatModel(calibration.model.metadata, (tensor.source for tensor in tensors), plan.source)
        calibration = replace(calibration, model=model)
    notices = (*plan.notices, *said)
    return replace(plan, tensors=tensors, calibration=calibration, folding=None, notices=notices)


def _scaled(tensor: PlannedTensor, by: Scaling | None) -> PlannedTensor:
    if by is None:
        return tensor
    importance = None if tensor.importance is None else by.of_importance(tensor.importance)
    return replace(tensor, source=FoldedSource(tensor.source, by, tensor.name), importance=importance)
