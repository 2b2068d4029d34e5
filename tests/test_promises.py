"""What README promises, by recording calls or by effect, and that README and ``--help`` say what there is."""

from __future__ import annotations

import os
import re
import shlex
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.checkpoint import LazyTensor
from gguflike.cli import COMMANDS, _parser, main
from gguflike.container import Writer
from gguflike.convert import convert, encode, export
from tests import tiny

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
AUSTEN = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"


# "Nothing half-written": temporary file, digests, fsync, rename, fsync of the folder


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that change a file system or make changes durable, in order; repeated ones once."""
    made: list[str] = []

    def note(text: str) -> None:
        if made[-1:] != [text]:
            made.append(text)

    def kind(descriptor: int) -> str:
        return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

    def record(name: str, text: Callable[..., str]) -> None:
        real = getattr(os, name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            note(text(*args))
            return result

        monkeypatch.setattr(os, name, recorded)

    record("pwrite", lambda descriptor, *_: f"write {kind(descriptor)}")
    record("fsync", lambda descriptor: f"fsync {kind(descriptor)}")
    for name in ("replace", "rename", "link", "unlink"):
        record(name, lambda path, *_, name=name: f"{name} {'temporary' if '.gguflike-' in str(path) else str(path)}")
    return made


@pytest.mark.parametrize(("overwrite", "moved"), [(True, ["replace"]), (False, ["link", "unlink"])])
def test_a_file_is_durable_before_it_is_visible_and_its_name_after(
    calls: list[str], tmp_path: Path, overwrite: bool, moved: list[str]
) -> None:
    tensor = gguflike.quantize(np.ones((2, 32)), "F32", name="x")
    gguflike.container.write(tmp_path / "a.gguf", {}, [tensor], overwrite=overwrite)
    assert calls == ["write file", "fsync file", *(f"{each} temporary" for each in moved), "fsync folder"]


def test_a_failure_makes_nothing_durable_or_visible(calls: list[str], tmp_path: Path) -> None:
    tensor = gguflike.quantize(np.ones((2, 32)), "F32", name="x")
    planned = gguflike.container.plan({}, [gguflike.container.TensorSpec("x", tensor.shape, tensor.format)])
    with pytest.raises(gguflike.OutputError), Writer(tmp_path / "a.gguf", planned):
        pass  # a tensor is missing
    assert calls == ["write file", "unlink temporary"]


def test_a_folder_is_durable_before_it_is_visible_and_its_name_after(calls: list[str], tmp_path: Path) -> None:
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "a.gguf", "F32")
    del calls[:]
    export(tmp_path / "a.gguf", tmp_path / "out")
    assert calls == ["fsync file", "fsync folder", "rename temporary", "fsync folder"]
    written = len(list((tmp_path / "out").iterdir()))

    synced: list[int] = []
    real = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
        export(tmp_path / "a.gguf", tmp_path / "again")
    assert len(synced) == written + 2  # every file, the folder, and the folder above it


# "one slab in memory", "one tensor ... per worker": memory is bounded


def test_no_more_than_a_slab_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = LazyTensor.read_f32

    def recorded(self: LazyTensor, *rows: Any) -> Any:
        values = real(self, *rows)
        read.append(values.nbytes)
        return values

    monkeypatch.setattr(LazyTensor, "read_f32", recorded)
    monkeypatch.setattr(encode, "SLAB_BYTES", 4096)
    monkeypatch.setattr(encode.Job.parts, "__defaults__", (4096,))
    folder = tiny.checkpoint(tmp_path / "hf")
    convert(folder, tmp_path / "a.gguf", "F16")
    largest = max(int(np.prod(shape)) * 4 for shape in tiny.shapes(tiny.config()).values())
    assert largest > 4 * 4096  # a tensor that is not read at once
    assert max(read) == 4096


class Watched(Executor):
    """A thread for each task; none ends before ``wanted`` were submitted. ``most``: how many ever were at a time."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.unfinished, self.most = wanted, 0, 0
        self.lock, self.full = threading.Lock(), threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self.lock:
            self.unfinished += 1
            self.most = max(self.most, self.unfinished)
            if self.unfinished == self.wanted:
                self.full.set()
        threading.Thread(target=self._work, args=(future, fn, args)).start()
        return future

    def _work(self, future: Future[Any], fn: Callable[..., Any], args: Any) -> None:
        self.full.wait(5)
        time.sleep(0.02)  # for one task too many to come
        try:
            result = fn(*args)
        except BaseException as error:
            future.set_exception(error)
            return
        with self.lock:
            self.unfinished -= 1
        future.set_result(result)


def test_twice_as_many_tensors_as_workers_are_submitted_at_a_time(tmp_path: Path) -> None:
    executor = Watched(4)
    executor._max_workers = 2  # type: ignore[attr-defined]  # as the executors of the standard library say it
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "a.gguf", "F16", executor=executor)
    assert executor.most == 4


def test_an_executor_that_does_not_say_its_workers_has_one_for_each_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    executor = Watched(6)
    convert(tiny.checkpoint(tmp_path / "hf"), tmp_path / "a.gguf", "F16", executor=executor)
    assert executor.most == 6


# "Nothing silent": what is printed is what is done


def test_dry_run_prints_what_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(AUSTEN), "-o", "austen.gguf", "-t", "Q4_K_M", "--dry-run"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("austen-kjv-6m -> austen.gguf\n")
    assert printed in README


# README and --help against the parser


def fenced(language: str = "") -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE))


def table() -> list[str]:
    """The lines of README's table of commands: a command, two spaces or more, what it does."""
    return [line for line in fenced().splitlines() if re.match(r"gguflike [a-z]+ .*\S  +\S", line)]


def test_readme_names_every_command_and_no_other() -> None:
    named = {line.split()[1] for line in table()}
    assert named == set(COMMANDS) - {"demo"}
    assert "`gguflike demo`" in README
    used = set(re.findall(r"^(?:\$ )?gguflike ([a-z]+)\b", fenced(), re.MULTILINE)) | set(
        re.findall(r"`gguflike ([a-z]+)\b", README)
    )
    assert used <= set(COMMANDS)


VALUES = {"N": "3", "T": "0.5"}


@pytest.mark.parametrize("line", table())
def test_every_line_of_readme_is_a_command_line(line: str) -> None:
    command = re.split(r"  +", line)[0].replace("[", "").replace("]", "")
    arguments = [VALUES.get(word, word) for word in shlex.split(command)[1:]]
    assert _parser(arguments).parse_args(arguments).command == arguments[0]


def test_options_that_readme_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = ""
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        known += capsys.readouterr().out
    # options of our own commands only: in the table, in sessions, and in backticks
    ours = "\n".join(
        [*table(), *re.findall(r"^\$ gguflike .*", fenced(), re.MULTILINE), *re.findall(r"`(--.*?)`", README)]
    )
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)):
        assert re.search(rf"{option}\b", known), option


def test_help_lists_every_command_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = {
        line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines() if line.strip()
    }
    for command, text in COMMANDS.items():
        assert lines[command] == text


def test_every_command_has_a_module_and_every_module_of_a_command_is_listed() -> None:
    files = (Path(gguflike.__file__).parent / "cli").glob("*.py")
    assert {path.stem for path in files if "\ndef run(" in path.read_text("utf-8")} == set(COMMANDS)


def test_readme_s_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    convert(AUSTEN, "model.gguf", "Q8_0")
    code = fenced("python").replace("folder-or-hub-id", AUSTEN.as_posix())
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {
        "array": rng.standard_normal((4, 256)).astype(np.float32),
        "x": rng.standard_normal((2, 256)).astype(np.float32),
    }
    exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out.strip()
    assert gguflike.verify("out.gguf").ok
