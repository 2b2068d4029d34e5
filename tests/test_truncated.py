"""A file that is truncated, written to or replaced while it is open: a typed error, never a bus error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike import container
from gguflike.errors import GGUFError
from tests import tiny_gguf

# Truncates the file at the n-th read from now on, in a process of its own, which a bus error would end.
CHILD = """
import os, sys
from pathlib import Path
import gguflike
from gguflike import container
from gguflike.container import system
from gguflike.errors import GGUFLikeError
what, path, calls = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
whole = path.read_bytes()
read, left = system.read_at, [calls]
def reading(descriptor, view, offset):
    count = read(descriptor, view, offset)
    left[0] -= 1
    if left[0] == 0:
        os.truncate(path, 40)
    return count
system.read_at = reading
other = path.with_name("other.gguf")
other.write_bytes(whole)
out = path.with_name("out.gguf")
def run():
    with gguflike.load(path, threads=1) as model:
        model.logits([1, 2, 3])
        os.truncate(path, 40)
        model.logits([1, 2, 3, 4, 5])
tasks = {
    "run": run,
    "verify": lambda: gguflike.verify(path).check(),
    "diff": lambda: gguflike.diff(path, other),
    "quantize": lambda: gguflike.quantize_file(path, out, "Q8_0", overwrite=True),
    "export": lambda: gguflike.export(path, path.with_name("folder")),
    "load": lambda: [container.open(path).load(name) for name in container.open(path).infos],
}
try:
    tasks[what]()
    print("done")
except GGUFLikeError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("F16", "Q8_0"):
        tiny_gguf.write(folder / f"{kind}.gguf", kind)
    return {path.stem: path.read_bytes() for path in folder.iterdir()}


def child(what: str, path: Path, calls: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, what, path, str(calls)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    return done.stdout


@pytest.mark.parametrize("what", ["verify", "diff", "quantize", "export", "load"])
@pytest.mark.parametrize("calls", [1, 7])
def test_truncated_while_it_is_read(what: str, calls: int, models: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(models["F16"])
    said = child(what, path, calls)
    assert "shorter" in said or "changed" in said or "truncated" in said, said


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
@pytest.mark.parametrize("calls", [3, 10_000])
def test_truncated_while_it_runs(kind: str, calls: int, models: dict[str, bytes], tmp_path: Path) -> None:
    """While it is loaded, and before a token that has not come yet."""
    path = tmp_path / "model.gguf"
    path.write_bytes(models[kind])
    assert "the file became shorter while it was read" in child("run", path, calls)


def test_what_is_in_memory_needs_no_file(models: dict[str, bytes], tmp_path: Path) -> None:
    """Tokens that came before are computed whatever happens to the file; a new one needs its row."""
    path = tmp_path / "model.gguf"
    path.write_bytes(models["F16"])
    with gguflike.load(path, threads=1) as model:
        before = model.logits([1, 2, 3])
        os.truncate(path, 40)
        model.forget(0)
        np.testing.assert_array_equal(model.logits([1, 2, 3]), before)
        with pytest.raises(GGUFError, match="became shorter"):
            model.logits([4])
        np.testing.assert_array_equal(model.logits([1, 2, 3]), before)


def test_a_file_that_is_replaced_stays_readable_as_it_was(models: dict[str, bytes], tmp_path: Path) -> None:
    path, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    path.write_bytes(models["F16"])
    other.write_bytes(b"something else")
    with container.open(path) as file:
        name = next(iter(file.infos))
        before = file.load(name).data
        other.replace(path)
        np.testing.assert_array_equal(file.load(name).data, before)


def test_a_file_that_is_written_to_is_an_error(models: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(models["F16"])
    with container.open(path) as file:
        name = next(iter(file.infos))
        file.load(name)
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
        with pytest.raises(GGUFError, match="changed while it was being read") as caught:
            file.load(name)
        assert caught.value.tensor == name
        with pytest.raises(GGUFError, match="changed"):
            file.tensors[name]


def test_rows_are_read_once(models: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(models["Q8_0"])
    with gguflike.load(path, threads=1) as model:
        read: list[int] = []
        into = container.GGUFFile.read_into
        monkeypatch.setattr(
            container.GGUFFile,
            "read_into",
            lambda file, name, start, data: (read.append(start), into(file, name, start, data))[1],
        )
        model.logits([5, 6, 5])
        model.forget(0)
        model.logits([6, 7])
        assert len(read) == 3
        assert len(set(read)) == 3
