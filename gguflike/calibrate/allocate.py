"""Which type each tensor gets, so that all together are at most a number of bytes and cost least.

The cost of a tensor in a type is what the model's divergence grows by, estimated by whoever measures it. Costs of
different tensors add up (HIGGS, arXiv:2411.17525), so that the best choice is a knapsack. It is solved by dynamic
programming over bytes. Steps in order of what a byte gains, on the lower convex hull of each tensor's (bytes, cost),
would lead to the best choice but for those that do not fit in the end: that is little where all tensors are small, and
much where an embedding is a fifth of the model. They serve where so many bytes are possible that they are rounded up.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import gcd
from typing import NamedTuple

import numpy as np

from gguflike.errors import ArgumentError

STATES = 1 << 16
"""Numbers of bytes that are told apart at most: where there are more, sizes are rounded up to some of them."""


class Candidate(NamedTuple):
    """A tensor in a type: the bytes that it takes in the file, padding included, and its ``cost`` (lower is better)."""

    type: str
    nbytes: int
    cost: float


Candidates = Mapping[str, Sequence[Candidate]]
Chosen = dict[str, Candidate]


def allocate(candidates: Candidates, budget: int) -> Chosen:
    """One candidate for each tensor, of at most ``budget`` bytes together.

    ArgumentError, with the smallest possible number of bytes, where there is no such choice.
    """
    smallest = {name: hull(each)[0] for name, each in candidates.items()}
    left = budget - sum(each.nbytes for each in smallest.values())
    if left < 0:
        raise ArgumentError("no choice of types is so small", expected=f"at least {budget - left} bytes", got=budget)
    return min(
        (way(candidates, smallest, left) for way in (_programmed, _stepwise)),
        key=lambda chosen: sum(each.cost for each in chosen.values()),
    )


def _programmed(candidates: Candidates, smallest: Chosen, left: int) -> Chosen:
    """The choice that costs least of at most ``left`` bytes more than the ``smallest``, as far as they are counted."""
    grows = {name: [each.nbytes - smallest[name].nbytes for each in points] for name, points in candidates.items()}
    unit = gcd(*(each for sizes in grows.values() for each in sizes)) or 1
    unit *= -(-(left // unit + 1) // STATES)
    costs = np.zeros(left // unit + 1)  # of the tensors so far, by the units that they may take
    picks = []
    for name, points in candidates.items():
        least, pick = np.full_like(costs, np.inf), np.zeros(len(costs), np.int16)
        for number, (point, size) in enumerate(zip(points, grows[name], strict=True)):
            units = -(-size // unit)
            if units < len(costs):
                each = costs[: len(costs) - units] + point.cost
                better = each < least[units:]
                np.copyto(least[units:], each, where=better)
                np.copyto(pick[units:], number, where=better)
        costs = least
        picks.append(pick)
    chosen, at = dict(smallest), len(costs) - 1
    for (name, points), pick in zip(reversed(list(candidates.items())), reversed(picks), strict=True):
        chosen[name] = points[pick[at]]
        at -= -(-grows[name][pick[at]] // unit)
    return _filled(candidates, chosen, left - sum(each.nbytes - smallest[name].nbytes for name, each in chosen.items()))


def _stepwise(candidates: Candidates, smallest: Chosen, left: int) -> Chosen:
    """The choice of at most ``left`` bytes more than the ``smallest`` that steps on the hulls lead to, the steepest
    first: Lagrange's multiplier without a search for it. What is left over is filled greedily, off the hull, too."""
    hulls, chosen = {name: hull(each) for name, each in candidates.items()}, dict(smallest)
    steps = [(_slope(each[0], each[1]), name, 1) for name, each in sorted(hulls.items()) if len(each) > 1]
    heapq.heapify(steps)  # the steepest fall of the cost first
    while steps:
        _, name, place = heapq.heappop(steps)
        points = hulls[name]
        grows = points[place].nbytes - chosen[name].nbytes
        if grows > left:
            continue  # smaller ones of other tensors may fit
        chosen[name], left = points[place], left - grows
        if place + 1 < len(points):
            heapq.heappush(steps, (_slope(points[place], points[place + 1]), name, place + 1))
    return _filled(candidates, chosen, left)


def _filled(candidates: Candidates, chosen: Chosen, left: int) -> Chosen:
    """The choice with what is left of the budget spent where a byte still gains most."""
    while True:
        better = [
            (_slope(chosen[name], each), name, each)
            for name, points in candidates.items()
            for each in points
            if 0 <= each.nbytes - chosen[name].nbytes <= left and each.cost < chosen[name].cost
        ]
        if not better:
            return chosen
        _, name, taken = min(better)
        left -= taken.nbytes - chosen[name].nbytes
        chosen[name] = taken


def hull(points: Sequence[Candidate]) -> list[Candidate]:
    """The candidates on the lower convex hull of cost over bytes, the smallest first, each cheaper than the last."""
    kept: list[Candidate] = []
    for point in sorted(points, key=lambda each: (each.nbytes, each.cost, each.type)):
        if kept and point.cost >= kept[-1].cost:
            continue  # no better, and no smaller
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(small: Candidate, large: Candidate) -> float:
    """The change of the cost for each byte more: -infinity where there are none."""
    grows = large.nbytes - small.nbytes
    return (large.cost - small.cost) / grows if grows else float("-inf")
