"""Which type each tensor gets, so that all together are at most a number of bytes and cost least.

The cost of a tensor in a type is what the model's divergence grows by, estimated by whoever measures it. Costs of
different tensors add up (HIGGS, arXiv:2411.17525), so that the best choice is a knapsack: on the lower convex hull of
each tensor's (bytes, cost), steps are taken in order of what a byte gains, which is Lagrange's multiplier without a
search for it; what is left over is then filled greedily, off the hull, too.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
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


def polish(
    candidates: Candidates, chosen: Chosen, budget: int, measure: Callable[[Chosen], float], measurements: int
) -> tuple[Chosen, list[float]]:
    """A better choice, found by exchanging: one tensor goes up a level, another goes down one, and it stays so where
    ``measure``, the divergence itself, falls.

    Exchanges are tried in the order of what the costs say that they gain, at most so many ``measurements`` in all, the
    first of which is of the choice as given. Also what was measured of each choice that was kept, which never rises.
    """
    ladders = {name: sorted(hull(each), key=lambda point: point.nbytes) for name, each in candidates.items()}
    best = measure(chosen)
    history = [best]
    tried: set[tuple[tuple[str, str], ...]] = set()
    for _ in range(measurements - 1):
        exchange = _next_exchange(ladders, chosen, budget, tried)
        if exchange is None:
            break
        tried.add(_key(exchange))
        moved = {**chosen, **exchange}
        measured = measure(moved)
        if measured < best:
            chosen, best = moved, measured
            history.append(best)
            tried.clear()
    return chosen, history


def _next_exchange(
    ladders: Mapping[str, Sequence[Candidate]], chosen: Chosen, budget: int, tried: set[tuple[tuple[str, str], ...]]
) -> Chosen | None:
    """The exchange of two tensors that costs least by the estimates, of those that fit and were not tried."""
    left = budget - sum(each.nbytes for each in chosen.values())
    ups, downs = [], []
    for name, points in ladders.items():
        now = chosen[name]
        above = next((each for each in points if each.nbytes > now.nbytes), None)
        below = next((each for each in reversed(points) if each.nbytes < now.nbytes), None)
        if above is not None:
            ups.append((above.cost - now.cost, name, above))
        if below is not None:
            downs.append((below.cost - now.cost, name, below))
    found: list[tuple[float, str, str, Chosen]] = []
    for gain, up, above in ups:
        for loss, down, below in downs:
            grows = above.nbytes - chosen[up].nbytes + below.nbytes - chosen[down].nbytes
            exchange = {up: above, down: below}
            if up != down and grows <= left and _key(exchange) not in tried:
                found.append((gain + loss, up, down, exchange))
    return min(found, key=lambda each: each[:3])[3] if found else None


def _key(exchange: Chosen) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, each.type) for name, each in exchange.items()))
