"""Types under a limit of bytes: the knapsack against trying everything, exchanges against what is measured."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gguflike.calibrate import allocate as allocate_module
from gguflike.calibrate.allocate import Candidate, allocate, hull
from gguflike.errors import ArgumentError


def candidates(seed: int, tensors: int = 5, types: int = 4) -> dict[str, list[Candidate]]:
    """Costs that fall with bytes, not always steadily, and types that are no use at all."""
    rng = np.random.default_rng(seed)
    return {
        f"t{i}": [
            Candidate(f"Q{j}", 32 * int(rng.integers(1, 4) + 3 * j), float(rng.uniform(0.3, 3) * 4.0**-j))
            for j in range(types)
        ]
        for i in range(tensors)
    }


def best(of: dict[str, list[Candidate]], budget: int) -> float:
    """The least cost there is, by trying all choices."""
    every = itertools.product(*of.values())
    return min(sum(e.cost for e in each) for each in every if sum(e.nbytes for e in each) <= budget)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_best_choice_within_the_limit(seed: int) -> None:
    of = candidates(seed)
    least = sum(min(each.nbytes for each in points) for points in of.values())
    most = sum(max(each.nbytes for each in points) for points in of.values())
    for budget in (least, (2 * least + most) // 3, (least + most) // 2, most):
        chosen = allocate(of, budget)
        assert sum(each.nbytes for each in chosen.values()) <= budget
        assert all(each in of[name] for name, each in chosen.items())
        assert sum(each.cost for each in chosen.values()) == pytest.approx(best(of, budget))
    cheapest = sum(min(each.cost for each in points) for points in of.values())
    assert sum(each.cost for each in allocate(of, most).values()) == pytest.approx(cheapest)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_near_the_best_choice_where_bytes_are_counted_coarsely(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = candidates(seed)
    budget = sum(min(each.nbytes for each in points) + 100 for points in of.values())
    for states in (1, 2, 5, 9):
        monkeypatch.setattr(allocate_module, "STATES", states)
        chosen = allocate(of, budget)
        assert sum(each.nbytes for each in chosen.values()) <= budget
        assert sum(each.cost for each in chosen.values()) <= 1.35 * best(of, budget)


def test_a_large_step_takes_the_place_of_small_ones_that_gain_less() -> None:
    """Small steps are steeper up to where the large one does not fit any more, of which the last gain little."""
    small = [Candidate("Q4", 100, 4.0), Candidate("Q5", 200, 2.5), Candidate("Q6", 300, 1.2)]
    of = {
        **{f"t{i}": small for i in range(6)},
        "embedding": [Candidate("Q5", 1000, 9.0), Candidate("Q6", 1600, 0.3)],
    }
    chosen = allocate(of, 2500)
    assert chosen["embedding"].type == "Q6"
    assert sum(each.nbytes for each in chosen.values()) == 2500
    assert sum(each.cost for each in chosen.values()) == pytest.approx(best(of, 2500))


def test_what_is_left_over_is_spent() -> None:
    """The large step of one tensor does not fit, nor does the next on the hull of the other; one off the hull does."""
    of = {
        "a": [Candidate("small", 100, 10.0), Candidate("large", 400, 0.0)],
        "b": [Candidate("small", 100, 5.0), Candidate("middle", 150, 4.9), Candidate("large", 300, 0.5)],
    }
    assert [each.type for each in allocate(of, 260).values()] == ["small", "middle"]


def test_the_hull_falls_ever_less_steeply() -> None:
    points = [Candidate(str(i), size, cost) for i, (size, cost) in enumerate([(1, 9), (2, 8), (3, 3), (4, 4), (5, 2)])]
    assert [point.nbytes for point in hull(points)] == [1, 3, 5]
    assert hull([Candidate("a", 1, 2.0), Candidate("b", 1, 1.0)]) == [Candidate("b", 1, 1.0)]


def test_what_is_too_small_says_what_there_is() -> None:
    with pytest.raises(ArgumentError, match="expected at least 160 bytes; got 100"):
        allocate({"a": [Candidate("Q", 96, 1.0)], "b": [Candidate("Q", 64, 1.0)]}, 100)
