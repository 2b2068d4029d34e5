"""Static ranges of activations: observers, mappings and what they leave of a distribution."""

from __future__ import annotations

import numpy as np
import pytest

from gguflike import reference
from gguflike.calibrate import ranges
from gguflike.calibrate.ranges import BINS, Observer, Range, Seen
from gguflike.reference.rounded import RoundedInputs
from tests import by_hand
from tests.test_folds import random_weights

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal((3000, 16)).astype(np.float32)


def seen(x: np.ndarray, by: ranges.Redistribution | None = None) -> Seen:
    observer = Observer(x.shape[1], by)
    for start in range(0, len(x), 500):
        observer.add(x[start : start + 500])
    result = observer.result()
    assert result is not None
    return result


def loss(x: np.ndarray, of: Range) -> float:
    return float(np.square(of.apply(x) - x).mean())


def test_what_is_observed() -> None:
    x = NORMAL.copy()
    x[0] *= 0.01  # a small slab first, so that the histogram grows
    x[1600, 3] = 1000  # a massive row
    found = seen(x)
    usual = np.delete(x, 1600, axis=0)
    assert (found.low, found.high) == (usual.min(), usual.max())
    assert found.massive == 1
    assert found.histogram.sum() == usual.size
    assert np.array_equal(found.channel_high, usual.max(axis=0))
    centres = (np.arange(BINS) + 0.5) * 2 * found.edge / BINS - found.edge
    assert abs((found.histogram * centres**2).sum() / usual.size - np.square(usual).mean()) < 1e-3
    assert found.low <= found.average_low < 0 < found.average_high <= found.high
    assert abs(found.average_largest - np.abs(usual).max(axis=1).mean()) < 1e-4
    assert Observer(4).result() is None


@pytest.mark.parametrize("kind", ["symmetric", "one-sided", "asymmetric"])
@pytest.mark.parametrize("bits", [8, 6])
def test_mappings_round_to_the_nearest_of_their_integers(kind: ranges.Kind, bits: int) -> None:
    of = Range(0.0 if kind == "one-sided" else -0.5, 2.0, bits, kind)
    x = np.linspace(-3, 3, 5001, dtype=np.float32)
    got = of.apply(x)
    assert len(np.unique(got)) <= 2**bits
    low = {"symmetric": -2.0, "one-sided": 0.0, "asymmetric": -0.5}[kind]
    inside = (x >= low + of.step) & (x <= 2 - of.step)
    assert np.abs(got - x)[inside].max() <= of.step * 0.5001
    assert abs(got.min() - low) <= of.step
    assert abs(got.max() - 2) <= of.step
    assert of.apply(np.zeros(1, np.float32))[0] == 0
    assert (Range(0, 0, bits, kind).apply(x) == 0).all()


def test_the_range_of_least_error_beats_the_others_where_tails_are_heavy() -> None:
    x = (NORMAL**3).astype(np.float32)
    found = seen(x)
    for bits in (4, 6):
        least = loss(x, ranges.least_error(found, bits))
        assert least < 0.8 * loss(x, ranges.extremes(found, bits))
        for other in (ranges.moving_average, ranges.percentile):
            assert least <= 1.02 * loss(x, other(found, bits)), other
    of = Range(-1, 1, 6)
    assert abs(ranges.error(seen(NORMAL), of) / loss(NORMAL, of) - 1) < 0.01


def test_the_mapping_follows_the_distribution() -> None:
    assert ranges.hybrid(seen(NORMAL)).kind == "symmetric"
    positive = np.maximum(NORMAL, 0) ** 2
    assert ranges.hybrid(seen(positive)).kind == "one-sided"
    assert loss(positive, ranges.hybrid(seen(positive))) < 0.5 * loss(positive, ranges.least_error(seen(positive)))
    negative = -positive
    assert loss(negative, ranges.hybrid(seen(negative))) < 0.5 * loss(negative, ranges.least_error(seen(negative)))
    skewed = np.where(NORMAL < 0, NORMAL * np.float32(0.3), NORMAL)
    assert ranges.hybrid(seen(skewed)).kind == "asymmetric"
    assert loss(skewed, ranges.hybrid(seen(skewed))) < loss(skewed, ranges.least_error(seen(skewed)))


def test_redistribution_makes_channels_alike() -> None:
    x = NORMAL * np.geomspace(0.1, 10, 16, dtype=np.float32) + np.arange(16, dtype=np.float32)
    by = ranges.redistribution(seen(x))
    assert np.abs(by.backward(by.forward(x)) - x).max() < 1e-4
    moved = seen(x, by)
    assert np.ptp(moved.channel_high - moved.channel_low) < 1e-3 * (moved.high - moved.low)
    relative = np.square(by.backward(ranges.hybrid(moved).apply(by.forward(x))) - x) / np.square(x.std(axis=0))
    plain = np.square(ranges.hybrid(seen(x)).apply(x) - x) / np.square(x.std(axis=0))
    assert relative.mean() < 0.1 * plain.mean()
    dead = ranges.redistribution(seen(np.zeros((5, 3), np.float32)))
    assert dead.scale.tolist() == [1, 1, 1]


def test_a_model_whose_inputs_are_rounded() -> None:
    """Every matrix rounds what it reads, by its name."""
    made = by_hand.graph()
    weights = {name: value.astype(np.float32) for name, value in random_weights(made).items()}
    names = []

    def nothing(name: str, x: np.ndarray) -> np.ndarray:
        names.append(name)
        return x

    want = reference.logits(made, weights, by_hand.IDS)
    got = reference.logits(made, RoundedInputs(weights, nothing), by_hand.IDS)  # type: ignore[arg-type]
    assert np.array_equal(got, want)
    assert sorted(names) == sorted(
        [f"blk.0.{role}.weight" for role in ("attn_q", "attn_k", "attn_v", "attn_output")]
        + [f"blk.0.ffn_{role}.weight" for role in ("gate", "up", "down")]
        + ["output.weight"]
    )
    coarse = reference.logits(made, RoundedInputs(weights, lambda _, x: np.round(x)), by_hand.IDS)  # type: ignore[arg-type]
    assert np.abs(coarse - want).max() > 0.01
