"""What errors of a matrix cost, as far as a conversion's effort knows.

Without a backward pass it is by a prior (`prior.py`). With one it is the second-order estimate of the divergence,
1/2 s tr(H_O E H_I E^T) for each token, with H_I of the matrix's inputs, H_O of its outputs (`calibrate.sensitivities`),
s the mean square of the loss's gradient by an output, and E what the encoding is off; of embedding and output matrix it
is a sum over rows (`calibrate.tables`).
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gguflike import frozen
from gguflike.calibrate.tables import EMBEDDING, OUTPUT
from gguflike.convert.calibration import Calibration
from gguflike.convert.given_hessians import GivenHessians
from gguflike.convert.prior import Prior
from gguflike.progress import Progress

if TYPE_CHECKING:
    from gguflike.calibrate.sensitivities import Sensitivities
    from gguflike.calibrate.statistics import Statistics
    from gguflike.calibrate.tables import Table
    from gguflike.convert.sources import Floats


_TABLES = (EMBEDDING, OUTPUT)


class Loss(Protocol):
    """What errors cost."""

    def table(self, name: str) -> Table | None:
        """How much the rows of an embedding, or of an output matrix, matter, where that is known."""
        ...

    def beside(self, name: str, member: int, statistics: Statistics) -> Statistics:
        """The statistics that a matrix, or one of a stack, is rounded by."""
        ...

    def cost(self, name: str, member: int, statistics: Statistics, weights: Floats, errors: Floats) -> float:
        """What ``errors`` of a matrix cost, in nats for each token of the text."""
        ...


class Expected:
    """As a prior has it: by relative errors of outputs."""

    def __init__(self, calibration: Calibration | GivenHessians) -> None:
        names = [place.name for place in calibration.matrices()]
        self._prior = Prior([*names, EMBEDDING])  # which may be the output matrix, too
        self._members = {place.name: prod(place.tensor.shape[:-2]) for place in calibration.matrices()}

    def table(self, name: str) -> Table | None:  # noqa: ARG002
        """None: nothing is known of rows."""
        return None

    def beside(self, name: str, member: int, statistics: Statistics) -> Statistics:  # noqa: ARG002
        return statistics

    def cost(self, name: str, member: int, statistics: Statistics, weights: Floats, errors: Floats) -> float:  # noqa: ARG002
        error, size = (float(((each @ statistics.gram) * each).sum(dtype=np.float64)) for each in (errors, weights))
        return self._prior.cost(name, error, size) / self._members.get(name, 1)


class Measured:
    """As is known by ``sensitivities``."""

    def __init__(self, calibration: Calibration, sensitivities: Sensitivities) -> None:
        self._known = sensitivities
        self._tables = {name: table for name in _TABLES if (table := sensitivities.table(name)) is not None}
        self._counts = np.bincount(np.concatenate([np.asarray(each) for each in calibration.sequences]))

    def table(self, name: str) -> Table | None:
        return self._tables.get(name)

    def beside(self, name: str, member: int, statistics: Statistics) -> Statistics:
        return frozen.replace(statistics, output=self._known.output(name, member))

    def cost(self, name: str, member: int, statistics: Statistics, weights: Floats, errors: Floats) -> float:
        if statistics.output is not None:
            product = statistics.output @ errors @ statistics.gram
            return 0.5 * self._known.scale(name, member) * float((product * errors).sum(dtype=np.float64))
        each = ((errors @ statistics.gram) * errors).sum(axis=1, dtype=np.float64)
        if len(self._counts) <= len(weights) and not name.startswith("blk."):  # an output matrix, by its tokens
            counts = np.bincount(np.arange(len(self._counts)), self._counts, len(weights)) + 1.0
            return 0.5 * float((each * counts).sum() / counts.sum())
        return 0.5 * self._known.mean * float(each.sum())


def loss_of(
    calibration: Calibration | GivenHessians, folder: Path, threads: int | None, progress: Progress | None
) -> Loss:
    """What is known where a calibration has measured what it can; it keeps that in ``folder``."""
    if isinstance(calibration, GivenHessians) or not calibration.effort.is_loss_aware:
        return Expected(calibration)
    return Measured(calibration, calibration.sensitivities(calibration.model.read, folder, threads, progress))
