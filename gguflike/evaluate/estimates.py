"""Means and quantiles of tokens, with 95 % confidence intervals that know that tokens of one chunk are alike.

Neighbouring tokens are hard or easy together, so that an error of the mean taken over tokens as if they were
independent is too small. Here the chunk is the unit: the error of a mean is that of means of chunks, its interval
Student's. Quantiles have the interval between the 2.5 % and 97.5 % quantiles of resamples of whole chunks (a bootstrap
with a fixed seed). What is compared with a reference is paired: the differences are taken token by token, before
anything is averaged. Texts of several kinds are strata: chunks vary within their kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
RESAMPLES = 500
SEED = 0


class Figure(NamedTuple):
    """A value, its standard error (of a quantile: None), and the ends of its 95 % interval.

    The last three are None where there are too few chunks to tell: two at least.
    """

    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None

    def through(self, function: Callable[[float], float], slope: float) -> Figure:
        """The figure of an increasing function of the value, whose derivative at the value is ``slope``."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return Figure(function(self.value), None if self.error is None else slope * self.error, low, high)


def mean(strata: Sequence[Floats]) -> Figure:
    """The mean of all tokens. Each stratum has a row for each of its chunks, all rows are of one length."""
    chunks = [each.mean(axis=1) for each in strata]
    count = sum(map(len, chunks))
    value = math.fsum(each.sum() for each in chunks) / count
    return _with_error(value, [each - each.mean() for each in chunks])


def ratio(first: Sequence[Floats], second: Sequence[Floats]) -> Figure:
    """The mean of ``first`` over the mean of ``second``, paired by chunks: how much less one model loses than another.

    The error is that of the linearized ratio (the delta method): of a - r b, over the mean of b. ValueError where the
    second mean is 0.
    """
    top, bottom = mean(first).value, mean(second).value
    if not bottom:
        raise ValueError("the ratio to a mean of 0 is not defined")
    value = top / bottom
    left = [(a - value * b).mean(axis=1) / bottom for a, b in zip(first, second, strict=True)]
    return _with_error(value, [each - each.mean() for each in left])


def quantiles(strata: Sequence[Floats], shares: Sequence[float]) -> list[Figure]:
    """Quantiles of all tokens, linear between neighbours, each with the interval of a bootstrap of chunks."""
    values = np.concatenate([each.reshape(-1) for each in strata])
    points = np.quantile(values, shares)
    if min(map(len, strata)) < 2:
        return [Figure(float(point)) for point in points]
    order = np.argsort(values, kind="stable")
    width = strata[0].shape[1]
    chunk = order // width
    rng = np.random.default_rng(SEED)
    found = np.empty((RESAMPLES, len(shares)))
    for draw in found:
        times = [np.bincount(rng.integers(len(each), size=len(each)), minlength=len(each)) for each in strata]
        reached = np.cumsum(np.concatenate(times)[chunk])
        places = np.searchsorted(reached, np.asarray(shares) * reached[-1])
        draw[:] = values[order[np.minimum(places, len(values) - 1)]]
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return [Figure(float(p), None, float(a), float(b)) for p, a, b in zip(points, low, high, strict=True)]


def _with_error(value: float, residuals: Sequence[Floats]) -> Figure:
    """A mean of chunks with its error, from what chunks differ by from the mean of their stratum."""
    counts = [len(each) for each in residuals]
    if min(counts) < 2:
        return Figure(value)
    variance = math.fsum(n * float((each**2).sum()) / (n - 1) for n, each in zip(counts, residuals, strict=True))
    error = math.sqrt(variance) / sum(counts)
    wide = student(sum(counts) - len(counts)) * error
    return Figure(value, error, value - wide, value + wide)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: in closed form for 1 and 2 degrees of freedom, else by the expansion of
    Cornish and Fisher (Abramowitz and Stegun 26.7.5), which is within 0.7 % at 3 and far nearer beyond."""
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    terms: tuple[float, ...] = (
        Z,
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
