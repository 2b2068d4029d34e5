"""The parts of the lattice encoders one by one: repaired points against all points, and int16 lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gguflike import quantize
from gguflike.blocks import codebooks
from gguflike.kernels.encode.lattice import repair
from gguflike.kernels.encode.lattice.bound import least_error
from gguflike.kernels.encode.lattice.codebook import DIGITS, NUMBER_BIT, halve
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.arrays import load, load_i16, load_octets, store, store_i16
from gguflike.kernels.vector.int16 import (
    abs_i16,
    add_saturate,
    max_i16,
    narrow,
    narrow_magic,
    splat_i16,
    where_equal,
    where_greater,
    widen_high,
    widen_low,
)
from gguflike.kernels.vector.sizes import I16_LANES, LANES
from tests.measures import rmse

DELTA = 0.125
W, SCALE = 16, 32  # vectors of ``f``; the weights of 32 octets come first, then their importance


@jit
def repaired(book: Any, t: int, f: Any, h: Any) -> None:
    trial = repair.trial_at(I16_LANES, 0)
    repair.load_importance(f, W, h, I16_LANES)
    repair.load_values(book.levels, f, 0, (load(f, SCALE), load(f, SCALE + 1)), h, I16_LANES)
    repair.round_to_levels(book.levels, t, h, I16_LANES, trial)
    repair.find_repairs(book, h, trial)
    repair.apply_repair(h, trial)
    store_i16(h, 0, load_i16(h, trial + repair.NUMBER))


@pytest.mark.parametrize("t", [0, 1])
def test_repaired_points_are_nearly_always_the_best(t: int) -> None:
    grid = codebooks.iq1()
    book = halve(grid, (DELTA, -DELTA))
    points = grid + np.array([DELTA, -DELTA])[t]
    rng = np.random.default_rng(12)
    best = np.empty((20, I16_LANES))
    found = np.empty((20, I16_LANES))
    for i in range(len(best)):
        f, h = np.zeros((SCALE + 2) * LANES, np.float32), np.zeros(I16_LANES + repair.trial_elements(1), np.int16)
        y, w = rng.standard_normal((I16_LANES, 8)), rng.random((I16_LANES, 8)) + 0.05
        scale = 0.5 + rng.random(I16_LANES)
        f[:] = np.concatenate([*(np.concatenate(np.split(a.T, 2, axis=1)).ravel() for a in (y, w)), scale])
        repaired(book, t, f, h)
        errors = (w[:, None] * (y[:, None] - scale[:, None, None] * points) ** 2).sum(axis=2)
        words = book.words[h[:I16_LANES]]
        assert (words >= 0).all()
        digits = (words & DIGITS)[:, None] >> 2 * np.arange(8) & 3
        np.testing.assert_array_equal(grid[words >> NUMBER_BIT], digits - 1)
        best[i], found[i] = errors.min(axis=1), errors[np.arange(I16_LANES), words >> NUMBER_BIT]
    assert (found <= best * (1 + 1e-6)).mean() > 0.8
    assert found.sum() < 1.02 * best.sum()


def test_far_weights_take_their_sides() -> None:
    """Weights far beyond the levels, and scales that are nothing beside them, saturate."""
    book = halve(codebooks.iq1(), (DELTA, -DELTA))
    signs = np.where(np.random.default_rng(15).random((8, I16_LANES)) < 0.5, -1, 1)
    for far, scale in ((1e4, 1.0), (1.0, 1e-12), (1.0, 1e-38)):
        f, h = np.ones((SCALE + 2) * LANES, np.float32), np.zeros(I16_LANES + repair.trial_elements(1), np.int16)
        f[: W * LANES] = np.concatenate(np.split(far * signs, 2, axis=1)).ravel()
        f[SCALE * LANES :] = scale
        repaired(book, 0, f, h)
        nearest = 3 ** np.arange(8) @ (signs + 1)
        is_point = book.words[nearest] >= 0
        np.testing.assert_array_equal(h[:I16_LANES][is_point], nearest[is_point])
        assert is_point.any()


@jit
def bound(book: Any, t: int, f: Any) -> None:
    store(f, 17, least_error(book, t, f, 0, 8, load(f, 16)))


@pytest.mark.parametrize(("name", "t"), [("iq1", 0), ("iq1", 1), ("iq2_s", 0)])
def test_no_point_is_better_than_the_bound(name: str, t: int) -> None:
    grid = getattr(codebooks, name)()
    deltas = (DELTA, -DELTA) if name == "iq1" else (0.0,)
    book, points = halve(grid, deltas), grid + deltas[t]
    largest = np.abs(points).max()
    rng = np.random.default_rng(14)
    ratios = []
    for _ in range(40):
        f = np.zeros(18 * LANES, np.float32)
        tile = f.reshape(-1, LANES)
        tile[:8] = rng.standard_normal((8, LANES)) if name == "iq1" else np.abs(rng.standard_normal((8, LANES)))
        tile[8:16] = rng.random((8, LANES)) + 0.05
        tile[16] = (1 + rng.random(LANES)) / largest
        bound(book, t, f)
        y, w, scale = tile[:8].T.astype(np.float64), tile[8:16].T, tile[16]
        errors = (w[:, None] * (y[:, None] - scale[:, None, None] * points) ** 2).sum(axis=2).min(axis=1)
        ratios.append(tile[17] / errors)
    assert np.max(ratios) <= 1 + 1e-5
    assert np.mean(ratios) > 0.75


def test_approximate_points_cost_little() -> None:
    """IQ2_S without importance approximates the points of its candidates; with it, though equal, it finds the best."""
    x = np.random.default_rng(5).standard_normal((8, 1024)).astype(np.float32)

    def error(importance: npt.NDArray[np.float32] | None) -> float:
        return rmse(x, quantize(x, "IQ2_S", importance=importance).dequantize())

    assert error(None) < 1.003 * error(np.ones(1024, np.float32))


@jit
def octets(tile: Any, source: Any, start: int) -> None:
    load_octets(tile, 1, source, start)


def test_octets_stand_in_lanes() -> None:
    source = np.arange(200, dtype=np.float32)
    tile = np.zeros(9 * LANES, np.float32)
    octets(tile, source, 72)
    np.testing.assert_array_equal(tile[LANES:].reshape(8, LANES).T, source[72:].reshape(LANES, 8))


@jit
def on_shorts(a: Any, b: Any, f: Any, out: Any, wide: Any) -> None:
    x, y = load_i16(a, 0), load_i16(b, 0)
    store_i16(out, 0, add_saturate(x, y))
    store_i16(out, I16_LANES, max_i16(x, y))
    store_i16(out, 2 * I16_LANES, where_greater(x, y, x, y))
    store_i16(out, 3 * I16_LANES, where_equal(x, y, x, add_saturate(x, x)))
    store_i16(out, 4 * I16_LANES, narrow_magic(load(f, 0), load(f, 1)))
    store_i16(out, 5 * I16_LANES, abs_i16(x) - (y << splat_i16(3) >> splat_i16(5)))
    store_i16(out, 6 * I16_LANES, narrow(widen_low(x), widen_high(y)))
    store(wide, 0, widen_low(x))
    store(wide, 1, widen_high(x))


def test_shorts_saturate_and_compare() -> None:
    rng = np.random.default_rng(13)
    a, b = rng.integers(-(1 << 15), 1 << 15, (2, I16_LANES)).astype(np.int16)
    a[:4], b[:4] = (32767, -32768, 7, -9), (1, -1, 7, -9)
    values = (rng.standard_normal(I16_LANES) * 4e4).astype(np.float32)
    magic = np.float32(1.5 * 2**23)
    out, wide = np.zeros(7 * I16_LANES, np.int16), np.zeros(I16_LANES, np.int32)
    on_shorts(a, b, values + magic, out, wide)
    sums, largest, more, same, narrowed, wrapped, halves = out.reshape(7, I16_LANES)
    saturated = (a.astype(int) + b).clip(-(1 << 15), (1 << 15) - 1)
    np.testing.assert_array_equal(sums, saturated)
    np.testing.assert_array_equal(largest, np.maximum(a, b))
    np.testing.assert_array_equal(more, np.maximum(a, b))
    np.testing.assert_array_equal(same, np.where(a == b, a, (2 * a.astype(int)).clip(-(1 << 15), (1 << 15) - 1)))
    np.testing.assert_array_equal(narrowed, np.rint(values).clip(-(1 << 15), (1 << 15) - 1))
    np.testing.assert_array_equal(wrapped, np.abs(a) - (b << 3 >> 5))
    np.testing.assert_array_equal(halves, np.concatenate((a[:LANES], b[LANES:])))
    np.testing.assert_array_equal(wide, a)
