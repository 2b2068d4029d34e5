"""Rounding under a Hessian: never worse than the plain encoder, and what is packed is what was rounded."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gguflike import QuantizationError
from gguflike.blocks import FORMATS
from gguflike.calibrate import codebook, uniform
from gguflike.calibrate.grids import GRIDS, Grid
from gguflike.calibrate.objective import Objective
from gguflike.calibrate.rounding import Rounding, round_matrix
from gguflike.calibrate.statistics import Statistics
from gguflike.frozen import replace
from gguflike.tensor import QuantizedTensor, quantize

Floats = npt.NDArray[Any]
ROWS = list(GRIDS.values())
COLUMNS = 512


def names(grid: Grid) -> str:
    return grid.format.name


def samples(n: int = 20, k: int = COLUMNS, seed: int = 0) -> tuple[Floats, Statistics]:
    """Weights and the statistics of inputs whose columns are alike in parts, and unlike in size."""
    r = np.random.default_rng(seed)
    mixing = r.standard_normal((k // 4, k)) + 2 * np.eye(k // 4, k)
    x = (r.standard_normal((600, k // 4)) @ mixing + r.standard_normal((600, k))) * np.exp(r.standard_normal(k))
    gram = (x.T @ x / len(x)).astype(np.float32)
    return (0.02 * r.standard_normal((n, k))).astype(np.float32), Statistics(gram, None, len(x))


def decoded(blocks: npt.NDArray[np.uint8], name: str, k: int = COLUMNS) -> Floats:
    return QuantizedTensor("", FORMATS[name], (len(blocks), k), blocks.reshape(-1)).dequantize()


def cost(errors: Floats, gram: Floats) -> Floats:
    wide = errors.astype(np.float64)
    return np.asarray(((wide @ gram.astype(np.float64)) * wide).sum(axis=1))


@pytest.mark.parametrize("grid", ROWS, ids=names)
def test_blocks_become_numbers_and_the_same_blocks(grid: Grid) -> None:
    weights, _ = samples()
    plain = quantize(weights, grid.format)
    numbers = grid.parse(plain.rows)
    assert np.array_equal(grid.values(numbers), plain.dequantize())
    packed = grid.pack(numbers)
    assert np.array_equal(decoded(packed, grid.format.name), plain.dequantize())
    assert all(np.array_equal(a, b) for a, b in zip(grid.parse(packed), numbers, strict=True))


def test_every_type_of_scalars_has_a_grid() -> None:
    codebooks = {name for name, fmt in FORMATS.items() if "grid" in fmt.formula}
    for_activations = {"Q8_1", "Q8_K"}
    assert set(GRIDS) == {n for n, f in FORMATS.items() if f.is_quantized} - codebooks - for_activations


@pytest.mark.parametrize("grid", ROWS, ids=names)
def test_rows_cost_less_than_the_encoders(grid: Grid) -> None:
    weights, statistics = samples()
    name = grid.format.name
    plain = quantize(weights, name, importance=statistics.gram.diagonal()).rows
    rounded = round_matrix(weights, grid.format, statistics)
    before = cost(weights - decoded(plain, name), statistics.gram)
    after = cost(weights - decoded(rounded, name), statistics.gram)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.7 * before.sum()


@pytest.mark.parametrize("name", ["Q4_K", "Q4_0", "IQ4_XS"])
def test_same_bytes_for_any_number_of_threads(name: str) -> None:
    weights, statistics = samples(n=77)
    one, three = (round_matrix(weights, FORMATS[name], statistics, threads=threads) for threads in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.parametrize("name", ["Q4_K", "IQ4_XS"])
def test_a_row_is_rounded_alone(name: str) -> None:
    weights, statistics = samples(n=19)
    together = round_matrix(weights, FORMATS[name], statistics)
    alone = [round_matrix(row[None], FORMATS[name], statistics)[0] for row in weights]
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize("tokens", [0, 10])
def test_what_was_never_seen_is_left_to_the_encoder(tokens: int) -> None:
    weights, _ = samples()
    nothing = Statistics(np.zeros((COLUMNS, COLUMNS), np.float32), None, tokens)
    assert np.array_equal(round_matrix(weights, FORMATS["Q4_K"], nothing), quantize(weights, "Q4_K").rows)


@pytest.mark.parametrize("name", ["Q4_K", "Q3_K", "Q4_1", "MXFP4"])
def test_dead_columns_zero_rows_and_huge_values(name: str) -> None:
    weights, statistics = samples()
    gram = statistics.gram.copy()
    gram[:, 7:300] = gram[7:300] = 0  # columns that are never seen
    weights[3] = 0
    weights[4, 40] = 1e5
    weights[5] *= 1e-7
    rounded = decoded(round_matrix(weights, FORMATS[name], Statistics(gram, None, 9)), name)
    assert np.isfinite(rounded).all()
    assert not rounded[3].any()


def test_a_target_that_makes_up_for_earlier_errors() -> None:
    """Inputs that are too small by a tenth want weights that are larger by a ninth."""
    weights, statistics = samples()
    gram = statistics.gram
    cross = (gram / 0.9).astype(np.float32)
    whole = Rounding(correction=1)
    corrected = decoded(round_matrix(weights, FORMATS["Q8_0"], Statistics(gram, cross, 9), whole), "Q8_0")
    wanted = weights / 0.9
    assert cost(corrected - wanted, gram).sum() < 0.01 * cost(weights - wanted, gram).sum()
    half = Rounding(correction=0.5)
    halfway = decoded(round_matrix(weights, FORMATS["Q8_0"], Statistics(gram, cross, 9), half), "Q8_0")
    assert cost(halfway - (weights + wanted) / 2, gram).sum() < 0.01 * cost(weights - wanted, gram).sum()
    uncorrected = round_matrix(weights, FORMATS["Q8_0"], Statistics(gram, cross, 9), Rounding(correction=0))
    assert np.array_equal(uncorrected, round_matrix(weights, FORMATS["Q8_0"], Statistics(gram, None, 9)))
    capped = round_matrix(weights, FORMATS["Q8_0"], Statistics(gram, cross, 9), Rounding(cap=0.05))
    assert cost(decoded(capped, "Q8_0") - 1.05 * weights, gram).sum() < cost(corrected - 1.05 * weights, gram).sum()


@pytest.mark.parametrize("name", ["Q4_K", "IQ2_S"])
def test_statistics_are_what_they_were(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their diagonal is damped in its place, also where rounding is cut off; what cannot be written is copied."""
    weights, statistics = samples(n=3)
    before = statistics.gram.copy()
    expected = round_matrix(weights, FORMATS[name], statistics, threads=1)
    np.testing.assert_array_equal(statistics.gram, before)
    fixed = replace(statistics, gram=before.copy())
    fixed.gram.flags.writeable = False
    np.testing.assert_array_equal(round_matrix(weights, FORMATS[name], fixed, threads=1), expected)
    seen: list[bool] = []

    def stops(*arguments: Any) -> None:
        goal = next(each for each in arguments if isinstance(each, Objective))
        seen.append(bool((goal.hessian.diagonal() > before.diagonal()).all()))
        raise KeyboardInterrupt

    monkeypatch.setattr(uniform, "fed_back", stops)
    monkeypatch.setattr(codebook, "fed_back", stops)
    with pytest.raises(KeyboardInterrupt):
        round_matrix(weights, FORMATS[name], statistics, threads=1)
    assert seen == [True]
    np.testing.assert_array_equal(statistics.gram, before)


def test_statistics_that_do_not_fit_are_refused() -> None:
    weights, statistics = samples()
    with pytest.raises(QuantizationError, match="do not fit"):
        round_matrix(weights[:, :256], FORMATS["Q4_K"], statistics)
    gram = statistics.gram.copy()
    gram[1, 2] = np.nan
    with pytest.raises(QuantizationError, match="not finite"):
        round_matrix(weights, FORMATS["Q4_K"], Statistics(gram, None, 9))
    weights[2, 2] = np.inf
    with pytest.raises(QuantizationError, match="not finite"):
        round_matrix(weights, FORMATS["Q4_K"], statistics)


@pytest.mark.parametrize("name", ["Q4_K", "Q4_0"])
def test_a_second_factor_lowers_the_cost_under_both(name: str) -> None:
    """Errors of one row can undo those of another: outputs that are alike."""
    n = 24
    weights, statistics = samples(n)
    r = np.random.default_rng(5)
    mixing = r.standard_normal((n // 3, n)) + np.eye(n // 3, n)
    output = (mixing.T @ mixing / n + 0.05 * np.eye(n)).astype(np.float32)
    alone = decoded(round_matrix(weights, FORMATS[name], statistics), name)
    both = Statistics(statistics.gram, None, 9, output)
    rounded = round_matrix(weights, FORMATS[name], both)
    assert np.array_equal(rounded, round_matrix(weights, FORMATS[name], both, threads=1))
    errors = [weights - values for values in (decoded(rounded, name), alone)]
    after, before = (np.sum((output.astype(np.float64) @ e) * (e @ statistics.gram)) for e in errors)
    assert after < 0.85 * before


def test_close_to_the_best_of_all_roundings() -> None:
    """Of 128 columns eleven are seen: all signs of these, each with its best scale, can be searched."""
    r = np.random.default_rng(7)
    seen = np.arange(0, 121, 12)
    signs = np.array(list(product((-1.0, 1.0), repeat=len(seen))))
    ratios = []
    for _ in range(20):
        x = r.standard_normal((40, len(seen))) @ (np.eye(len(seen)) + 0.7 * r.standard_normal((len(seen), len(seen))))
        gram = np.zeros((128, 128), np.float32)
        small = x.T @ x / len(x)
        gram[np.ix_(seen, seen)] = small
        weights = r.standard_normal((1, 128)).astype(np.float32)
        best = rounded_best(weights[0, seen].astype(np.float64), small, signs)
        rounded = decoded(round_matrix(weights, FORMATS["Q1_0"], Statistics(gram, None, 9)), "Q1_0", 128)
        plain = quantize(weights, "Q1_0", importance=gram.diagonal()).dequantize()
        after, before = (cost(weights - values, gram)[0] for values in (rounded, plain))
        assert best * (1 - 1e-3) <= after <= before * (1 + 1e-5)
        ratios.append((after / best, before / best))
    ours, encoders = np.exp(np.log(ratios).mean(axis=0))
    assert ours < 1.25
    assert ours < 1 + (encoders - 1) / 3


def rounded_best(weights: Floats, gram: Floats, signs: Floats) -> float:
    """The least cost of weights rounded to one magnitude with any signs."""
    inner, norms = signs @ gram @ weights, ((signs @ gram) * signs).sum(axis=1)
    return float(weights @ gram @ weights - (inner**2 / norms).max())
