"""Kernels compiled beside this process: each once, in order of likeness, and whatever goes wrong with the others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gguflike.kernels.engine import host, native, workers
from gguflike.kernels.engine.workers import Task, _Waiting, compile_all
from gguflike.kernels.prepare import Need, prepare
from gguflike.progress import COMPILING

HERE = "tests.test_workers:leave"


def leave(folder: str, name: str, how: str = "") -> None:
    """A task: leaves a file that says which process did it. Helpers are told to fail by ``how``."""
    if how == "dies":
        os._exit(3)
    if how == "raises":
        raise ValueError(name)
    sys.stdout.write("this must not disturb the answers\n")
    sys.stdout.flush()
    time.sleep(0.05)
    (Path(folder) / name).write_text(str(os.getpid()))


class Watched:
    """Tasks that leave files, and what is told of them."""

    def __init__(self, folder: Path, *names: str, how: str = "") -> None:
        self.folder = folder
        self.tasks = [Task(name[0], HERE, (str(folder), name, how)) for name in names]
        self.told: list[tuple[int, int, str]] = []
        self.here: list[str] = []

    def run(self) -> None:
        compile_all(self.tasks, self._here, self._kept, lambda *words: self.told.append(words))

    def _here(self, task: Task) -> None:
        self.here.append(task.args[1])
        leave(*task.args[:2])

    def _kept(self, task: Task) -> bool:
        return (self.folder / task.args[1]).exists()

    def processes(self) -> set[int]:
        return {int(path.read_text()) for path in self.folder.iterdir()}


NAMES = ("a1", "b1", "a2", "c1", "a3", "b2", "c2", "b3", "c3", *(f"d{i}" for i in range(90)))


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFLIKE_THREADS", "2")
    monkeypatch.setattr(workers, "keeps_kernels", lambda: True)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("GGUFLIKE_THREADS", str(count))
    watched = Watched(tmp_path, *NAMES)
    watched.run()
    assert len(list(tmp_path.iterdir())) == len(NAMES)
    assert len(watched.processes()) == count
    assert os.getpid() in watched.processes()
    assert len(watched.here) < len(NAMES)
    done = [count for count, _, _ in watched.told]
    assert done == sorted(set(done))
    assert (done[0], done[-1]) == (0, len(NAMES))
    assert {words[1:] for words in watched.told} == {(len(NAMES), COMPILING)}


@pytest.mark.parametrize(
    "alone",
    [
        lambda patch: patch.setenv("GGUFLIKE_THREADS", "1"),
        lambda patch: patch.setattr(workers, "keeps_kernels", lambda: False),
        lambda patch: patch.setattr(sys, "executable", ""),
        lambda patch: patch.setattr(sys, "frozen", True, raising=False),
        lambda patch: patch.setattr(sys, "executable", "/nowhere/python"),
    ],
    ids=["one CPU", "no cache", "no program", "frozen", "no such program"],
)
def test_one_process_where_others_do_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Callable[[pytest.MonkeyPatch], None]
) -> None:
    alone(monkeypatch)
    watched = Watched(tmp_path, "a", "b", "c")
    watched.run()
    assert watched.here == ["a", "b", "c"]
    assert watched.told == [(done, 3, COMPILING) for done in range(4)]


def test_helpers_import_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "types", "re", "numpy", "subprocess", "gguflike"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(1)")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(Path(each).absolute()) for each in sys.path if each])
    watched = Watched(tmp_path / "out", *NAMES)
    watched.run()
    assert len(watched.processes()) == 2


@pytest.mark.parametrize("how", ["dies", "raises"])
def test_what_a_helper_fails_at_is_done_here(tmp_path: Path, how: str) -> None:
    watched = Watched(tmp_path, *NAMES, how=how)
    watched.run()
    assert sorted(watched.here) == sorted(NAMES)
    assert watched.told[-1] == (len(NAMES), len(NAMES), COMPILING)


def test_an_error_here_ends_the_helpers(tmp_path: Path) -> None:
    watched = Watched(tmp_path, *NAMES)

    def fail(task: Task) -> None:
        raise KeyboardInterrupt

    before = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        compile_all(watched.tasks, fail, watched._kept, None)
    assert time.perf_counter() - before < 10
    assert len(list(tmp_path.iterdir())) < len(NAMES)


def test_likes_go_to_the_process_that_had_the_first() -> None:
    waiting = _Waiting([Task(name[0], "", (name,)) for name in ("a1", "b1", "b2", "b3", "a2", "c1")])
    taken, kind = [], ""
    for kind in ("", "b", "a", "b", "b", "", "b"):
        task = waiting.take(kind)
        taken.append(task.args[0] if task else None)
    assert taken == ["b1", "b2", "a1", "b3", "a2", "c1", None]


def test_prepared_kernels_are_only_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each need is one kernel; afterwards nothing is compiled, and nothing is told."""
    monkeypatch.setenv("GGUFLIKE_CACHE_DIR", str(tmp_path))
    host.cache_dir.cache_clear()
    told: list[tuple[int, int, str]] = []
    needs = [Need("decode", "Q5_1"), Need("decode", "Q4_1"), Need("decode", "Q5_1"), Need("decode", "F32")]
    monkeypatch.setattr(native, "_addresses", {})
    try:
        prepare(needs, lambda *words: told.append(words))
        assert {words[1:] for words in told} <= {(2, COMPILING)}
        count = len(told)
        monkeypatch.setattr(native, "_addresses", {})
        prepare(needs, lambda *words: told.append(words))
        assert len(told) == count
    finally:
        host.cache_dir.cache_clear()


def test_ops_are_compiled_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["ops:rms_norm", "ops:silu_mul", "vector.quantize:rows"]
    monkeypatch.setenv("GGUFLIKE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native, "_addresses", {})
    host.cache_dir.cache_clear()
    told: list[tuple[int, int, str]] = []
    try:
        addresses = native.load(names, lambda *words: told.append(words))
        assert list(addresses) == names
        assert all(addresses.values())
        assert told[0] == (0, 3, COMPILING)
        assert told[-1] == (3, 3, COMPILING)
        kept = sorted(path.name.partition("-")[0] for path in tmp_path.rglob("*.op"))
        assert kept == ["ops", "ops", "vector.quantize"]
        monkeypatch.setattr(native, "_addresses", {})
        assert native.load(names, lambda *words: told.append(words)).keys() == addresses.keys()
        assert told[-1] == (3, 3, COMPILING)
        assert len({count for count, _, _ in told}) == len(told)
    finally:
        host.cache_dir.cache_clear()
