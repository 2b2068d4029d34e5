"""Fixed ranges of activations: what observers see of a matrix's inputs, and what is made of it.

A *static* range is known before a model runs: activations are rounded by one step for a whole tensor, and what is
outside is clipped. Observers differ in what they take for the range: the extremes, moving averages of them, a
percentile, or what leaves the least squared error of a histogram. The *mapping* of the range to integers is symmetric,
one-sided (unsigned, zero at an end) or asymmetric (a zero point inside).

*Redistribution* makes the channels of a tensor alike before a range is chosen: it subtracts the middle of each and
divides by its width, which matrices and biases can take back. Together with a mapping that is chosen by the histogram
this is a reconstruction of Wei, Ma and Yang 2024 (doi 10.32604/cmes.2023.027085) from its abstract and repository; its
equations were not at hand, and these are not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gguflike.frozen import frozen

Floats = npt.NDArray[np.float32]
Kind = Literal["symmetric", "one-sided", "asymmetric"]

BINS = 2048
MASSIVE = 20.0
"""Rows whose largest magnitude is so many times the median row's are left out: a model's first tokens, which are to be
rounded by a range of their own."""
MOMENTUM = 0.9
ENDS = 128
"""Ends of a range that are tried."""
SYMMETRIC, ONE_SIDED = 0.15, 0.9
"""One-sidedness up to which a symmetric mapping is taken, and from which on a one-sided."""


@frozen
class Seen:
    """Of the inputs of a matrix: their extremes, moving averages of those of slabs, the mean of the largest magnitudes
    of rows, a histogram of `BINS` bins from ``-edge`` to ``edge``, the extremes of each channel, how many rows were
    left out as massive, and the largest magnitude, on average over slabs, from which on one is."""

    low: float
    high: float
    average_low: float
    average_high: float
    average_largest: float
    edge: float
    histogram: npt.NDArray[np.int64]
    channel_low: Floats
    channel_high: Floats
    massive: int
    massive_from: float

    @property
    def one_sidedness(self) -> float:
        """(high + low) / (high - low): 0 for a range around zero, 1 or -1 for one that begins there."""
        width = self.high - self.low
        return (self.high + self.low) / width if width else 0.0


class Observer:
    """Sees inputs slab by slab, each of them shifted and divided first, where there is a ``redistribution``."""

    def __init__(self, columns: int, redistribution: Redistribution | None = None) -> None:
        self._by = redistribution
        self._low, self._high = np.full(columns, np.inf, np.float32), np.full(columns, -np.inf, np.float32)
        self._averages: tuple[float, float] | None = None
        self._edge, self._histogram = 0.0, np.zeros(BINS, np.int64)
        self._massive, self._rows, self._largest = 0, 0, 0.0
        self._limits: list[float] = []

    def add(self, inputs: Floats, floats: Floats | None = None, each: Any = map) -> None:  # noqa: ARG002 - a Collector
        inputs = inputs if self._by is None else self._by.forward(inputs)
        if not len(inputs):
            return
        largest = np.abs(inputs).max(axis=1)
        limit = MASSIVE * float(np.median(largest))
        usual = largest <= limit
        self._limits.append(limit)
        self._massive += int((~usual).sum())
        self._rows, self._largest = self._rows + int(usual.sum()), self._largest + float(largest[usual].sum())
        inputs = inputs[usual]
        if not len(inputs):
            return
        low, high = inputs.min(axis=0), inputs.max(axis=0)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        ends = float(low.min()), float(high.max())
        old = self._averages or ends
        self._averages = (
            MOMENTUM * old[0] + (1 - MOMENTUM) * ends[0],
            MOMENTUM * old[1] + (1 - MOMENTUM) * ends[1],
        )
        self._count(inputs)

    def _count(self, inputs: Floats) -> None:
        top = float(np.abs(inputs).max())
        if not self._edge:
            self._edge = top or 1.0
        while self._edge < top:  # twice the range: two bins become one
            pairs = self._histogram.reshape(-1, 2).sum(axis=1)
            self._histogram = np.zeros(BINS, np.int64)
            self._histogram[BINS // 4 : BINS // 4 + BINS // 2] = pairs
            self._edge *= 2
        self._histogram += np.histogram(inputs, BINS, (-self._edge, self._edge))[0]

    def result(self) -> Seen | None:
        """What was seen; None where nothing was."""
        if self._averages is None:
            return None
        low, high = float(self._low.min()), float(self._high.max())
        of_rows = self._largest / self._rows
        return Seen(
            low=low,
            high=high,
            average_low=self._averages[0],
            average_high=self._averages[1],
            average_largest=of_rows,
            edge=self._edge,
            histogram=self._histogram,
            channel_low=self._low,
            channel_high=self._high,
            massive=self._massive,
            massive_from=float(np.mean(self._limits)),
        )


@frozen
class Observers:
    """How `stream` has inputs observed."""

    def one(self, columns: int, cross: bool) -> Observer:  # noqa: ARG002 - a Collecting
        return Observer(columns)

    def stack(self, path: Path, count: int, columns: int) -> list[Seen | None]:  # noqa: ARG002
        return []

    def size(self, columns: int, cross: bool) -> int:  # noqa: ARG002
        return 8 * (BINS + columns)


@frozen
class Range:
    """Integers of ``bits`` bits for values from ``low`` to ``high``."""

    low: float
    high: float
    bits: int = 8
    kind: Kind = "symmetric"

    @property
    def step(self) -> float:
        """What one integer is worth."""
        top: int = (1 << self.bits) - 1
        if self.kind == "symmetric":
            return max(-self.low, self.high) / (top // 2)
        low, high = (min(self.low, 0.0), max(self.high, 0.0)) if self.kind == "one-sided" else (self.low, self.high)
        return (high - low) / top

    def apply(self, x: Floats) -> Floats:
        """The nearest values that there are integers for."""
        step = self.step
        if step <= 0:
            return np.zeros_like(x)
        top = (1 << self.bits) - 1
        if self.kind == "symmetric":
            least, most = -(top // 2), top // 2
        elif self.kind == "one-sided":
            least, most = (0, top) if self.high >= -self.low else (-top, 0)
        else:
            zero = int(np.rint(-self.low / step))
            least, most = -zero, top - zero
        nearest: Floats = np.clip(np.rint(x / np.float32(step)), least, most) * np.float32(step)
        return nearest


def extremes(seen: Seen, bits: int = 8) -> Range:
    """From the smallest to the largest value seen (min-max)."""
    return Range(seen.low, seen.high, bits)


def moving_average(seen: Seen, bits: int = 8) -> Range:
    """Between moving averages of the extremes of slabs."""
    return Range(seen.average_low, seen.average_high, bits)


def percentile(seen: Seen, bits: int = 8, share: float = 0.9999) -> Range:
    """The range around zero that holds this share of the values."""
    folded = seen.histogram[BINS // 2 :] + seen.histogram[: BINS // 2][::-1]
    bins = int(np.searchsorted(np.cumsum(folded), share * folded.sum())) + 1
    end = seen.edge * min(bins, BINS // 2) / (BINS // 2)
    return Range(max(-end, seen.low), min(end, seen.high), bits)


def least_error(seen: Seen, bits: int = 8, kind: Kind = "symmetric") -> Range:
    """The range whose clipping and rounding leave the least squared error of the histogram: its ends are tried
    in turns."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if kind == "symmetric":
        end = _best(lambda end: error(seen, Range(-end, end, bits)), max(-low, high))
        return Range(-end, end, bits)

    def cost_of_high(end: float) -> float:
        return error(seen, Range(low, end, bits, kind))

    def cost_of_low(end: float) -> float:
        return error(seen, Range(-end, high, bits, kind))

    for _ in range(3):
        high = _best(cost_of_high, max(seen.high, 0.0))
        low = -_best(cost_of_low, max(-seen.low, 0.0))
    return Range(low, high, bits, kind)


OBSERVERS: dict[str, Callable[[Seen], Range]] = {
    "min-max": extremes,
    "moving-average": moving_average,
    "percentile": percentile,
    "least-error": least_error,
}
"""Symmetric ranges of 8 bits, by the names that they have on the command line."""


def hybrid(seen: Seen, bits: int = 8) -> Range:
    """The mapping by the one-sidedness of the range: symmetric where it is small, one-sided where it is nearly 1, and
    between these whichever of symmetric and asymmetric has less error; each with its range of least error."""
    if abs(seen.one_sidedness) < SYMMETRIC:
        return least_error(seen, bits)
    if abs(seen.one_sidedness) > ONE_SIDED:
        return least_error(seen, bits, "one-sided")
    return min((least_error(seen, bits, kind) for kind in ("symmetric", "asymmetric")), key=lambda r: error(seen, r))


def error(seen: Seen, of: Range) -> float:
    """The mean squared error of the middles of the bins; where steps are narrower than bins, of clipping these, and
    step**2 / 12 of what is inside."""
    values = (np.arange(BINS) + 0.5) * (2 * seen.edge / BINS) - seen.edge
    counts = seen.histogram / max(int(seen.histogram.sum()), 1)
    if of.step > 2 * seen.edge / BINS:
        return float((counts * np.square(of.apply(values.astype(np.float32)) - values)).sum())
    low, high = (-max(-of.low, of.high), max(-of.low, of.high)) if of.kind == "symmetric" else (of.low, of.high)
    outside = values - np.clip(values, low, high)
    return float((counts * np.square(outside)).sum() + of.step**2 / 12 * counts[outside == 0].sum())


def _best(cost: Callable[[float], float], top: float) -> float:
    """Which of `ENDS` ends up to ``top``, evenly spaced, costs least."""
    return min((top * i / ENDS for i in range(ENDS, 0, -1)), key=cost)


@frozen
class Redistribution:
    """``(x - shift) / scale`` of each channel, which makes them alike."""

    shift: Floats
    scale: Floats

    def forward(self, x: Floats) -> Floats:
        return (x - self.shift) / self.scale

    def backward(self, x: Floats) -> Floats:
        return x * self.scale + self.shift


def redistribution(seen: Seen) -> Redistribution:
    """The middle of each channel, and its width over that of the geometric mean channel; 1 where it has none."""
    shift, width = (seen.channel_high + seen.channel_low) / 2, seen.channel_high - seen.channel_low
    some = width > 0
    scale: Floats = np.ones_like(width)
    if some.any():
        scale[some] = width[some] / np.exp(np.log(width[some]).mean())
    return Redistribution(shift.astype(np.float32), scale.astype(np.float32))
