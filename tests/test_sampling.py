"""Sampling: every step against its formula written once more, in float64 and without any of its short cuts."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflike.errors import ArgumentError, ArgumentTypeError
from gguflike.runner.sampling import ORDER, Sampler, Sampling, chain, shares
from gguflike.runner.sampling.candidates import Candidates, best
from gguflike.runner.sampling.chain import STEPS, Chain
from gguflike.runner.sampling.keywords import Settings
from gguflike.runner.sampling.shares import greatest
from gguflike.runner.sampling.weights import flagged, masked, mean_below, weigh

FEW = np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.15], np.float32))
RNG = np.random.default_rng(5)
#: A vocabulary that is small, one that has columns, and one whose logits are whole numbers, so that many are equal.
MANY = (RNG.standard_normal(12_345) * 3).astype(np.float32)
VOCABULARIES = {"few": FEW, "some": MANY[:300], "many": MANY, "equal": np.round(MANY[:9000])}


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - float(np.max(logits)))
    return e / e.sum()


def ranked(logits: np.ndarray) -> list[int]:
    return sorted(range(len(logits)), key=lambda i: (-float(logits[i]), i))


def cut(logits: np.ndarray, kept: Any) -> np.ndarray:
    out = np.full(len(logits), -np.inf)
    kept = list(kept)
    out[kept] = logits[kept]
    return out


def fewest(order: list[int], p: np.ndarray, share: float) -> list[int]:
    kept, total = [], 0.0
    for i in order:
        kept.append(i)
        total += p[i]
        if total >= share:
            break
    return kept


# The formulas


def top_k(x: np.ndarray, k: int) -> np.ndarray:
    return cut(x, ranked(x)[:k])


def top_p(x: np.ndarray, share: float) -> np.ndarray:
    return cut(x, fewest(ranked(x), softmax(x), share))


def min_p(x: np.ndarray, share: float) -> np.ndarray:
    p = softmax(x)
    return cut(x, np.flatnonzero(p >= share * p.max() * (1 - 1e-12)))


def typical_p(x: np.ndarray, share: float) -> np.ndarray:
    p = softmax(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(p * np.log(p))
        away = np.abs(-np.log(p) - entropy)
    return cut(x, fewest(sorted(range(len(x)), key=lambda i: (away[i], i)), p, share))


def top_n_sigma(x: np.ndarray, n: float) -> np.ndarray:
    finite = x[np.isfinite(x)].astype(np.float64)
    return cut(x, np.flatnonzero(x >= x.max() - n * finite.std()))


def xtc(x: np.ndarray, threshold: float) -> np.ndarray:
    p = softmax(x)
    above = [i for i in ranked(x) if p[i] >= threshold]
    return cut(x, set(range(len(x))) - set(above[:-1]))


def temperature(x: np.ndarray, t: float) -> np.ndarray:
    return top_k(x, 1) if t == 0 else x.astype(np.float64) / t


def distribution(sampling: Sampling, logits: np.ndarray, tokens: Any = ()) -> np.ndarray:
    """The probabilities from which a chain draws, as an array over the vocabulary."""
    chain, candidates = Chain(sampling, tokens, None), Candidates(logits)
    for step in sampling.order:
        if sampling.uses(step):
            STEPS[step](candidates, chain)
    p = np.zeros(len(logits))
    weights, total = candidates.weights()
    p[candidates.ids] = weights / total
    return p


CASES: dict[str, tuple[Sampling, Callable[[np.ndarray], np.ndarray]]] = {
    "temperature": (Sampling(0.5), lambda x: temperature(x, 0.5)),
    "top_k": (Sampling(1.0, top_k=3), lambda x: top_k(x, 3)),
    "top_k of many": (Sampling(1.0, top_k=400), lambda x: top_k(x, 400)),
    "top_k of all": (Sampling(1.0, top_k=10**9), lambda x: x),
    "top_p": (Sampling(1.0, top_p=0.69), lambda x: top_p(x, 0.69)),
    "top_p of little": (Sampling(1.0, top_p=0.001), lambda x: top_p(x, 0.001)),
    "top_p of much": (Sampling(1.0, top_p=0.999), lambda x: top_p(x, 0.999)),
    "min_p": (Sampling(1.0, min_p=0.3), lambda x: min_p(x, 0.3)),
    "min_p of little": (Sampling(1.0, min_p=1e-4), lambda x: min_p(x, 1e-4)),
    "typical_p": (Sampling(1.0, typical_p=0.6), lambda x: typical_p(x, 0.6)),
    "top_n_sigma": (Sampling(1.0, top_n_sigma=1.0), lambda x: top_n_sigma(x, 1.0)),
    "xtc": (Sampling(1.0, xtc_probability=1.0, xtc_threshold=0.02), lambda x: xtc(x, 0.02)),
    "usual": (
        Sampling(0.8, top_k=40, top_p=0.95, min_p=0.05),
        lambda x: temperature(min_p(top_p(top_k(x, 40), 0.95), 0.05), 0.8),
    ),
    "all cuts": (
        Sampling(0.7, 200, 0.9, 0.02, 0.8, 2.5, 1.0, 0.05),
        lambda x: temperature(xtc(min_p(top_p(typical_p(top_k(top_n_sigma(x, 2.5), 200), 0.8), 0.9), 0.02), 0.05), 0.7),
    ),
    "another order": (
        Sampling(2.0, top_p=0.6, min_p=0.3, order=("temperature", "min_p", "top_p")),
        lambda x: top_p(min_p(temperature(x, 2.0), 0.3), 0.6),
    ),
    "min_p behind temperature and xtc": (
        Sampling(1.5, min_p=0.05, xtc_probability=1.0, xtc_threshold=0.06, order=("xtc", "temperature", "min_p")),
        lambda x: min_p(temperature(xtc(x, 0.06), 1.5), 0.05),
    ),
}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("name", CASES)
def test_steps_are_their_formulas(name: str, vocabulary: str) -> None:
    sampling, formula = CASES[name]
    logits = VOCABULARIES[vocabulary]
    before = logits.copy()
    got, want = distribution(sampling, logits), softmax(formula(logits))
    assert np.array_equal(got > 0, want > 0)
    assert np.allclose(got, want, rtol=2e-5, atol=1e-9)
    assert np.array_equal(logits, before)


def logits_of(size: int) -> dict[str, np.ndarray]:
    """Logits of a vocabulary: a few likely tokens, many, equal ones, zeros of either sign, forbidden ones."""
    rng = np.random.default_rng(7)
    flat = (rng.standard_normal(size) * 3).astype(np.float32)
    peaked = flat / 2
    peaked[rng.permutation(size)[:40]] += np.linspace(16, 2, 40, dtype=np.float32)
    equal = np.round(flat)
    equal[::3] *= -0.0
    forbidden = np.where(rng.random(size) < 0.7, np.float32(-np.inf), flat)
    made = {"flat": flat, "peaked": peaked, "equal": equal, "forbidden": forbidden, "one": np.zeros(size, np.float32)}
    return {**made, "two": (flat > 0).astype(np.float32), "halves": np.repeat(np.float32([2, 1]), -(-size // 2))[:size]}


@pytest.mark.parametrize("size", [50, 3000, 40_000])
@pytest.mark.parametrize("share", [1e-4, 0.3, 0.95, 0.9999])
def test_shares_are_those_of_all_in_order(share: float, size: int) -> None:
    """What a share leaves is what sorting all by (key, id) and summing up gives, bit for bit, and so is the order of
    a short list."""
    for logits in logits_of(size).values():
        weights, total = Candidates(logits).weights()
        weights, centre = weights.copy(), np.float32(logits.max() + mean_below(logits, float(logits.max())))
        p, finite = weights / total, logits > -np.inf
        assert math.isclose(centre, np.dot(p[finite].astype(np.float64), logits[finite]), abs_tol=1e-4)
        for step, keys in (("keep_likeliest", logits), ("keep_typical", -np.abs(logits - centre))):
            order = np.lexsort((np.arange(size), -keys))
            sums = np.cumsum(weights[order], dtype=np.float64)
            wanted = order[: int(np.searchsorted(sums, share * sums[-1])) + 1]
            candidates = Candidates(logits)
            getattr(candidates, step)(share)
            if candidates.whole:
                assert len(wanted) > size // 8
                left = np.full(size, np.float32(-np.inf))
                left[wanted] = logits[wanted]
                assert np.array_equal(candidates.logits, left)
                continue
            wanted = wanted if len(wanted) <= 2048 else np.sort(wanted)
            assert np.array_equal(candidates.ids, wanted)
            assert np.array_equal(candidates.logits, logits[wanted])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 1024, 2049, 30_000])
def test_a_share_is_that_of_a_sum_in_order(size: int, kind: type) -> None:
    """Weights are whole numbers here, so that sums are exact, and independent of the keys."""
    rng = np.random.default_rng(size)
    some = rng.standard_normal(size).astype(np.float32)
    heavy = np.where(rng.random(size) < 3 / size, 10.0**6, 1.0)
    two_sided = np.where(rng.random(size) < 0.5, np.float32(1), np.float32(2))
    cases = [(some, rng.integers(0, 9, size)), (some, heavy), (np.sort(some), heavy), (two_sided, heavy)]
    cases += [(np.round(some), rng.integers(0, 3, size)), (np.zeros(size, np.float32), rng.integers(0, 3, size))]
    cases += [(some, np.zeros(size)), (np.where(some > 0, some, np.float32(-np.inf)), heavy)]
    # Many that only ever longer distances tell apart, and one that hides all others.
    cases += [(-np.exp(8 * some), heavy), (np.where(np.arange(size) == size // 2, np.float32(1e30), some), heavy)]
    for keys, numbers in cases:
        keys, weights = keys.astype(kind), numbers.astype(np.float32)
        total = float(weights.sum(dtype=np.float64))
        order = np.argsort(-keys, kind="stable")
        sums = np.cumsum(weights[order], dtype=np.float64)
        for wanted in (0.0, 1.0, total / 3, total / 2, 0.99 * total, total, total + 1):
            last = min(int(np.searchsorted(sums, wanted)), size - 1)
            assert np.array_equal(np.sort(greatest(keys, weights, wanted)), np.sort(order[: last + 1]))


@pytest.mark.parametrize("step", ["keep_likeliest", "keep_typical"])
def test_logits_that_are_no_numbers_leave_all(step: str) -> None:
    for size in (50, 5000):
        logits = np.zeros(size, np.float32)
        logits[size // 2] = np.nan
        candidates = Candidates(logits)
        getattr(candidates, step)(0.5)
        assert len(candidates) == size


@pytest.mark.parametrize("name", ["usual", "temperature", "typical_p", "all cuts"])
def test_steps_with_a_mask(name: str) -> None:
    """A forbidden token is as one of minus infinity, also where the likeliest is forbidden or few are left."""
    sampling, formula = CASES[name]
    for share in (0.95, 0.5, 0.002):
        allowed = np.random.default_rng(1).random(len(MANY)) < share
        want = softmax(formula(np.where(allowed, MANY, np.float32(-np.inf))))
        sampler = Sampler(sampling_with_seed(sampling, 3))
        mask = bits(allowed)
        drawn = {sampler.choose(MANY, mask) for _ in range(100)}
        assert all(want[token] > 0 for token in drawn)
        assert drawn >= set(np.flatnonzero(want > 0.1).tolist())


def bits(allowed: np.ndarray) -> np.ndarray:
    words = np.zeros(-(-len(allowed) // 32), np.uint32)
    for i in np.flatnonzero(allowed).tolist():
        words[i // 32] |= np.uint32(1 << (i % 32))
    return words


def sampling_with_seed(sampling: Sampling, seed: int) -> Sampling:
    from gguflike.frozen import replace

    return replace(sampling, seed=seed)


BITS = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from gguflike.runner.sampling import Sampler, Sampling
from tests.test_sampling import logits_of
for logits in logits_of(20_001).values():
    for settings in ({}, {"top_p": 0.9}, {"typical_p": 0.9}, {"min_p": 1e-3}, {"top_n_sigma": 1.5}, {"mirostat": 2}):
        sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": 5, **settings}))
        print([sampler.choose(logits) for _ in range(8)])
"""
AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4"


@pytest.mark.slow
def test_other_machines_draw_the_same_tokens() -> None:
    """With vectors of AVX2 and of AVX-512, in kernels and in numpy, and in kernels for the plainest CPU."""
    drawn = set()
    for name, features, without in (("", "", ""), ("haswell", "+avx2,+fma,+f16c", AVX512), ("generic", "", AVX512)):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_CPU", "NPY_"))}
        if name:
            env |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NPY_DISABLE_CPU_FEATURES": without}
        script = [sys.executable, "-W", "ignore", "-c", BITS, str(Path(__file__).parent.parent)]
        drawn.add(subprocess.run(script, env=env, capture_output=True, check=True).stdout)
    assert len(drawn) == 1


# The draw


@pytest.mark.parametrize("name", ["temperature", "usual", "all cuts", "typical_p"])
@pytest.mark.parametrize("vocabulary", ["few", "some"])
def test_draws_follow_the_distribution(name: str, vocabulary: str) -> None:
    """Chi-square: with so many classes it stays below this in all but one case of a million; the seed is fixed."""
    sampling, formula = CASES[name]
    logits = VOCABULARIES[vocabulary]
    want, count = softmax(formula(logits)), 2000
    sampler = Sampler(sampling_with_seed(sampling, 11))
    seen = np.bincount([sampler.choose(logits) for _ in range(count)], minlength=len(logits))
    assert not seen[want == 0].any()
    likely = want * count >= 5
    rest = (seen[~likely].sum(), want[~likely].sum() * count)
    square = float(((seen[likely] - want[likely] * count) ** 2 / (want[likely] * count)).sum())
    square += (rest[0] - rest[1]) ** 2 / rest[1] if rest[1] > 1e-9 else 0.0
    classes = int(likely.sum())
    assert square < classes + 5 * math.sqrt(2 * classes) + 15


def vocabularies(size: int) -> list[np.ndarray]:
    """Logits of each shape, with some forbidden ones, as rows of a matrix in which they do not stand together."""
    made = list(logits_of(size).values())
    return [np.stack([logits, logits], axis=1)[:, 0] for logits in made] + [made[0] * 40, made[0] - 1e6]


@pytest.mark.parametrize("size", [2049, 5000, 16_384, 40_007])
def test_weights_of_a_vocabulary(size: int) -> None:
    for logits in vocabularies(size):
        most = float(logits.max())
        weights, columns = weigh(logits, most)
        want = np.exp((logits - np.float32(most)).astype(np.float64))
        large = want > 1.3e-38
        assert np.allclose(weights[large], want[large], rtol=3e-7, atol=0)
        assert not weights[want < 1.1e-38].any()
        assert weights.max() == 1
        by_column = np.bincount(np.arange(size) % 1024, weights, 1024)
        assert np.allclose(columns, by_column, rtol=1e-5, atol=0)
        finite = logits > -np.inf
        mean = np.average(logits[finite].astype(np.float64), weights=want[finite])
        assert math.isclose(most + mean_below(logits, most), mean, rel_tol=1e-6, abs_tol=1e-4)


@pytest.mark.parametrize("size", [1, 17, 5000])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.6, 1.0])
def test_flags(size: int, share: float) -> None:
    flags = RNG.random(size) < share
    logits = RNG.standard_normal(size).astype(np.float32)
    assert np.array_equal(masked(logits, flags), np.where(flags, logits, np.float32(-np.inf)))
    places = flagged(flags, int(flags.sum()))
    assert np.array_equal(places, np.flatnonzero(flags))
    assert places.dtype == np.int64


@given(st.integers(2049, 5000), st.integers(0, 99), st.floats(0.01, 30), st.floats(1e-6, 1 - 1e-6), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_shares_of_any_logits(size: int, seed: int, spread: float, share: float, places: int) -> None:
    """As all in order give them, but that a share may end where it does to a millionth."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal(size) * spread, places).astype(np.float32)
    logits[rng.random(size) < 0.1] = -np.inf
    p = softmax(logits)
    for keys, kept in (
        (logits, shares.nearest(logits, float(logits.max()), share)),
        (-np.abs(logits - np.float32(0.3)), shares.nearest(logits, float(logits.max()), share, 0.3)),
    ):
        order = np.lexsort((np.arange(size), -keys))
        count = int(np.count_nonzero(kept))
        assert np.array_equal(np.sort(order[:count]), np.flatnonzero(kept))
        assert p[order[:count]].sum() >= share - 1e-6
        assert p[order[: count - 1]].sum() < share + 1e-6


def test_a_draw_of_a_whole_vocabulary() -> None:
    """As many draws at shares that are evenly spread give every token as often as it is likely, to within one."""
    p, count = softmax(MANY * np.float32(1.5)), 3000
    few = np.zeros(len(MANY))
    for i in range(count):
        token, probability = Candidates(MANY * np.float32(1.5)).draw((i + 0.5) / count)
        few[token] += 1
        assert math.isclose(probability, p[token], rel_tol=1e-4)
    assert np.abs(few - p * count).max() < 1.01


def test_what_cannot_be_drawn_is_not_drawn() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[3] = 0
    for uniform in (0.0, 0.5, 1 - 1e-16):
        assert Candidates(logits).draw(uniform)[0] == 3


def test_the_same_seed_draws_the_same_tokens() -> None:
    def text(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(1.0, seed=seed))
        other = Sampler(Sampling(1.0, seed=99))
        return [sampler.choose(MANY) + 0 * other.choose(FEW) for _ in range(20)]

    assert text(7) == text(7)
    assert text(7) != text(8)
    assert text(None) != text(None)


# Greedy


def test_greedy_is_the_first_argmax() -> None:
    sampler = Sampler(Sampling())
    assert sampler.choose(np.array([1, 3, 3, 2], np.float32)) == 1
    assert sampler.choose(np.array([1, 3, 3, 2], np.float32), np.array([0b1101], np.uint32)) == 2
    assert sampler.choose(np.array([1, 3, 3, 2], np.float32), np.array([0b1001], np.uint32)) == 3


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "top_n_sigma", "usual"])
def test_temperature_0_takes_the_likeliest(name: str) -> None:
    from gguflike.frozen import replace

    greedy = replace(CASES[name][0], temperature=0)
    assert greedy.greedy
    assert Sampler(greedy).choose(MANY) == int(MANY.argmax())
    # And the chain itself, which a bias makes necessary, takes the same.
    assert Sampler(replace(greedy, logit_bias={0: 0.0})).choose(MANY) == int(MANY.argmax())


def test_what_makes_temperature_0_another_token() -> None:
    assert not Sampling(typical_p=0.5).greedy
    assert not Sampling(xtc_probability=0.1).greedy
    assert Sampler(Sampling(xtc_probability=1.0, xtc_threshold=0.1, seed=0)).choose(FEW) == 2
    assert Sampler(Sampling(typical_p=0.1)).choose(FEW) == int(np.argmax(typical_p(FEW, 0.1)))
    assert not Sampling(logit_bias={3: 1}).greedy
    assert Sampling(repetition_penalty=2.0, penalty_last_n=0).greedy


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(1.0, top_k=2), Sampling(presence_penalty=1)])
def test_nothing_left(sampling: Sampling) -> None:
    with pytest.raises(ArgumentError, match="no token is left"):
        Sampler(sampling).choose(FEW, np.zeros(1, np.uint32))


def test_tokens_beyond_the_mask_are_forbidden() -> None:
    logits = np.zeros(40, np.float32)
    logits[35] = 9
    assert Sampler(Sampling()).choose(logits, np.array([2], np.uint32)) == 1
    assert Sampler(Sampling(1.0, seed=0)).choose(logits, np.array([2], np.uint32)) == 1


# Penalties and bias


def test_repetition_penalty() -> None:
    logits = np.array([4.0, 3.0, -1.0, -1.1], np.float32)
    window = Sampling(repetition_penalty=2.0, penalty_last_n=2)
    assert Sampler(window, [3, 0]).choose(logits) == 1  # 4 / 2 < 3
    assert Sampler(window, [0, 2, 2]).choose(logits) == 0  # out of the window
    assert logits.tolist() == [4.0, 3.0, -1.0, np.float32(-1.1)]
    low = np.array([-1.0, -1.5], np.float32)
    assert Sampler(window, [0]).choose(low) == 1  # a negative logit is pushed down, not up


@pytest.mark.parametrize("last", [-1, 3, 64])
@pytest.mark.parametrize("few", [False, True])
def test_penalties_are_their_formula(last: int, few: bool) -> None:
    order = ("top_k", "penalties") if few else ORDER
    sampling = Sampling(
        1.0,
        top_k=3 if few else 0,
        repetition_penalty=1.3,
        frequency_penalty=0.25,
        presence_penalty=0.5,
        penalty_last_n=last,
        order=order,
    )
    tokens = [1, 4, 1, 0, 3, 3, 3, 1, 2, 1]
    chain = Chain(sampling, tokens[:6], None)
    for token in tokens[6:]:
        chain.accept(token)
    looked_at = tokens if last == -1 else tokens[-last:]
    logits = np.array([-0.5, 2.0, 0.0, 1.0, -3.0], np.float32)
    want = logits.astype(np.float64)
    for i in range(5):
        if (count := looked_at.count(i)) > 0:
            want[i] = want[i] / 1.3 if want[i] > 0 else want[i] * 1.3
            want[i] -= 0.25 * count + 0.5
    candidates = Candidates(logits)
    for step in ("top_k", "penalties") if few else ("penalties",):
        STEPS[step](candidates, chain)
    kept = candidates.ids
    assert np.allclose(candidates.logits, want[kept], rtol=1e-6)
    assert len(kept) == (3 if few else 5)


def test_logit_bias() -> None:
    assert Sampler(Sampling(logit_bias={0: 5.0})).choose(FEW) == 0
    assert Sampler(Sampling(logit_bias={1: -math.inf})).choose(FEW) == 3
    p = distribution_with_bias({0: 1.0, 3: -2.0})
    want = softmax(FEW + np.array([1, 0, 0, -2, 0]))
    assert np.abs(p - want).max() < 0.04
    few = Sampler(Sampling(1.0, logit_bias={0: 100.0, 2: 5.0}, seed=1))
    assert few.choose(FEW, np.array([0b11100], np.uint32)) in (2, 3, 4)  # a bias does not undo a mask
    with pytest.raises(ArgumentError, match=r"logit_bias: no such token; expected 0 to 4; got 5"):
        Sampler(Sampling(logit_bias={5: 1.0})).choose(FEW)


def distribution_with_bias(bias: dict[int, float]) -> np.ndarray:
    sampler = Sampler(Sampling(1.0, logit_bias=bias, seed=4))
    return np.bincount([sampler.choose(FEW) for _ in range(2000)], minlength=5) / 2000


# DRY


def repeated(tokens: list[int], breaks: int, allowed: int) -> dict[int, int]:
    """What would prolong a repetition and how long the longest is, by comparing all with all."""
    longest: dict[int, int] = {}
    for place in range(len(tokens) - 1):
        length = 0
        while length <= place and tokens[place - length] == tokens[len(tokens) - 1 - length]:
            length += 1
        length = min(length, len(tokens) - breaks)
        if length >= allowed:
            longest[tokens[place + 1]] = max(longest.get(tokens[place + 1], 0), length)
    return longest


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 40), st.integers(1, 4), st.integers(-1, 12))
@settings(max_examples=150, deadline=None)
def test_dry_is_its_formula(tokens: list[int], prompt: int, allowed: int, last: int) -> None:
    sampling = Sampling(
        1.0,
        dry_multiplier=0.8,
        dry_base=1.5,
        dry_allowed_length=allowed,
        dry_penalty_last_n=last,
        dry_sequence_breakers=(),
    )
    chain = Chain(sampling, tokens[:prompt], None)
    for token in tokens[prompt:]:
        chain.accept(token)
    looked_at = tokens if last < 0 else tokens[max(0, len(tokens) - last) :]
    want = {token: 0.8 * 1.5 ** (length - allowed) for token, length in repeated(looked_at, 0, allowed).items()}
    if last == 0:
        assert chain.repetitions is None
        return
    assert chain.repetitions is not None
    ids, penalty = chain.repetitions.penalties()
    assert dict(zip(ids.tolist(), penalty.tolist(), strict=True)) == pytest.approx(want)


class Letters:
    """A tokenizer of single letters, and of "xy", "y." and "\\n"."""

    texts = ("a", "b", "c", "xy", "y.", "\n", ".", "y", "x")
    vocab_size = len(texts)

    def token_bytes(self, index: int) -> bytes:
        return self.texts[index].encode()

    def encode(self, text: str, add_special: bool) -> list[int]:
        assert not add_special
        return [self.texts.index(letter) for letter in text]


def test_dry_stops_at_breakers() -> None:
    sampling = Sampling(
        1.0, dry_multiplier=1.0, dry_base=2.0, dry_allowed_length=1, dry_sequence_breakers=("\n", "xy.")
    )

    def penalties(tokens: list[int]) -> dict[int, float]:
        chain = Chain(sampling, tokens[:3], Letters())  # type: ignore[arg-type]
        for token in tokens[3:]:
            chain.accept(token)
        assert chain.repetitions is not None
        ids, penalty = chain.repetitions.penalties()
        return dict(zip(ids.tolist(), penalty.tolist(), strict=True))

    assert penalties([0, 1, 2, 0, 1]) == {2: 2.0}  # a b c a b: 2 tokens long
    assert penalties([0, 1, 2, 5, 0, 1]) == {2: 2.0}
    assert penalties([0, 1, 2, 0, 5, 1]) == {2: 1.0}  # only b is behind the line's end
    assert penalties([0, 1, 2, 0, 3, 6, 1]) == {2: 1.0}  # "xy" "." is the other breaker in two tokens
    assert penalties([1, 2, 0, 8, 7, 6]) == {}  # and "x" "y" "." in three
    assert penalties([7, 2, 0, 8, 7]) == {2: 1.0}  # "x" "y" is none yet
    sampling = Sampling(dry_multiplier=1.0, dry_sequence_breakers=("\udcff",))  # a byte of the command line, no text
    assert Chain(sampling, [0, 1, 2, 0, 1], Letters()).repetitions is not None  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="dry_sequence_breakers: a tokenizer is needed"):
        Sampler(sampling, [1])


def test_dry_of_a_long_repetition_is_finite() -> None:
    sampling = Sampling(1.0, dry_multiplier=1e6, dry_base=100.0, dry_sequence_breakers=(), seed=0)
    sampler = Sampler(sampling, [0, 1] * 2000)
    assert sampler.choose(FEW) != 0
    sampler.accept(3)
    assert sampler.choose(FEW) in range(5)


# Mirostat


def test_mirostat_is_its_formula() -> None:
    sampling = Sampling(0.9, mirostat=2, mirostat_tau=3.0, mirostat_eta=0.3, seed=6)
    sampler, uniform, mu = Sampler(sampling), np.random.default_rng(6), 6.0
    logits = MANY[:300]
    surprises = []
    for _ in range(100):
        token = sampler.choose(logits)
        p = softmax(temperature(logits, 0.9))
        kept = [i for i in ranked(logits) if -math.log2(p[i]) <= mu] or ranked(logits)[:1]
        kept.sort()
        assert token in kept
        q = p[kept] / p[kept].sum()
        place = int(np.searchsorted(np.cumsum(q), uniform.random(), side="right"))
        assert kept[place] == token
        surprises.append(-math.log2(q[place]))
        mu -= 0.3 * (surprises[-1] - 3.0)
    assert abs(np.mean(surprises[20:]) - 3.0) < 0.4


# Log probabilities


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_logprobs(vocabulary: str) -> None:
    logits = VOCABULARIES[vocabulary]
    want = np.log(softmax(logits))
    for top in (0, 1, 5, 10**6):
        got = Sampler.logprobs(logits, 2, top)
        assert math.isclose(got.chosen, want[2], abs_tol=1e-5)
        assert [token for token, _ in got.alternatives] == ranked(logits)[:top]
        assert np.allclose([value for _, value in got.alternatives], want[ranked(logits)[:top]], atol=1e-5)


@pytest.mark.parametrize("count", [2, 40, 3000])
@pytest.mark.parametrize("size", [9000, 70_001])
def test_the_best_of_few_values_are_the_first(size: int, count: int) -> None:
    """In the order of their ids where there are many, which is what draws go by."""
    rng = np.random.default_rng(size)
    few = rng.integers(0, 5, size)
    some = np.where(rng.random(size) < 0.01, 7, few)  # above the bound, but not enough of them
    columns = np.where(np.arange(size) % 1024 < 30, few + 10, few)  # many of one column
    for values in (np.zeros(size), few, some, columns, np.sort(few), np.where(few > 3, few, -np.inf)):
        keys = values.astype(np.float32)
        places, wanted = best(keys, count), np.lexsort((np.arange(size), -keys))[:count]
        wanted = wanted[keys[wanted] > -np.inf]
        assert np.array_equal(np.sort(places[keys[places] > -np.inf]), np.sort(wanted))
        if np.count_nonzero(keys >= keys[wanted[-1]]) > 8 * count and size >= 8 * 8192:
            assert np.array_equal(places, np.sort(places))


@given(st.lists(st.integers(-3, 3) | st.just(-(10**9)), min_size=1, max_size=60), st.integers(1, 60))
def test_the_best_are_the_best(values: list[int], count: int) -> None:
    keys = np.array(values, np.float32)
    assert sorted(best(keys, count).tolist()) == sorted(ranked(keys)[:count])


def test_the_best_of_many() -> None:
    for keys in (MANY, np.round(MANY), np.zeros(9000, np.float32)):
        for count in (1, 2, 40, 1023, 1025, 8999):
            assert sorted(best(keys, count).tolist()) == sorted(ranked(keys)[:count])


# Settings


def test_by_default_everything_is_off() -> None:
    sampling = Sampling()
    assert sampling.greedy
    assert [step for step in ORDER if sampling.uses(step)] == ["temperature"]
    assert not any(Sampling(1.0).uses(step) for step in ORDER)


def test_keywords_are_the_fields() -> None:
    hints = get_type_hints(Sampling)
    assert {**get_type_hints(Settings)} == {name: hints[name] for name in Sampling._fields}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.0),
        ("min_p", -0.1),
        ("typical_p", 0),
        ("top_n_sigma", -1),
        ("xtc_probability", 1.5),
        ("xtc_threshold", -0.5),
        ("dry_multiplier", -1),
        ("dry_base", 0.5),
        ("dry_allowed_length", 0),
        ("dry_penalty_last_n", -2),
        ("dry_sequence_breakers", ["\n", ""]),
        ("mirostat", 1),
        ("mirostat", 3),
        ("mirostat_tau", -1),
        ("mirostat_eta", math.nan),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", math.nan),
        ("presence_penalty", 1e9),
        ("penalty_last_n", -2),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("order", ["top_k", "top_k", "temperature"]),
        ("order", ["topk"]),
        ("order", []),
        ("seed", -1),
    ],
)
def test_values_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=field):
        Sampling(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "0"),
        ("temperature", None),
        ("top_k", 1.5),
        ("top_p", [0.5]),
        ("dry_sequence_breakers", "\n"),
        ("dry_sequence_breakers", [1]),
        ("mirostat", True),
        ("logit_bias", [(1, 2.0)]),
        ("logit_bias", {"1": 2.0}),
        ("logit_bias", {1: "2"}),
        ("order", "top_k"),
        ("order", [1]),
        ("seed", 1.5),
    ],
)
def test_values_of_another_kind(field: str, value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=field):
        Sampling(**{field: value})


def test_a_step_that_is_on_has_a_place() -> None:
    with pytest.raises(ArgumentError, match=r"order: min_p is on, but not among the steps.*add it, or leave its"):
        Sampling(1.0, min_p=0.1, order=("temperature",))
    with pytest.raises(ArgumentError, match="temperature is other than 1"):
        Sampling(0.5, order=("min_p",))
    Sampling(1.0, min_p=0.1, order=("min_p",))


def test_the_page_tells_the_order_and_all_settings() -> None:
    page = (Path(__file__).parent.parent / "spec" / "sampling.md").read_text(encoding="utf-8")
    assert ", ".join(f"`{step}`" for step in ORDER) in page
    for name in Sampling._fields:
        assert f"`{name}`" in page
    for source in re.findall(r"arXiv:[0-9.]+[0-9]|pull request \d+", Path(chain.__file__).read_text(encoding="utf-8")):
        assert source in page


def test_steps_may_have_the_names_that_llama_cpp_has() -> None:
    assert Sampling(0.5, order=("typ_p", "temp")) == Sampling(0.5, order=("typical_p", "temperature"))
    with pytest.raises(ArgumentError, match="a step stands twice"):
        Sampling(order=("temp", "temperature"))
