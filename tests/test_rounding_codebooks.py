"""Rounding to codebooks under a Hessian: exact octets, never worse than the plain encoder, bytes as simulated."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gguflike.blocks import FORMATS, codebooks
from gguflike.calibrate import codebook
from gguflike.calibrate.objective import Objective, objective
from gguflike.calibrate.outputs import both_costs
from gguflike.calibrate.rounding import round_matrix
from gguflike.calibrate.statistics import Statistics
from gguflike.kernels.encode.lattice.codec import LATTICES
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.rounding.storage import Storage, pack, reordered, storage, unpack
from gguflike.kernels.rounding.tree import Tree, make_branch, make_tree, nearest_octet
from gguflike.tensor import quantize
from tests.test_rounding import COLUMNS, cost, decoded, samples

Floats = npt.NDArray[Any]
NAMES = list(LATTICES)


@jit
def search(tree: Tree, wish: Floats, factor: Floats, bound: float, codes: Floats) -> Any:
    return nearest_octet(tree, wish, factor, bound, make_branch(), codes)


def octets(grid: Floats, signed: bool, even: bool) -> Any:
    """All octets of points, with all signs that can be stored."""
    every = grid if grid.shape[1] == 8 else np.array([np.concatenate(pair) for pair in product(grid, repeat=2)])
    if not signed:
        return every.astype(np.float64)
    signs = np.array([s for s in product((1, -1), repeat=8) if not even or np.prod(s) == 1])
    return (every[:, None].astype(np.float64) * signs).reshape(-1, 8)


@pytest.mark.parametrize(
    ("grid", "signed", "even"),
    [
        (codebooks.iq2_xxs(), True, True),
        (codebooks.iq2_s()[::5], True, False),
        (codebooks.iq3_xxs()[::13], True, True),
        (codebooks.iq3_s()[::29], True, False),
        (codebooks.iq1(), False, False),
    ],
    ids=["octets even", "octets free", "halves even", "halves free", "no signs"],
)
def test_the_nearest_octet_is_that_of_a_search_of_all(grid: Floats, signed: bool, even: bool) -> None:
    r = np.random.default_rng(3)
    tree = make_tree(grid, signed, even, (0.0,), False)
    every = octets(grid, signed, even)
    spread = np.sqrt((every**2).mean())
    for _ in range(20):
        factor = np.tril(r.standard_normal((8, 8))) + np.diag(r.uniform(0.5, 3, 8))
        factor[np.diag_indices(8)] = np.abs(factor.diagonal()) + 0.1
        wish = factor @ (r.standard_normal(8) * spread)
        distances = ((wish - every @ factor.T) ** 2).sum(axis=1)
        codes = np.zeros(8, np.uint8)
        assert search(tree, wish, factor, np.inf, codes) == pytest.approx(distances.min())
        assert np.array_equal(tree.levels[codes], every[distances.argmin()])
        assert search(tree, wish, factor, distances.min() * 0.999, codes) == np.inf


@pytest.mark.parametrize("name", NAMES)
def test_blocks_become_numbers_and_the_same_blocks(name: str) -> None:
    weights, _ = samples()
    plain = quantize(weights, name)
    kind = storage(plain.format)
    blocks = unpack(kind, plain.rows)
    assert np.array_equal(codebook.values_of(kind, blocks, 1), plain.dequantize())
    assert np.array_equal(pack(kind, blocks), plain.rows)


def test_a_changed_order_of_columns_is_undone() -> None:
    weights, _ = samples()
    plain = quantize(weights, "IQ2_XS")
    kind = storage(plain.format)
    order = np.arange(COLUMNS).reshape(2, 16, 2, 8)[::-1, ::-1, ::-1].reshape(-1)
    moved = quantize(weights[:, order], "IQ2_XS").rows
    assert np.array_equal(pack(kind, reordered(unpack(kind, moved), order)), plain.rows)


@pytest.mark.parametrize("name", NAMES)
def test_rows_cost_less_than_the_encoders(name: str) -> None:
    weights, statistics = samples()
    plain = quantize(weights, name, importance=statistics.gram.diagonal()).rows
    rounded = round_matrix(weights, FORMATS[name], statistics)
    before = cost(weights - decoded(plain, name), statistics.gram)
    after = cost(weights - decoded(rounded, name), statistics.gram)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.5 * before.sum()


def descended(kind: Storage, weights: Any, goal: Objective, passes: int) -> tuple[Any, Any]:
    """Blocks of rows, fed back and improved by so many passes, and their values."""
    return codebook.Descent(kind, goal, 1).rows(codebook.fed_back(kind, weights, goal, 1), weights, passes)


@pytest.mark.parametrize(("name", "even"), [("IQ2_XXS", True), ("IQ1_M", False)])
def test_no_other_octet_costs_less_in_the_end(name: str, even: bool) -> None:
    weights, statistics = samples(n=1, k=256)
    kind = storage(FORMATS[name])
    goal = objective(statistics.gram, 0.01, codebook.nested(kind), True, 1)
    blocks, values = descended(kind, weights, goal, 100)
    hessian, stored = goal.hessian.astype(np.float64), unpack(kind, blocks)
    least = cost(weights - values, hessian)[0]
    every = octets(LATTICES[name].grid(), kind.tree.signed, even)
    deltas = kind.tree.deltas[:, None, None]
    scales = np.float32(kind.scale.unit) * stored.d * (2.0 * stored.k + 1)
    for octet in range(32):
        columns = slice(8 * octet, 8 * octet + 8)
        moves = (scales[0, 8 * octet // kind.scale.size] * (every + deltas)).reshape(-1, 8) - values[0, columns]
        gradient = (weights - values)[0].astype(np.float64) @ hessian[:, columns]
        changes = ((moves @ hessian[columns, columns]) * moves).sum(axis=1) - 2 * moves @ gradient
        assert changes.min() > -1e-5 * least


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_that_are_decoded(name: str) -> None:
    weights, statistics = samples(n=5)
    kind = storage(FORMATS[name])
    goal = objective(statistics.gram, 0.01, codebook.nested(kind), True, 1)
    blocks, values = descended(kind, weights, goal, 2)
    assert np.array_equal(decoded(blocks, name), values)


@pytest.mark.parametrize("name", ["IQ2_S", "IQ3_XXS", "IQ1_M"])
def test_same_bytes_for_any_number_of_threads(name: str) -> None:
    weights, statistics = samples(n=27)
    one, three = (round_matrix(weights, FORMATS[name], statistics, threads=threads) for threads in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.parametrize("name", NAMES)
def test_dead_columns_zero_rows_and_huge_values(name: str) -> None:
    weights, statistics = samples(n=8)
    gram = statistics.gram.copy()
    gram[:, 7:300] = gram[7:300] = 0  # columns that are never seen
    weights[3] = 0
    weights[4, 40] = 1e5
    weights[5] *= 1e-7
    weights[6] = 1e30
    rounded = decoded(round_matrix(weights, FORMATS[name], Statistics(gram, None, 9)), name)
    assert np.isfinite(rounded).all()
    assert not rounded[3].any()


def test_errors_of_rows_undo_each_other_where_outputs_are_alike() -> None:
    """A second factor of strong correlations: its cost falls, at that of the first."""
    weights, statistics = samples(n=40)
    r = np.random.default_rng(8)
    mixing = r.standard_normal((40, 50)) @ np.diag(np.exp(r.standard_normal(50)))
    output = (mixing @ mixing.T).astype(np.float32)
    gram = statistics.gram
    known = Statistics(gram, None, 9, output)
    one, both = (round_matrix(weights, FORMATS["IQ2_S"], each, threads=1) for each in (statistics, known))
    before, after = (both_costs(weights - decoded(data, "IQ2_S"), gram, output, 1) for data in (one, both))
    assert after < 0.8 * before
    assert cost(weights - decoded(both, "IQ2_S"), gram).sum() > cost(weights - decoded(one, "IQ2_S"), gram).sum()
    assert np.array_equal(both, round_matrix(weights, FORMATS["IQ2_S"], known, threads=3))


def test_a_second_factor_that_says_nothing_costs_nothing() -> None:
    weights, statistics = samples(n=17)
    alike = Statistics(statistics.gram, None, 9, np.zeros((17, 17), np.float32))
    plain = quantize(weights, "IQ2_XS", importance=statistics.gram.diagonal()).rows
    rounded = round_matrix(weights, FORMATS["IQ2_XS"], alike)
    assert (
        cost(weights - decoded(rounded, "IQ2_XS"), alike.gram).sum()
        < 0.5 * cost(weights - decoded(plain, "IQ2_XS"), alike.gram).sum()
    )
