"""Passes that are cut off: they go on with the step that they were in, and come to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.calibrate import needs
from gguflike.calibrate.sensitivities import Sensitivities, measure
from gguflike.calibrate.steps import Steps
from gguflike.families.parts import Graph
from tests.files import contents
from tests.test_fisher import INPUTS, SHARED
from tests.test_indexers import indexed
from tests.walks import DENSE, EXPERTS, TEXTS, walked, weights_of

GRAPHS = {"dense": DENSE, "experts": EXPERTS, "shared keys": SHARED, "inputs": INPUTS, "choices": indexed(4)}
of_each = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


class Cut(Exception):
    """A pass that ends here."""


def measured(graph: Graph, folder: Path, **settings: Any) -> Sensitivities:
    read = settings.pop("read", weights_of(graph).__getitem__)
    return measure(graph, read, TEXTS, folder, **{"key": "model", **settings})


def counting(at: int, calls: list[Any]) -> Callable[..., None]:
    """A callback that keeps what it is told, and cuts off what tells it for the ``at``-th time."""

    def tell(*said: Any) -> None:
        calls.append(said)
        if len(calls) == at:
            raise Cut

    return tell


@pytest.fixture
def whole(graph: Graph, tmp_path: Path) -> dict[str, bytes]:
    """What a pass leaves that nobody disturbs."""
    measured(graph, tmp_path / "whole", threads=2)
    found = contents(tmp_path / "whole")
    assert not any("/" in name for name in found)  # nothing of what it kept meanwhile
    return found


@of_each
def test_cut_off_before_each_step(graph: Graph, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Each run does one step more, and no step is done twice."""
    last = 2 * len(graph.blocks)
    for step in range(last):
        told: list[Any] = []
        with pytest.raises(Cut):
            measured(graph, tmp_path / "cut", progress=counting(2, told), threads=1 + 2 * (step % 2))
        assert [done for done, *_ in told] == [step, step + 1]
    told = []
    measured(graph, tmp_path / "cut", progress=counting(0, told))
    assert [done for done, *_ in told] == [last]
    assert contents(tmp_path / "cut") == whole


@of_each
def test_cut_off_within_any_step(graph: Graph, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Wherever it reads a tensor, of which each is needed in every step."""
    weights, reads = weights_of(graph), list[Any]()

    def reading(tell: Callable[..., None]) -> Callable[[str], np.ndarray]:
        return lambda name: (tell(name), weights[name])[1]

    measured(graph, tmp_path / "all", read=reading(counting(0, reads)))
    assert len(reads) > 10
    for at in range(1, len(reads) + 1):
        folder, again = tmp_path / str(at), list[Any]()
        with pytest.raises(Cut):
            measured(graph, folder, read=reading(counting(at, [])), threads=1)
        measured(graph, folder, read=reading(counting(0, again)), threads=2)
        assert contents(folder) == whole
        assert len(again) <= len(reads) - at + 20  # not all of them once more


@pytest.mark.parametrize("graph", [EXPERTS, SHARED, GRAPHS["choices"]], ids=["experts", "shared keys", "choices"])
def test_cut_off_while_it_writes(
    graph: Graph, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that is written at once, of which half is there."""
    save, count = np.save, 0

    def half(path: Path, values: np.ndarray) -> None:
        nonlocal count
        save(path, values)
        count -= 1
        if count == 0:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise Cut

    at, cuts = 1, 0
    monkeypatch.setattr(np, "save", half)
    while True:
        count = at
        try:
            measured(graph, tmp_path / str(at), threads=1)
        except Cut:
            cuts, count = cuts + 1, 0
            measured(graph, tmp_path / str(at), threads=2)
            assert contents(tmp_path / str(at)) == whole
        else:
            break
        at += 3
    assert cuts > 2


@pytest.mark.parametrize("graph", [SHARED], ids=["shared keys"])
@pytest.mark.parametrize("step", [2, 3, 4, 99])
def test_what_was_damaged_is_made_anew(graph: Graph, whole: dict[str, bytes], tmp_path: Path, step: int) -> None:
    """A file that is shorter, another, or gone, of those that a pass has left in its middle or (99) at its end."""

    def cut(folder: Path) -> None:
        if step < 99:
            with pytest.raises(Cut):
                measured(graph, folder, progress=counting(step + 1, []))
        else:
            measured(graph, folder)

    cut(tmp_path / "cut")
    names = list(contents(tmp_path / "cut"))
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        cut(folder)
        path = folder / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        damaged = [b"", bytes(data[:-8]), bytes(data)][number % 3]
        path.unlink()
        if number % 4:
            path.write_bytes(damaged)
        measured(graph, folder)
        assert contents(folder) == whole
    assert len(names) > 8


def test_what_is_damaged_counts_from_the_beginning(tmp_path: Path) -> None:
    """And what no step reads any more may be anything."""
    read, over = ("stream0.f32", "stream2.f32", "predicted.npz"), ("stream1.f32", "stream3.f32")
    for name, steps in (*((each, 0) for each in read), *((each, 4) for each in over)):
        folder, told = tmp_path / name, list[Any]()
        with pytest.raises(Cut):
            measured(DENSE, folder, progress=counting(5, []))  # all but the way back through the first block
        path = folder / "backward" / name
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        measured(DENSE, folder, progress=counting(0, told))
        assert told[0][0] == steps, name


@pytest.mark.parametrize("other", [{"key": "another"}, {"seed": 1}, {"length": 64}])
def test_another_pass_begins_anew(other: dict[str, Any], tmp_path: Path) -> None:
    measured(DENSE, tmp_path / "whole", **other)
    told: list[Any] = []
    with pytest.raises(Cut):
        measured(DENSE, tmp_path / "cut", progress=counting(5, []))
    measured(DENSE, tmp_path / "cut", progress=counting(0, told), **other)
    assert told[0][0] == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@of_each
def test_it_takes_no_more_of_the_disk_than_is_said(graph: Graph, tmp_path: Path) -> None:
    """Before any step, cut off or not: beside the headers of small files."""
    tokens = sum(map(len, TEXTS))
    most, limit = 0, needs.backward(graph, tokens)
    for step in range(2 * len(graph.blocks) + 2):
        try:
            measured(graph, tmp_path, progress=counting(step + 2, []))
        except Cut:
            files = [path for path in (tmp_path / "backward").rglob("*.*") if "chosen" not in path.name]
            most = max(most, sum(path.stat().st_size - 128 * (path.suffix == ".npy") for path in files))
    predicted = 2**20  # which is no more with more tokens
    assert (len(graph.blocks) + 2) * 4 * tokens * graph.embedding.n_embd <= most < limit + predicted


def test_a_walk_goes_on_where_what_layers_share_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both streams, whatever of it is half written."""
    whole, _ = walked(SHARED, tmp_path / "whole")
    save = np.save

    def half(path: Path, values: np.ndarray) -> None:
        save(path, values)
        path.write_bytes(path.read_bytes()[:-8])
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", half)
        with pytest.raises(Cut):
            walked(SHARED, tmp_path / "cut")
    rest, _ = walked(SHARED, tmp_path / "cut")
    for name, statistics in rest.items():
        np.testing.assert_array_equal(statistics.gram, whole[name].gram)


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"key": "k", "done": "x", "notes": {}, "left": {}}', "\xff"])
def test_what_says_no_steps_is_none(said: str, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_bytes(said.encode("latin-1"))
    steps = Steps(tmp_path, "k")
    assert (steps.done, steps.notes) == (0, {})
    (tmp_path / "a").write_text("a")
    steps.leave(tmp_path / "a")
    steps.finish(3)
    assert Steps(tmp_path, "k").done == 3
    assert Steps(tmp_path, "another").done == 0
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 3
