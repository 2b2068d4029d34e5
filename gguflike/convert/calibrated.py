"""Encoding matrices for the inputs that they will have: the model runs on text while its file is written.

`calibrate.stream` walks through the model with two streams of hidden states, that of the float model and that of the
model in the file. When it knows what a matrix will multiply there, the matrix is rounded for that, its bytes are
written, and the walk goes on with what a reader of the file will decode. All else is written before, as without
calibration. Memory holds one layer and its statistics; hidden states are in a folder beside the target. With Hessians
that are kept of another run (`convert.given_hessians`) there is no walk: one matrix is rounded after the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gguflike.calibrate import files
from gguflike.calibrate.objective import Prepared
from gguflike.calibrate.rounding import ROUNDED, round_matrix
from gguflike.calibrate.stream import stream
from gguflike.container import Writer
from gguflike.convert import pipeline, tuned
from gguflike.convert.calibration import Calibration
from gguflike.convert.encode import Job
from gguflike.convert.given_hessians import GivenHessians
from gguflike.convert.plan import ConversionPlan
from gguflike.convert.planned import PlannedTensor
from gguflike.convert.resume import made_of
from gguflike.convert.slabs import Slab
from gguflike.convert.sources import Floats, check
from gguflike.errors import counted
from gguflike.kernels.table import KERNELS
from gguflike.progress import Progress, calibrating
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    from gguflike.calibrate.sensitivities import Sensitivities
    from gguflike.calibrate.statistics import Statistics

Bytes = npt.NDArray[np.uint8]


def run(
    plan: ConversionPlan,
    writer: Writer,
    threads: int | None,
    advance: Callable[[int, str], None],
    progress: Progress | None,
) -> ConversionPlan:
    """Write every tensor of ``plan`` but the header; the plan, with a notice of matrices that the text never reached,
    and what tuning has come to, if there is any.

    ``advance`` is told of bytes of tensors that are not calibrated; ``progress`` of how far the calibration is.
    """
    assert plan.calibration is not None
    if isinstance(plan.calibration, GivenHessians):
        plan.calibration.check()
    _check_room(plan, writer)
    done = tuned.finished(writer.workspace) if plan.tuning is not None else {}
    for name, data in done.items():
        writer.write(name, data)
    others = {tensor.name for tensor in plan.tensors} - {tensor.name for tensor in plan.calibrated} - done.keys()
    _encode([tensor for tensor in plan.tensors if tensor.name in others], writer, threads, advance)
    rounder = Rounder(plan, writer, threads, done)
    if isinstance(plan.calibration, GivenHessians):
        rounder.round_given(plan.calibration, progress)
        return plan
    states = writer.workspace / "states"
    skips = rounder.resumed and states.exists()
    if not rounder.resumed:
        shutil.rmtree(states, ignore_errors=True)
    if rounder.left and plan.calibration.effort.is_loss_aware:
        folder = Path(plan.outputs) if plan.outputs else writer.workspace / "outputs"
        rounder.sensitivities = plan.calibration.sensitivities(rounder.read, folder, threads, progress)
        rounder.round_table()
    if rounder.left:
        _walk(plan, rounder, states, threads, progress)
    if rounder.left and skips:  # what was lost since its layer was done: all is walked through again
        shutil.rmtree(states)
        _walk(plan, rounder, states, threads, progress)
    missed = [tensor for tensor in plan.tensors if tensor.name in rounder.left]
    _encode(missed, writer, threads, advance)
    if missed:
        said = f"not calibrated, as no token reached them: {counted(len(missed), 'tensor')}, {missed[0].name} first"
        plan = replace(plan, notices=(*plan.notices, said))
    return plan if plan.tuning is None else tuned.run(plan, writer, threads, progress)


def _check_room(plan: ConversionPlan, writer: Writer) -> None:
    """OutputError where the disk has no room for the file and for what is kept beside it until the end."""
    assert plan.calibration is not None
    there = [*writer.workspace.rglob("*"), *(Path(plan.outputs).rglob("*") if plan.outputs else ())]
    files.check_rooms({writer.workspace.parent: writer.missing + max(plan.calibration.disk - files.taken(there), 0)})


def _encode(
    tensors: Iterable[PlannedTensor], writer: Writer, threads: int | None, advance: Callable[[int, str], None]
) -> None:
    """Write tensors as without calibration, but those that are written already."""
    jobs = ((each.name, each.nbytes if writer.restore(each.name) else _job(each, threads)) for each in tensors)
    pipeline.run(jobs, writer, advance)


def _job(tensor: PlannedTensor, threads: int | None) -> Job:
    return Job(tensor.source, tensor.format.name, threads=threads)


def _walk(
    plan: ConversionPlan, rounder: Rounder, workspace: Path, threads: int | None, progress: Progress | None
) -> None:
    assert isinstance(plan.calibration, Calibration)
    stream(
        plan.calibration.graph,
        rounder.read,
        plan.calibration.sequences,
        rounder.quantize,
        workspace,
        rows=plan.calibration.model.rows,
        length=plan.calibration.sequence,
        counting=None if rounder.sensitivities is None else rounder.sensitivities.counting(),
        key=made_of(plan, "search"),
        threads=threads,
        progress=calibrating(progress),
    )


class Rounder:
    """Rounds the tensors of a plan as a walk through its model comes by them, and writes them.

    ``left`` are the names of those that are not written yet, beside those that are ``done``; ``resumed``: whether some
    are, by a run that was cut off. ``sensitivities``: how much their outputs matter, where that is known.
    """

    sensitivities: Sensitivities | None = None

    def __init__(self, plan: ConversionPlan, writer: Writer, threads: int | None, done: Container[str] = ()) -> None:
        assert plan.calibration is not None
        self._tensors = {tensor.name: tensor for tensor in plan.tensors}
        self._model = plan.calibration.model
        self._tables = {place.name for place in plan.calibration.graph.tensors() if place.tensor.form == "rows"}
        self._table = plan.calibration.table
        self._sequences = plan.calibration.sequences if isinstance(plan.calibration, Calibration) else ()
        self._writer, self._threads = writer, threads
        self._options, self._prepared = plan.calibration.rounding, Prepared()
        self._calibrated = {tensor.name for tensor in plan.calibrated}
        self.left = {name for name in self._calibrated if name not in done and not writer.restore(name)}
        self.resumed = len(self.left) < len(self._calibrated)

    def read(self, name: str) -> Floats:
        """A tensor of the float model. QuantizationError for values that its type cannot store."""
        tensor, values = self._tensors[name], self._model.read(name)
        check(values, tensor.source.origin, 0, tensor.format.limit)
        return values

    def round_table(self) -> None:
        """Write the embedding, if it is rounded for what its rows matter: part by part, as each row is by itself."""
        name = self._table
        if name is None or name not in self.left:
            return
        assert self.sensitivities is not None
        tensor, table = self._tensors[name], self.sensitivities.table(name)
        assert table is not None
        statistics = table.statistics
        for start, weights in self._model.parts(name, ROUNDED):
            check(weights, tensor.source.origin, start, tensor.format.limit)
            data = round_matrix(weights, tensor.format, statistics, self._options, self._threads, self._prepared)
            self._writer.write_part(name, start * data.shape[1], data.reshape(-1))
        self.left.discard(name)

    def round_given(self, hessians: GivenHessians, progress: Progress | None) -> None:
        """Write every matrix, rounded with the Hessian that is kept of it: one group after the other."""
        tell, sizes = calibrating(progress), {name: self._tensors[name].weights for name in self._calibrated}
        done, total = sum(size for name, size in sizes.items() if name not in self.left), sum(sizes.values())
        for group in hessians.store.groups:
            names = [name for name in group.names if name in self.left]
            statistics = hessians.store[names[0]] if names else None
            for name in names:
                tell(done, total, name)
                weights = self.read(name)
                hessians.check_matrix(name, weights)
                self._writer.write(name, self._rounded(self._tensors[name], weights, statistics).reshape(-1))
                self.left.discard(name)
                done += sizes[name]
        tell(done, total, "done")

    def quantize(self, name: str, weights: Floats, statistics: Any) -> Floats | QuantizedTensor:
        """What readers of the file have for a matrix with its `Statistics`, or for a stack of them with a sequence of
        those, or for rows of a table, with None. A matrix that is calibrated is rounded and written first."""
        tensor = self._tensors[name]
        if name == self._table and name in self._calibrated:
            return weights if statistics is not None else self._looked_up(tensor, weights)
        if name not in self._calibrated:
            return weights if name in self._tables and statistics is not None else self._plain(tensor, weights)
        if name in self.left:
            self._writer.write(name, self._rounded(tensor, weights, statistics).reshape(-1))
            self.left.discard(name)
        if name == "output.weight":  # with which the walk ends; decoded, it may be the largest of all
            return weights
        stored = QuantizedTensor(name, tensor.format, tensor.shape, self._writer.read(name))
        if weights.shape == tensor.shape and weights.ndim == 2 and KERNELS[tensor.format.name].record:
            return stored
        return stored.dequantize(self._threads).reshape(weights.shape)

    def _rounded(self, tensor: PlannedTensor, weights: Floats, statistics: Any) -> Bytes:
        matrices = weights.reshape(-1, *weights.shape[-2:])
        if self.sensitivities is not None:
            statistics = self.sensitivities.beside(tensor.name, statistics)
        each: Sequence[Statistics] = statistics if weights.ndim > 2 else [statistics]
        return np.concatenate(
            [
                round_matrix(matrix, tensor.format, of_it, self._options, self._threads, self._prepared)
                for matrix, of_it in zip(matrices, each, strict=True)
            ]
        )

    def _looked_up(self, tensor: PlannedTensor, weights: Floats) -> Floats:
        """What readers decode for the rows of the embedding that occur in the text."""
        seen = np.unique(np.concatenate(self._sequences))
        rows = self._writer.read(tensor.name).reshape(tensor.shape[0], -1)[seen]
        return QuantizedTensor(tensor.name, tensor.format, weights.shape, rows.reshape(-1)).dequantize(self._threads)

    def _plain(self, tensor: PlannedTensor, weights: Floats) -> Floats:
        """What readers decode for weights that are encoded as without calibration, or are stored in blocks already."""
        if tensor.kept:
            return weights
        matrices = weights.reshape(-1, weights.shape[-1])
        data = _job(tensor, self._threads).encode(matrices, Slab(0, len(matrices)))
        return QuantizedTensor(tensor.name, tensor.format, weights.shape, data).dequantize(self._threads)
