"""Second moments: what is summed up, merged, shrunk, kept in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gguflike.calibrate import store, sums
from gguflike.calibrate.blas import single_threaded
from gguflike.calibrate.statistics import FEW, StackStatistics, Statistics, merge, shrunk
from gguflike.calibrate.sums import Hessians, Importances, Moments, Together
from gguflike.errors import ArgumentError, CheckpointError, OutputError


def inputs(rows: int, columns: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def moments(x: np.ndarray, cap: float | None = None) -> Statistics:
    collector = Moments(x.shape[1], cap=cap)
    collector.add(x, None)
    return collector.result()


def test_tiles_make_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "TILE", 3)
    x, y = inputs(50), inputs(50, seed=1)
    collector = Moments(7, cross=True)
    collector.add(x[:20], y[:20])
    collector.add(x[20:], y[20:])
    found = collector.result()
    assert found.tokens == 50
    assert found.cross is not None
    np.testing.assert_allclose(found.gram, x.T @ x / 50, rtol=1e-5, atol=1e-6)
    scales = np.sqrt(np.outer(np.square(y - x).mean(axis=0), np.square(x).mean(axis=0)))
    assert (np.abs(found.cross - y.T @ x / 50) < 0.01 * scales).all()  # the difference is by int8
    np.testing.assert_array_equal(found.gram, found.gram.T)


def test_an_input_of_enormous_length_counts_as_a_hundred_others() -> None:
    x = inputs(101)
    x[0] *= 1000
    lengths = np.square(x).sum(1)
    capped = x.copy()
    capped[0] *= np.sqrt(100 * np.median(lengths) / lengths[0])
    np.testing.assert_allclose(moments(x, 100.0).gram, capped.T @ capped / 101, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moments(x[1:], 100.0).gram, moments(x[1:]).gram)


def test_columns_and_inputs_of_zeros() -> None:
    x = inputs(20)
    x[:, 3] = 0
    found = moments(x, 100.0)
    assert not found.gram[3].any()
    assert not found.gram[:, 3].any()
    assert not moments(np.zeros((5, 7), np.float32), 100.0).gram.any()
    assert np.isfinite(moments(np.zeros((0, 7), np.float32), 100.0).gram).all()


def test_squares_are_the_diagonal() -> None:
    x = inputs(30)
    collector = Importances().one(7, False)
    collector.add(x[:11], None)
    collector.add(x[11:], None)
    found = collector.result()
    np.testing.assert_allclose(found.sums, np.square(x, dtype=np.float64).sum(0))
    assert found.tokens == 30


def test_merged_statistics_are_those_of_all_inputs() -> None:
    x = inputs(40)
    both = merge([moments(x[:10]), moments(x[10:])])
    np.testing.assert_allclose(both.gram, moments(x).gram, rtol=1e-4, atol=1e-6)
    assert both.tokens == 40
    assert both.cross is None
    with pytest.raises(ArgumentError, match="different matrices"):
        merge([moments(x), moments(inputs(4, 5))])


def test_experts_are_drawn_to_their_layer_the_more_the_fewer_tokens_they_saw() -> None:
    layer, few, many = moments(inputs(5000)), moments(3 * inputs(FEW - 1)), moments(3 * inputs(700, seed=2))
    np.testing.assert_array_equal(shrunk(few, layer).gram, layer.gram)
    assert shrunk(few, layer).tokens == FEW - 1
    want = (700 * many.gram + 7 * layer.gram) / 707  # kappa is the number of columns
    np.testing.assert_allclose(shrunk(many, layer).gram, want, rtol=1e-4, atol=1e-6)


def test_a_stack_reads_its_statistics_one_by_one(tmp_path: Path) -> None:
    parts = [3 * inputs(200, seed=1), inputs(0), inputs(600, seed=2)]
    stack = StackStatistics(tmp_path / "s", 3, 7)
    for part in parts:
        stack.append(moments(part))
    layer = moments(np.concatenate(parts))
    np.testing.assert_allclose(stack.layer.gram, layer.gram, rtol=1e-4, atol=1e-6)
    assert [one.tokens for one in stack] == [200, 0, 600]
    np.testing.assert_allclose(stack[1].gram, layer.gram, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stack[-1].gram, shrunk(moments(parts[2]), layer).gram, rtol=1e-4, atol=1e-6)
    with pytest.raises(IndexError):
        stack[3]


def test_statistics_in_a_folder_are_those_that_were_put_there(tmp_path: Path) -> None:
    one = moments(inputs(300))
    stack = StackStatistics(tmp_path / "s", 2, 7)
    stack.append(moments(inputs(150, seed=3)))
    stack.append(moments(inputs(2, seed=4)))
    folder = tmp_path / "kept"
    store.save(folder, ("a", "b"), one)
    store.save(folder, ("c",), stack)
    with pytest.raises(CheckpointError, match=r"index\.json.*no statistics"):
        store.Store(folder)
    groups = [store.Group(("a", "b"), 7, (300,), False, ("1", "2")), store.Group(("c",), 7, (150, 2), True, ("3",))]
    store.finish(folder, {"source": "x"}, groups)
    kept = store.Store(folder)
    assert list(kept) == ["a", "b", "c"]
    assert kept.about == {"source": "x"}
    for name in "ab":
        found = kept[name]
        assert isinstance(found, Statistics)
        np.testing.assert_array_equal(found.gram, one.gram)
        assert found.tokens == 300
    for a, b in zip(kept["c"], stack, strict=True):  # type: ignore[arg-type]
        np.testing.assert_allclose(a.gram, b.gram, rtol=1e-5, atol=1e-6)
        assert a.tokens == b.tokens


def test_folders_that_cannot_be_written_are_errors_of_the_output(tmp_path: Path) -> None:
    (tmp_path / store.INDEX).mkdir()
    with pytest.raises(OutputError, match=r"index\.json: statistics cannot be written"):
        store.finish(tmp_path, {}, [store.Group(("a",), 8, (3,), False, ("1",))])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"index\.json: statistics cannot be written"):
        store.begin(tmp_path / "file")


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    store.save(tmp_path, ("a",), moments(inputs(3)))
    store.finish(tmp_path, {}, [store.Group(("a",), 8, (3,), False, ("1",))])
    with pytest.raises(CheckpointError, match="wrong shape"):
        store.Store(tmp_path)["a"]
    (tmp_path / "a.npy").unlink()
    with pytest.raises(CheckpointError, match=r"a\.npy.*cannot be read"):
        store.Store(tmp_path)["a"]
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "about": {}, "groups": []}))
    with pytest.raises(CheckpointError, match="another format"):
        store.Store(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not an index"):
        store.Store(tmp_path)


def test_blas_has_one_thread_within_and_as_many_as_before_behind() -> None:
    from gguflike.calibrate.blas import _functions

    found = _functions()
    if found is None:
        pytest.skip("numpy was not built with OpenBLAS")
    get, set_ = found
    before = get()
    set_(2)
    try:
        with single_threaded():
            assert get() == 1
        assert get() == 2
    finally:
        set_(before)


def test_importance_counts_all_that_hessians_limit(tmp_path: Path) -> None:
    x = inputs(101)
    x[0] *= 1000
    both = Together((Importances(), Hessians()))
    collector = both.one(7, False)
    collector.add(x, None)
    importance, statistics = collector.result()
    np.testing.assert_allclose(importance.sums, np.square(x, dtype=np.float64).sum(0))
    np.testing.assert_array_equal(statistics.gram, moments(x, 100.0).gram)
    stacks = both.stack(tmp_path / "s", 1, 7)
    stacks.append((importance, statistics))
    assert stacks.parts[0] == [importance]
    np.testing.assert_array_equal(stacks.parts[1].own(0).gram, statistics.gram)
    assert both.size(7, True) == 8 * 7 + 8 * 49
