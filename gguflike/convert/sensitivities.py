"""How much outputs matter to what a model says, kept in a folder until its matrices are rounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gguflike.calibrate.fisher import Sensitivity, fisher
from gguflike.calibrate.statistics import Statistics
from gguflike.convert.calibration import Calibration
from gguflike.convert.sources import Floats
from gguflike.frozen import replace
from gguflike.progress import CALIBRATING, Progress

_INDEX = "index.json"


class Sensitivities:
    """Second factors H_O of loss-aware Hessians (`calibrate.fisher`) by the names of tensors, in a ``folder``.

    They are as many float32 as a matrix has rows, squared, of each matrix.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scales: dict[str, list[float]] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))

    def __contains__(self, name: str) -> bool:
        return name in self._scales

    @property
    def mean(self) -> float:
        """The mean of all scales."""
        return float(np.mean([each for scales in self._scales.values() for each in scales]))

    def output(self, name: str, member: int = 0) -> Floats:
        """H_O of a matrix, or of one of a stack: float32 (rows, rows), of mean diagonal 1."""
        return np.array(np.load(self._folder / f"{name}.npy", mmap_mode="r")[member])

    def scale(self, name: str, member: int = 0) -> float:
        """What the mean diagonal of H_O is for a token of the text: the mean square of the loss's gradient by an output
        of the matrix."""
        return self._scales[name][member]


def measured(
    calibration: Calibration,
    read: Callable[[str], Floats],
    folder: Path,
    threads: int | None,
    progress: Progress | None,
) -> Sensitivities:
    """Those of the model, by one backward pass over its text, unless an earlier run has left them in ``folder``."""
    if (folder / _INDEX).exists():
        return Sensitivities(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scales: dict[str, list[float]] = {}

    def found(name: str, seen: Sensitivity) -> None:
        count = len(seen.reached)
        first = seen.output(0)
        kept = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, *first.shape))
        for member in range(count):
            kept[member] = seen.output(member) if member else first
        kept.flush()
        # Of a stack, the sum over a token's matrices is known: it is divided as the tokens are.
        every = float(seen.tokens.mean(dtype=np.float64)) / max(float(seen.reached.sum()) / len(seen.tokens), 1e-12)
        scales[name] = [every * float(reached) / len(seen.tokens) for reached in seen.reached]

    def tell(done: int, total: int, what: str) -> None:
        if progress is not None:
            progress(done, total, CALIBRATING + what)

    fisher(
        calibration.graph,
        read,
        calibration.sequences,
        found,
        folder,
        length=calibration.sequence,
        seed=calibration.effort.seed,
        threads=threads,
        progress=tell,
    )
    temporary = folder / f".{_INDEX}"
    temporary.write_text(json.dumps(scales), encoding="utf-8")
    temporary.replace(folder / _INDEX)
    return Sensitivities(folder)


def with_output(statistics: Statistics, sensitivities: Sensitivities | None, name: str, member: int = 0) -> Statistics:
    """`Statistics` with the second factor of the matrix, where that is known."""
    if sensitivities is None or name not in sensitivities:
        return statistics
    return replace(statistics, output=sensitivities.output(name, member))
