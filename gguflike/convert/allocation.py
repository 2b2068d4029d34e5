"""Types by what they cost: of every matrix those whose loss is least, in a file of at most so many bytes.

What a matrix in a type costs is measured: it is encoded so, for the inputs that it has in the float model, and the
second-order estimate of the divergence is 1/2 tr(H_O E H_I E^T) for each token, with H_I of its inputs, H_O of its
outputs (`calibrate.sensitivities`) and E what the encoding is off. An output matrix has no H_O: its rows count as often
as the tokens that they are of occur in the text, which leaves out that logits compete and so is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike import frozen
from gguflike.blocks import BlockFormat
from gguflike.calibrate.allocate import Candidate
from gguflike.calibrate.rounding import round_matrix
from gguflike.calibrate.stream import stream
from gguflike.convert.budget import allocated, padded
from gguflike.convert.plan import ConversionPlan
from gguflike.progress import CALIBRATING, Progress
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    from gguflike.calibrate.sensitivities import Sensitivities
    from gguflike.calibrate.statistics import Statistics
    from gguflike.convert.sources import Floats


def settled(
    plan: ConversionPlan, folder: Path, threads: int | None, progress: Progress | None
) -> tuple[ConversionPlan, list[Candidate]]:
    """The plan with the types that cost least, and these, as measured. ``folder`` holds what measuring needs; what is
    in its folder ``outputs`` serves the rounding, too."""
    budget, calibration = plan.budget, plan.calibration
    assert budget is not None
    assert calibration is not None
    read = calibration.model.read
    sensitivities = calibration.sensitivities(read, folder / "outputs", threads, progress)
    measuring = _Measuring(plan, sensitivities, threads)

    def tell(done: int, total: int, what: str) -> None:
        if progress is not None:
            progress(done, total, f"{CALIBRATING}types, {what}")

    stream(
        calibration.graph,
        read,
        calibration.sequences,
        None,
        folder / "measuring",
        found=measuring.take,
        rows=calibration.model.rows,
        length=calibration.sequence,
        threads=threads,
        progress=tell,
    )
    formats = allocated(plan, budget.limit, measuring.candidates)
    chosen = [each for name in formats for each in measuring.candidates[name] if each.type == formats[name].name]
    return budget.make(formats), chosen


class _Measuring:
    """Measures what each matrix costs in each type of its ladder: ``candidates``, by the names of tensors."""

    def __init__(self, plan: ConversionPlan, sensitivities: Sensitivities, threads: int | None) -> None:
        assert plan.budget is not None
        assert plan.calibration is not None
        self.candidates: dict[str, list[Candidate]] = {}
        self._plan, self._sensitivities, self._threads = plan, sensitivities, threads
        self._ladders, self._read = plan.budget.ladders, plan.calibration.model.read
        self._options = plan.calibration.rounding
        self._counts = np.bincount(np.concatenate([np.asarray(each) for each in plan.calibration.sequences]))

    def take(self, names: tuple[str, ...], statistics: Any) -> None:
        """Measure matrices that multiply what the ``statistics`` are of."""
        for name in names:
            if name not in self._ladders:
                continue
            weights = self._read(name)
            matrices = weights.reshape(-1, *weights.shape[-2:])
            each: Sequence[Statistics] = statistics if weights.ndim > 2 else [statistics]
            self.candidates[name] = [
                Candidate(
                    fmt.name,
                    padded(self._plan, weights.shape, fmt),
                    sum(self._cost(name, i, one, matrices[i], fmt) for i, one in enumerate(each)),
                )
                for fmt in self._ladders[name]
            ]

    def _cost(self, name: str, member: int, statistics: Statistics, weights: Floats, fmt: BlockFormat) -> float:
        """Nats for each token of the text."""
        output = self._sensitivities.output(name, member)
        data = round_matrix(weights, fmt, frozen.replace(statistics, output=output), self._options, self._threads)
        decoded = QuantizedTensor(name, fmt, weights.shape, data.reshape(-1)).dequantize(self._threads)
        errors = weights - decoded
        if output is not None:
            product = output @ errors @ statistics.gram
            return 0.5 * self._sensitivities.scale(name, member) * float((product * errors).sum(dtype=np.float64))
        each = ((errors @ statistics.gram) * errors).sum(axis=1, dtype=np.float64)
        if len(self._counts) <= len(weights) and weights.ndim == 2 and not name.startswith("blk."):
            counts = np.bincount(np.arange(len(self._counts)), self._counts, len(weights)) + 1.0
            return 0.5 * float((each * counts).sum() / counts.sum())
        return 0.5 * self._sensitivities.mean * float(each.sum())
