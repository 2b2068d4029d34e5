"""How much to fold: the scales of AWQ and of SmoothQuant, for the folds of folds.py.

Both make what is hard to quantize smaller and what is easy larger. AWQ looks at the error of the quantized weights: a
column that is multiplied by s is quantized with s times as fine a step, relative to its values, and of those that
multiply large inputs that is worth most. SmoothQuant looks at the inputs, which are rounded to 8 bits when a model
runs: dividing the large channels by s leaves more of the range to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.folds import Fold, Scaling
from gguflike.calibrate.stream import stream
from gguflike.families.parts import Graph
from gguflike.frozen import frozen

Floats = npt.NDArray[np.float32]
Encode = Callable[[str, Floats, Floats], Floats]
"""What rows of a matrix, by its name and with the importance of its columns, are when they are quantized."""

SAMPLE = 256
"""Inputs of each matrix that are kept, to measure errors by."""
ROWS = 256
"""Rows of each matrix that errors are measured on, evenly spaced."""
EXPONENTS = tuple(i / 20 for i in range(1, 21))


@frozen
class Magnitudes:
    """Of the inputs of a matrix: of each column the largest magnitude, the mean one and the mean square, and some of
    the inputs as they are, float32 (up to `SAMPLE`, columns)."""

    largest: Floats
    mean: Floats
    square: Floats
    sample: Floats


class MagnitudeCollector:
    """Sums `Magnitudes` up, slab by slab. Inputs with values that are not finite are left out."""

    def __init__(self, columns: int) -> None:
        self._largest = np.zeros(columns, np.float32)
        self._sum = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._sample: list[Floats] = []
        self.tokens = 0

    def add(self, inputs: Floats, floats: Floats | None = None, each: Any = map) -> None:  # noqa: ARG002 - a Collector
        """Take inputs (rows, columns) into account."""
        inputs = inputs[np.isfinite(inputs).all(axis=1)]
        if not len(inputs):
            return
        sizes = np.abs(inputs)
        self._largest = np.maximum(self._largest, sizes.max(axis=0))
        self._sum += sizes.sum(axis=0, dtype=np.float64)
        self._squares += np.square(inputs, dtype=np.float64).sum(axis=0)
        self.tokens += len(inputs)
        self._sample.append(inputs[:: max(1, len(inputs) * 4 // SAMPLE)].copy())
        if sum(map(len, self._sample)) > 2 * SAMPLE:
            self._sample = [_thinned(np.concatenate(self._sample))]

    def result(self) -> Magnitudes:
        """What was seen; all zeros where nothing was."""
        count = max(self.tokens, 1)
        sample = np.concatenate(self._sample) if self._sample else np.zeros((0, len(self._sum)), np.float32)
        mean, square = ((each / count).astype(np.float32) for each in (self._sum, self._squares))
        return Magnitudes(self._largest, mean, square, _thinned(sample))


class MagnitudeSums:
    """How `stream` collects `Magnitudes`."""

    def one(self, columns: int, cross: bool) -> MagnitudeCollector:  # noqa: ARG002 - a Collecting
        return MagnitudeCollector(columns)

    def stack(self, path: Path, count: int, columns: int) -> list[Magnitudes]:  # noqa: ARG002
        return []

    def size(self, columns: int, cross: bool) -> int:  # noqa: ARG002
        return 4 * columns * (3 * SAMPLE + 5)


Choose = Callable[[Fold, Magnitudes, Mapping[str, Floats]], "Floats | None"]
"""The scales of a fold, from what its matrices multiply and these, by name; None: it is left out."""


def chosen(
    graph: Graph,
    folds: Sequence[Fold],
    choose: Choose,
    read: Callable[[str], Floats],
    sequences: Sequence[Sequence[int]],
    workspace: Path,
    **settings: Any,
) -> list[tuple[Fold, Floats]]:
    """The folds that are worth it, with their scales: ``choose`` is asked of each when the float model has run up to
    its matrices. The other arguments are those of `calibrate.stream.stream`."""
    by_reader = {name: fold for fold in reversed(folds) for name in fold.multiplied}
    scales: dict[Fold, Floats | None] = {}

    def found(names: tuple[str, ...], magnitudes: Any) -> None:
        for fold in {by_reader[name]: None for name in names if name in by_reader}:
            # What a stack of experts reads is what its router reads, all tokens of it.
            if fold not in scales and isinstance(magnitudes, Magnitudes):
                scales[fold] = choose(fold, magnitudes, {name: read(name) for name in fold.multiplied})

    stream(graph, read, sequences, None, workspace, found=found, collecting=MagnitudeSums(), **settings)
    return [(fold, by) for fold in folds if (by := scales.get(fold)) is not None]


def _thinned(sample: Floats) -> Floats:
    """At most `SAMPLE` rows, evenly spaced."""
    if len(sample) <= SAMPLE:
        return sample
    thinned: Floats = sample[np.arange(SAMPLE) * len(sample) // SAMPLE]
    return thinned


def awq(fold: Fold, seen: Magnitudes, readers: Mapping[str, Floats], encode: Encode) -> Floats | None:
    """The scales s = m**a / sqrt(max * min) of mean input magnitudes m that leave the least error of what the readers
    give, ``|(W - Q) x|**2`` over the sample, with Q the quantized W s, divided by s again, by ``encode``: of the
    exponents a in 0, 0.05 ... 1. None where 0, no fold, is best, or nothing was seen.

    ``readers`` are the matrices (n, k) of ``fold.multiplied``, or stacks of them.
    """
    if not len(seen.sample):
        return None
    rows = {name: _some_rows(weights) for name, weights in readers.items()}
    mean = fold.shared(seen.mean).mean(axis=-2)
    mean = np.maximum(mean, np.float32(1e-4) * max(float(mean.max()), 1e-30))  # channels that are nearly always 0

    def error(scales: Floats) -> float:
        columns = fold.columns(scales)
        importance = Scaling(columns=columns).of_importance(seen.square)
        lost = (w - encode(name, w * columns, importance) / columns for name, w in rows.items())
        return sum(float(np.square(each @ seen.sample.T, dtype=np.float64).sum()) for each in lost)

    best, least = None, error(np.ones(fold.size, np.float32))
    for exponent in EXPONENTS:
        scales = mean ** np.float32(exponent)
        scales /= np.sqrt(scales.max() * scales.min())
        found = error(scales)
        if found < least:
            best, least = scales, found
    return best


def smooth(fold: Fold, seen: Magnitudes, readers: Mapping[str, Floats], exponent: float = 0.5) -> Floats | None:
    """SmoothQuant's scales ``max|x|**a / max|w|**(1 - a)`` of each channel, of geometric mean 1. None where nothing was
    seen. Channels without inputs or weights keep the scale 1."""
    if not len(seen.sample):
        return None
    inputs = fold.shared(seen.largest).max(axis=-2)
    largest = np.max(
        [np.abs(weights).reshape(-1, weights.shape[-1]).max(axis=0) for weights in readers.values()], axis=0
    )
    weights = fold.shared(largest).max(axis=-2)
    known = (inputs > 0) & (weights > 0)
    if not known.any():
        return None
    logs = exponent * np.log(inputs[known]) - (1 - exponent) * np.log(weights[known])
    scales = np.ones(fold.size, np.float32)
    scales[known] = np.exp(logs - logs.mean())
    return scales


def _some_rows(weights: Floats) -> Floats:
    flat = weights.reshape(-1, weights.shape[-1])
    return flat[np.arange(min(ROWS, len(flat))) * len(flat) // min(ROWS, len(flat))]
