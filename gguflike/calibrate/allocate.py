"""Which type each tensor gets, so that all together are at most a number of bytes and cost least.

The cost of a tensor in a type is what the model's divergence grows by, estimated by whoever measures it. Costs of
different tensors add up (HIGGS, arXiv:2411.17525), so that the best choice is a knapsack: on the lower convex hull of
each tensor's (bytes, cost), steps are taken in order of what a byte gains, which is Lagrange's multiplier without a
search for it; what is left over is then filled greedily, off the hull, too.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gguflike.errors import ArgumentError


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
    hulls = {name: hull(each) for name, each in candidates.items()}
    chosen = {name: each[0] for name, each in hulls.items()}
    left = budget - sum(each.nbytes for each in chosen.values())
    if left < 0:
        raise ArgumentError("no choice of types is so small", expected=f"at least {budget - left} bytes", got=budget)
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
