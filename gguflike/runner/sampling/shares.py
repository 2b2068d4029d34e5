"""Which tokens have a share of the probability together, without sorting a vocabulary.

Sorting 262,144 tokens takes longer than a small model takes to compute them. So they are divided among buckets by how
far their logit is from the greatest, or from another, and the weights of each bucket are added up, which an op does in
one pass (kernels/shares.py). That tells the bucket in which the share ends. What is in it is divided again, or sorted
where it is little.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gguflike.kernels.args import DIVIDE, SHARE_BUCKETS, SHARE_SUMS
from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.vector.sizes import LANES
from gguflike.runner.sampling.weights import flagged, room, run, weigh, weigh_by_op

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]
    Doubles = npt.NDArray[np.float64]
    Ids = npt.NDArray[np.int64]
    Kept = npt.NDArray[np.bool_]

_FEW = 2048  # keys that are sorted
_ROUNDS = 4  # of dividing: what is many even then is sorted
_SPAN = 128.0  # of distances that are told apart: by logits, what is further away weighs nothing
_STEEPEST = 1e30  # buckets in a unit of distance
_CHUNK = 1024  # weights that are added up at once where keys are equal


def nearest(logits: Floats, most: float, share: float, centre: float | None = None) -> Kept:
    """Flags of as few tokens as together have at least the ``share`` (below 1) of the probability: of those whose
    logits are nearest to ``centre`` (None: of the greatest), the first among equals. All where a logit is no number.

    ``most`` is the greatest logit. Weights are those of `weigh`, and their sums are float64, in an order that depends
    on the logits alone.
    """
    if math.isnan(most):
        return np.ones(len(logits), np.bool_)
    least = float(logits.min())
    kept = np.zeros(len(logits), np.bool_)
    if least == most:  # each weighs 1
        kept[: _first_of_equal(1.0, len(logits), share * len(logits))] = True
        return kept
    if len(logits) <= _FEW or logits.dtype != np.float32:
        weights, sums = weigh(logits, most)
        kept[greatest(_keys(logits, centre), weights, share * float(sums.sum()))] = True
        return kept
    buckets, sums = _divided(logits, least, most, most if centre is None else centre)
    last, left = _end(sums, share * float(sums.sum()))
    kept, ending = buckets < last, buckets == last
    part = flagged(ending, int(np.count_nonzero(ending)))
    some = logits[part]
    if some.min() == some.max():  # a vocabulary of few values, say: the first of them
        behind = int(part[_first_of_equal(float(weigh_by_op(some[:1], most)[0][0]), len(some), left) - 1]) + 1
        kept[:behind] |= ending[:behind]
        return kept
    kept[part[greatest(_keys(some, centre), weigh_by_op(some, most)[0], left)]] = True
    return kept


def greatest(keys: Floats, weights: Floats, wanted: float, rounds: int = _ROUNDS) -> Ids:
    """The places, in any order, of as few of the greatest ``keys`` as have ``weights`` that come to ``wanted``, the
    first among equals; all where even these do not. Keys and weights, 0 or more, are as many, one at least."""
    first, least = float(keys.max()), float(keys.min())
    if first == least:
        return np.arange(_first(weights, wanted))
    if len(keys) <= _FEW or not rounds:
        order = in_order(keys)
        return order[: _first(weights[order], wanted)]
    buckets = np.minimum((first - keys) * _scale(first - least), SHARE_BUCKETS - 1).astype(np.int64)
    last, left = _end(np.bincount(buckets, weights, SHARE_BUCKETS).astype(np.float64, copy=False), wanted)
    part = np.flatnonzero(buckets == last)
    inside = part[greatest(keys[part], weights[part], left, rounds - 1)]
    return np.concatenate([np.flatnonzero(buckets < last), inside])


def order_of(logits: Floats, centre: float | None = None) -> Ids:
    """The places of logits in the order of `nearest`."""
    return in_order(_keys(logits, centre))


def _keys(logits: Floats, centre: float | None) -> Floats:
    """Keys that are the greater, the nearer a logit is to ``centre``; the logits themselves where that is None."""
    if centre is None:
        return logits
    away: Floats = logits - logits.dtype.type(centre)
    return np.negative(np.abs(away, out=away), out=away)


def _scale(reach: float) -> float:
    """Buckets in a unit of distance, where ``reach`` is the greatest distance."""
    return min(SHARE_BUCKETS / min(reach, _SPAN), _STEEPEST)


def _divided(logits: Floats, least: float, most: float, centre: float) -> tuple[npt.NDArray[np.int16], Doubles]:
    """The bucket of each of float32 ``logits`` by its distance from ``centre``, and the sums of the weights in each."""
    logits = np.ascontiguousarray(logits)
    buckets = room("buckets", -(-len(logits) // LANES) * LANES, np.int16)
    sums = np.zeros((SHARE_SUMS, SHARE_BUCKETS))
    words = DIVIDE.pack(
        logits=logits.ctypes.data,
        n=len(logits),
        most=float_bits(most),
        centre=float_bits(centre),
        scale=float_bits(_scale(max(most - centre, centre - least))),
        buckets=buckets.ctypes.data,
        sums=sums.ctypes.data,
    )
    run("shares:divide", words)
    return buckets[: len(logits)], sums.sum(axis=0)


def _end(sums: Doubles, wanted: float) -> tuple[int, float]:
    """The bucket in which a share ends, and what the weights of it have to come to."""
    ends = np.cumsum(sums)
    last = min(int(np.searchsorted(ends, wanted)), SHARE_BUCKETS - 1)
    return last, wanted - float(ends[last - 1] if last else 0.0)


def in_order(keys: Floats) -> Ids:
    """The places of all keys in their order, the greatest first, the first among equals."""
    if keys.dtype != np.float32:
        return np.argsort(-keys, kind="stable")
    # As whole numbers, which are sorted 10 times as fast: the key above, and the place below.
    bits = (0 - keys).view(np.int32)  # of which no zero is negative
    upper = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    return np.sort((upper << 32) | np.arange(len(keys))) & 0xFFFFFFFF


def _first_of_equal(weight: float, count: int, wanted: float) -> int:
    """What `_first` says of so many weights that are the same, whose sums are exact."""
    if weight <= 0:
        return count if wanted > 0 else 1
    number = max(1, min(count, math.ceil(wanted / weight)))
    while number > 1 and (number - 1) * weight >= wanted:
        number -= 1
    while number < count and number * weight < wanted:
        number += 1
    return number


def _first(weights: Floats, wanted: float) -> int:
    """How many of the first weights come to ``wanted``; all where these do not."""
    chunks = len(weights) // _CHUNK
    sums = np.cumsum(weights[: chunks * _CHUNK].reshape(chunks, _CHUNK).sum(axis=1, dtype=np.float64))
    chunk = int(np.searchsorted(sums, wanted))
    before = float(sums[chunk - 1]) if chunk else 0.0
    inside = np.cumsum(weights[chunk * _CHUNK : (chunk + 1) * _CHUNK], dtype=np.float64)
    return min(chunk * _CHUNK + int(np.searchsorted(inside, wanted - before)) + 1, len(weights))
