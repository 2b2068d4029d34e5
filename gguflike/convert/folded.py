"""Scales that are folded between tensors before these are quantized, as AWQ and SmoothQuant choose them.

The float model runs on a little text; then every tensor comes from its source by way of its scales. What the model
computes stays the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gguflike.calibrate import scaling
from gguflike.calibrate.folds import Fold, Scaling, scalings
from gguflike.convert.floats import FloatModel
from gguflike.convert.folding import FoldedSource
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.sources import Floats
from gguflike.errors import counted
from gguflike.progress import Progress, calibrating
from gguflike.tensor import quantize


def folded(plan: ConversionPlan, threads: int | None, progress: Progress | None) -> ConversionPlan:
    """``plan`` with the scales of its folding chosen, and all tensors read by way of them; nothing is left to fold."""
    folding = plan.folding
    assert folding is not None
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    possible = folding.possible(plan.tensors)

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
            progress=calibrating(progress, f"{folding.method}, "),
        )
    said = [f"{folding.method}: scales of {len(found)} of {counted(len(folding.folds), 'fold')} were moved"]
    if len(possible) < len(folding.folds):
        left = counted(len(folding.folds) - len(possible), "fold")
        said.append(f"no scales for {left}, some of whose tensors are kept bit for bit")
    return _with(plan, scalings(found), said)


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
