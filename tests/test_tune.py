"""Tuning on exact grids: its gradients, what it writes, and that it brings a model nearer to the float model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.blocks import FORMATS
from gguflike.calibrate.adam import Adam, warm_cosine
from gguflike.calibrate.distill import divergence, log_softmax, most_likely
from gguflike.calibrate.forms import FORMS, trained
from gguflike.calibrate.trained import Trained
from gguflike.calibrate.tune import Tuning, tune
from gguflike.errors import ArgumentError, QuantizationError
from gguflike.families.parts import Branch
from gguflike.families.parts.experts import Experts, Router
from gguflike.kernels.encode.lattice.codec import LATTICES
from gguflike.tensor import QuantizedTensor, quantize
from tests import by_hand
from tests.walks import weights_of

ALL = sorted(FORMS)
rng = np.random.default_rng(0)


def numbers_of(x: np.ndarray, name: str) -> tuple[Any, Any]:
    return FORMS[name], FORMS[name].parse(quantize(x, name).rows)


def matrix(n: int = 4, k: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("moves", ["scales", "integers", "codes"])
def test_nothing_changes_before_the_first_step(name: str, moves: Any) -> None:
    """And what is written decodes to what was computed with, bit for bit."""
    x = matrix()
    form, numbers = numbers_of(x, name)
    moving = trained(form, numbers, moves, x)
    for got, want in zip(moving.numbers(), numbers, strict=True):
        assert np.array_equal(got, want)
    moved = np.random.default_rng(1)
    for parameter in moving.parameters.values():
        parameter += moved.standard_normal(parameter.shape).astype(np.float32) * parameter.dtype.type(0.3)
    after = moving.numbers()
    decoded = QuantizedTensor("x", FORMATS[name], x.shape, form.pack(after).ravel()).dequantize()
    assert np.array_equal(decoded, form.values(after))
    if moving.parameters:
        assert not np.array_equal(decoded, form.values(numbers))


SMOOTH = ["Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q4_0", "Q5_1", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ2_XXS", "IQ1_S", "IQ1_M"]


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_scales_are_those_of_the_values(name: str) -> None:
    """With frozen codes a weight is a smooth function of its scales: finite differences, but for float16."""
    x, by = matrix(2, 256), matrix(2, 256, seed=5)
    form, numbers = numbers_of(x, name)
    moving = trained(form, numbers, "integers")
    found = moving.pull(moving.numbers(), by)
    assert set(found) == set(moving.parameters) >= {"d"}
    start = form.values(numbers).astype(np.float64)
    for what, parameter in moving.parameters.items():
        step = 0.2 if what in "dm" else 1.0
        for at in [(0, 0), (1, parameter.shape[1] - 1)]:
            parameter[at] += step
            integers = "k" if what == "scales" and name in LATTICES else what
            inside = what in "dm" or getattr(moving.numbers(), integers)[at] != getattr(numbers, integers)[at]
            want = float(((form.values(moving.numbers()) - start) * by).sum())
            parameter[at] -= step
            if not inside:
                continue  # at the end of its table
            slope = np.expm1(step) if what in "dm" else step
            assert found[what][at] * slope == pytest.approx(want, rel=1e-2, abs=5e-3)


def test_gradients_of_codes_are_those_of_lsq() -> None:
    """Of Q4_0, whose weights are d * level, from the formulas of the paper."""
    x, by = matrix(1, 32), matrix(1, 32, seed=2)
    grid, numbers = numbers_of(x, "Q4_0")
    trained = Trained(grid, numbers, "codes", x)
    trained.parameters["weights"][0, 3] = 20 * abs(numbers.d[0, 0])  # out of reach
    now = trained.numbers()
    found = trained.pull(now, by)
    d, level = now.d[0, 0], grid.levels[now.codes[0]]
    real = trained.parameters["weights"][0] / d
    clipped = (real < -8) | (real > 7)
    assert clipped[3]
    assert np.array_equal(level, np.clip(np.rint(real), -8, 7))
    assert np.allclose(found["weights"][0], np.where(clipped, 0, by[0]))
    assert found["d"][0, 0] == pytest.approx((by[0] * np.where(clipped, level, level - real)).sum() * d, rel=1e-4)


@pytest.mark.parametrize("name", sorted(LATTICES))
def test_codes_of_points_are_the_nearest(name: str) -> None:
    """No other point of an octet of the matrix is nearer, and gradients of weights go straight through."""
    x, by = matrix(2, 256), matrix(2, 256, seed=2)
    form, numbers = numbers_of(x, name)
    moving = trained(form, numbers, "codes", x)
    moving.parameters["weights"] += 0.3 * np.abs(x).mean() * matrix(2, 256, seed=3)
    weights, now = moving.parameters["weights"].reshape(-1, 8), moving.numbers()
    assert not np.array_equal(now.codes, numbers.codes)
    assert np.array_equal(now.d, numbers.d)
    scale, points = form.values(now).reshape(-1, 8), np.unique(now.codes.reshape(-1, 8), axis=0)
    others = now._replace(codes=np.empty_like(now.codes))
    for point in points:
        others.codes[:] = np.tile(point, now.codes.shape[1] // 8)
        tried = np.square(form.values(others).reshape(-1, 8) - weights).sum(axis=1)
        assert (np.square(scale - weights).sum(axis=1) <= tried * (1 + 1e-5) + 1e-9).all()
    found = moving.pull(now, by)["weights"]
    assert (found[found != 0] == by[found != 0]).all()
    assert (found != 0).mean() > 0.6


def test_the_divergence_and_its_gradient() -> None:
    rng = np.random.default_rng(3)
    logits, teacher = rng.standard_normal((2, 5, 40)) * 2
    whole = (np.exp(log_softmax(teacher)) * (log_softmax(teacher) - log_softmax(logits))).sum(axis=1).mean()
    tokens, target = most_likely(teacher, 40)
    assert divergence(logits, tokens, target)[0] == pytest.approx(whole)
    for top in (40, 7):
        tokens, target = most_likely(teacher, top)
        assert np.exp(target).min() >= np.sort(np.exp(log_softmax(teacher)), axis=1)[:, -top].min()
        loss, gradient = divergence(logits, tokens, target)
        assert 0 < loss <= whole + 1e-9
        along = rng.standard_normal(logits.shape)
        up, down = (divergence(logits + sign * 1e-6 * along, tokens, target)[0] for sign in (1, -1))
        assert (gradient * along).sum() == pytest.approx((up - down) / 2e-6, rel=1e-5)
        assert divergence(teacher, tokens, target)[0] == pytest.approx(0, abs=1e-9)


def test_adam_is_its_definition() -> None:
    x = {"x": np.array([1.0, -2.0], np.float32)}
    adam = Adam(x, {"x": 0.1}, (0.9, 0.99), 0.0)
    adam.step({"x": np.array([3.0, -0.5], np.float32)})
    assert np.allclose(x["x"], [0.9, -1.9])  # the first step has the size of the rate
    adam.step({"x": np.array([-1.0, -0.5], np.float32)}, 0.5)
    mean = (0.9 * 0.1 * 3 - 0.1) / (1 - 0.9**2)
    square = (0.99 * 0.01 * 9 + 0.01) / (1 - 0.99**2)
    assert np.allclose(x["x"], [0.9 - 0.05 * mean / square**0.5, -1.85])
    shares = [warm_cosine(step, 100, 10) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] > 0.97
    assert 0 < shares[-1] < 1e-3


WIDTH = 256
TYPES = {"attn": "Q4_0", "ffn_up": "IQ3_S"}
EXPERTS = by_hand.graph(
    (
        by_hand.branches(WIDTH)[0],
        Branch(by_hand.rms("ffn_norm", WIDTH), Experts(WIDTH, 256, 3, 2, Router())),
    ),
    width=WIDTH,
    norm=by_hand.rms("output_norm", WIDTH),
)


def texts(count: int, seed: int, length: int = 12) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, by_hand.TOKENS, (count, length)).tolist()


def tuned(folder: Path, **settings: Any) -> Any:
    """A model of experts whose matrices are of TYPES or Q2_K, tuned for a few steps."""
    floats = weights_of(EXPERTS)
    quantized, matrices = dict(floats), {}
    for name, value in floats.items():
        if value.ndim > 1 and name.startswith("blk") and "gate_inp" not in name:
            rows = value.reshape(-1, value.shape[-1])
            matrices[name] = numbers_of(rows, next((TYPES[part] for part in TYPES if part in name), "Q2_K"))
            quantized[name] = matrices[name][0].values(matrices[name][1]).reshape(value.shape)
    gains = [name for name in floats if name.endswith("norm.weight")]
    options = {"steps": 12, "batch": 3, "every": 4, "warm_up": 2, "rate": 1e-2, **settings.pop("options", {})}
    settings = {"floats": floats, "quantized": quantized, "matrices": matrices, "values": gains, **settings}
    threads = settings.pop("threads", 2)
    result = tune(
        EXPERTS,
        sequences=settings.pop("sequences", texts(8, 1)),
        held_out=settings.pop("held_out", texts(3, 2)),
        workspace=folder,
        options=Tuning(**options),
        threads=threads,
        **settings,
    )
    return result, matrices, floats


@pytest.mark.parametrize("moves", ["scales", "integers", "codes"])
def test_tuning_brings_a_model_nearer(tmp_path: Path, moves: Any) -> None:
    result, matrices, floats = tuned(
        tmp_path, options={"moves": moves, "integers": 1.0, "codes": 0.015}, held_out=texts(8, 1)
    )
    marks = result.marks
    assert [mark.step for mark in marks] == [0, 4, 8, 12]
    assert min(mark.held_out for mark in marks) < marks[0].held_out
    for name, (grid, before) in matrices.items():
        after = result.numbers[name]
        assert not np.array_equal(after.d, before.d)
        assert np.array_equal(after.d, after.d.astype(np.float16).astype(np.float32))
        assert np.array_equal(after.codes, before.codes) == (moves != "codes")
        if grid.format.name == "Q2_K":
            assert np.array_equal(after.scales, before.scales) == (moves == "scales")
    assert any(not np.array_equal(value, floats[name]) for name, value in result.values.items())


def test_training_ends_where_the_other_text_says_so(tmp_path: Path) -> None:
    """And the numbers are those that were best on it: here, those that it began with."""
    result, matrices, floats = tuned(tmp_path, options={"rate": 30.0, "gains": 10.0, "patience": 2, "steps": 40})
    assert [mark.step for mark in result.marks] == [0, 4, 8]
    assert result.marks[1].held_out > result.marks[0].held_out
    for name, (_, before) in matrices.items():
        assert all(np.array_equal(got, want) for got, want in zip(result.numbers[name], before, strict=True))
    assert all(np.array_equal(value, floats[name]) for name, value in result.values.items())


def test_the_same_bits_at_any_number_of_threads(tmp_path: Path) -> None:
    one, four = (tuned(tmp_path / str(n), threads=n, options={"moves": "codes", "steps": 4})[0] for n in (1, 4))
    assert one.marks[-1] == four.marks[-1]
    for name, numbers in one.numbers.items():
        assert all(np.array_equal(got, want) for got, want in zip(numbers, four.numbers[name], strict=True))


def test_what_cannot_be_tuned_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="held_out"):
        tuned(tmp_path, held_out=[])
    with pytest.raises(ArgumentError, match="nothing that can be trained"):
        tuned(tmp_path, matrices={}, values=[])
    with pytest.raises(QuantizationError, match="trained on is not finite"), np.errstate(all="ignore"):
        tuned(tmp_path, options={"gains": 1e30, "patience": 9})
