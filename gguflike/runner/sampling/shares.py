"""Where a share of the probability ends, without sorting a vocabulary.

Sorting 262,144 keys takes longer than a small model takes to compute them. So the end is closed in on: a sample of the
keys says between which two of them it probably is, the weights of those above are added up, and what is looked at next
are the keys where the end must be, between the two or not. A few rounds leave so few that sorting them costs nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]

_FEW = 1024  # keys that are sorted
_SAMPLE = 512
_DEVIATIONS = 3.0  # standard deviations of a sample's quantile, on either side
_CHUNK = 1024  # weights that are added up at once where keys are equal


class End(NamedTuple):
    """The last key of a share: of the ``equal`` keys that are the same, the first ``taken`` belong to it."""

    key: float
    taken: int
    equal: int


def end(keys: Floats, weights: Floats, wanted: float, total: float) -> End:
    """Find the fewest of the greatest ``keys`` whose ``weights`` come to ``wanted``, the first among equals: all keys
    where even these do not.

    Keys and weights, 0 or more, are as many, one at least. ``total`` is about the sum of the weights. Sums are float64,
    in an order that depends on keys and weights alone.
    """
    above = 0.0  # the sum of the weights of all keys above these
    while len(keys) > _FEW:
        low, high = _between(keys, weights, (wanted - above) / total if total else 0.0)
        if low == high and keys.min() == keys.max():
            return End(low, _first(weights, wanted - above), len(keys))
        upper = keys > high
        upper_sum = _sum(weights * upper) if high < np.inf else 0.0
        if above + upper_sum >= wanted and upper.any():
            part, total = np.flatnonzero(upper), upper_sum
        else:
            lower = keys < low
            part = np.flatnonzero(~(upper | lower))
            inside_sum = _sum(weights[part])
            above += upper_sum
            if above + inside_sum >= wanted or not lower.any():
                total = inside_sum
            else:
                part, above, total = np.flatnonzero(lower), above + inside_sum, total - upper_sum - inside_sum
        if len(part) == len(keys):  # keys that are no numbers, or a sample that says nothing
            break
        keys, weights = keys[part], weights[part]
    order = np.argsort(-keys, kind="stable")
    sums = np.cumsum(weights[order], dtype=np.float64)
    last = min(int(np.searchsorted(sums, wanted - above)), len(keys) - 1)
    key = keys[order[last]]
    return End(float(key), int(np.count_nonzero(keys[order[: last + 1]] == key)), int(np.count_nonzero(keys == key)))


def _between(keys: Floats, weights: Floats, share: float) -> tuple[float, float]:
    """Two keys, the lower one first, between which the ``share`` of the weights probably ends. Infinite where a sample
    has none that is so low or high."""
    step = len(keys) // _SAMPLE
    some = keys[::step]
    order = np.argsort(-some, kind="stable")
    sums = np.cumsum(weights[::step][order], dtype=np.float64)
    size, place = len(some), int(np.searchsorted(sums, share * sums[-1]))
    away = 2 + int(_DEVIATIONS * math.sqrt(place * (size - place) / size))
    high = float(some[order[place - away]]) if place >= away else np.inf
    return float(some[order[place + away]]) if place + away < size else -np.inf, high


def _first(weights: Floats, wanted: float) -> int:
    """How many of the first weights come to ``wanted``; all where these do not."""
    chunks = len(weights) // _CHUNK
    sums = np.cumsum(weights[: chunks * _CHUNK].reshape(chunks, _CHUNK).sum(axis=1, dtype=np.float64))
    chunk = int(np.searchsorted(sums, wanted))
    before = float(sums[chunk - 1]) if chunk else 0.0
    inside = np.cumsum(weights[chunk * _CHUNK : (chunk + 1) * _CHUNK], dtype=np.float64)
    return min(chunk * _CHUNK + int(np.searchsorted(inside, wanted - before)) + 1, len(weights))


def _sum(weights: Floats) -> float:
    return float(weights.sum(dtype=np.float64))
