"""What errors of a matrix cost, as far as a conversion's effort knows.

With a backward pass it is the second-order estimate of the divergence, 1/2 s tr(H_O E H_I E^T) for each token, with H_I
of the matrix's inputs, H_O of its outputs (`calibrate.sensitivities`), s the mean square of the loss's gradient by an
output, and E what the encoding is off; of embedding and output matrix it is a sum over rows (`calibrate.tables`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gguflike import frozen
from gguflike.calibrate.statistics import Statistics
from gguflike.convert.calibration import Calibration
from gguflike.progress import Progress

if TYPE_CHECKING:
    from gguflike.calibrate.sensitivities import Sensitivities
    from gguflike.calibrate.tables import Table
    from gguflike.convert.sources import Floats


_TABLES = ("token_embd.weight", "output.weight")


class Loss:
    """What is known by ``sensitivities``."""

    def __init__(self, calibration: Calibration, sensitivities: Sensitivities) -> None:
        self._known = sensitivities
        self._tables = {name: table for name in _TABLES if (table := sensitivities.table(name)) is not None}
        self._counts = np.bincount(np.concatenate([np.asarray(each) for each in calibration.sequences]))

    def table(self, name: str) -> Table | None:
        """How much the rows of an embedding, or of an output matrix, matter, where that is known."""
        return self._tables.get(name)

    def of_table(self, name: str) -> Statistics:
        """The statistics that the rows of a table are rounded by."""
        return Statistics(self._tables[name].gram, None, len(self._tables[name].lookups))

    def beside(self, name: str, member: int, statistics: Statistics) -> Statistics:
        """The statistics that a matrix, or one of a stack, is rounded by."""
        return frozen.replace(statistics, output=self._known.output(name, member))

    def cost(self, name: str, member: int, statistics: Statistics, weights: Floats, errors: Floats) -> float:
        """What ``errors`` of a matrix cost, in nats for each token of the text."""
        if statistics.output is not None:
            product = statistics.output @ errors @ statistics.gram
            return 0.5 * self._known.scale(name, member) * float((product * errors).sum(dtype=np.float64))
        each = ((errors @ statistics.gram) * errors).sum(axis=1, dtype=np.float64)
        if len(self._counts) <= len(weights) and not name.startswith("blk."):  # an output matrix, by its tokens
            counts = np.bincount(np.arange(len(self._counts)), self._counts, len(weights)) + 1.0
            return 0.5 * float((each * counts).sum() / counts.sum())
        return 0.5 * self._known.mean * float(each.sum())


def loss_of(calibration: Calibration, folder: Path, threads: int | None, progress: Progress | None) -> Loss:
    """What is known where a calibration has measured what it can; it keeps that in ``folder``."""
    return Loss(calibration, calibration.sensitivities(calibration.model.read, folder, threads, progress))
