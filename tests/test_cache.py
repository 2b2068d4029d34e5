"""The kernel cache only saves time: whatever befalls its files, the same comes out, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gguflike
from gguflike.kernels.engine import host, internals, store
from tests.files import names

# An op, and two kernels of numba's kind, of which one is part of the other.
PROGRAM = """
import numpy as np
from gguflike.kernels.decode.simple import decode_q8_0
from gguflike.kernels.engine import native
from gguflike.kernels.engine.memory import op_state
from gguflike.kernels.vector.args import QUANTIZE_ROWS

op = native.call("vector.quantize:rows")
x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
out = [np.zeros((2, 64), np.int8), np.zeros((2, 2), np.float32), np.zeros((2, 4), np.int32)]
codes, scales, sums = (a.ctypes.data for a in out)
words = QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=64, codes=codes, scales=scales, sums=sums)
args, state = np.array(words, np.int64), op_state(tokens=2)
op(args.ctypes.data, state.ctypes.data, 0, 2)
blocks = np.arange(34, dtype=np.uint8)
values = np.empty(32, np.float32)
decode_q8_0(0, 1, blocks.ctypes.data, values.ctypes.data)
print([a.tobytes().hex() for a in (*out, values)])
"""
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "zeroed": lambda data: bytes(len(data)),
    "zeroed at the end": lambda data: data[:-100] + bytes(100),
    "a bit is another": lambda data: data[:-50] + bytes([data[-50] ^ 4]) + data[-49:],
    "text": lambda data: b"<html>" + b"-" * len(data),
    "not sealed": lambda data: data[26:],
}


def run(folder: Path, prefix: str = "") -> str:
    """What the program prints with the kernel cache in ``folder``, saying nothing else."""
    environment = os.environ | {"GGUFLIKE_CACHE_DIR": str(folder), "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", prefix + PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with kept kernels, and what the program prints."""
    folder = tmp_path_factory.mktemp("cache")
    output = run(folder)
    assert {Path(name).suffix for name in kept(folder)} == {".op", ".kernel"}
    return folder, output


def test_kept_kernels_are_not_compiled_again(cache: tuple[Path, str]) -> None:
    folder, output = cache
    before = written(folder)
    assert run(folder) == output
    assert written(folder) == before


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_files_read_as_missing(cache: tuple[Path, str], tmp_path: Path, how: str) -> None:
    for name, data in kept(cache[0]).items():
        path = tmp_path / name
        path.write_bytes(DAMAGES[how](data))
        assert path.read_bytes() != data
        for version in ("", "vector.quantize:rows"):
            assert store.read(str(path), version) is None


def test_damaged_files_are_replaced(cache: tuple[Path, str]) -> None:
    """Each way of damage in turn, on every file at once."""
    folder, output = cache
    for how in ("empty", "zeroed", "a bit is another"):
        before = kept(folder)
        for path in folder.rglob("*.*"):
            if path.is_file():
                path.write_bytes(DAMAGES[how](path.read_bytes()))
        assert run(folder) == output, how
        after = written(folder)
        assert after.keys() == before.keys(), how
        assert run(folder) == output, how
        assert written(folder) == after, how


def test_a_file_copied_over_another_reads_as_missing(tmp_path: Path) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    assert store.write(one, b"machine code", "1")
    assert store.read(one, "1") == b"machine code"
    assert store.read(one, "2") is None
    (tmp_path / "other").write_bytes((tmp_path / "one").read_bytes())
    assert store.read(other, "1") is None


def test_what_is_in_the_place_of_a_file_is_left(tmp_path: Path) -> None:
    """A folder of that name, a file that may not be read, a link that leads nowhere."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
    for name in ("folder", "link"):
        assert store.read(str(tmp_path / name)) is None
    assert not store.write(str(tmp_path / "folder"), b"code")
    assert names(tmp_path) == ["folder", "link"]


def test_a_full_disk_keeps_nothing_and_leaves_nothing(cache: tuple[Path, str], tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing stops with an error in the middle of a file."""
    prefix = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
    assert run(tmp_path, prefix) == cache[1]
    assert kept(tmp_path) == {}


def test_room_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.has_room(str(tmp_path))
    assert not store.has_room(str(tmp_path / "nowhere"))
    monkeypatch.setattr(store.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert not store.has_room(str(tmp_path))
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_failure_to_write_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, call, fail)
    assert not store.write(str(tmp_path / "x.op"), b"code")
    assert names(tmp_path) == []


def test_an_interrupt_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write(str(tmp_path / "x.op"), b"code")
    assert names(tmp_path) == []


def test_parts_of_killed_writers_go_after_an_hour(tmp_path: Path) -> None:
    for name, age in (("old.op.1-a.tmp", 4000), ("new.op.1-b.tmp", 10), ("old.op", 4000)):
        (tmp_path / name).write_bytes(b"")
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    assert store.write(str(tmp_path / "x.op"), b"code")
    assert names(tmp_path) == ["new.op.1-b.tmp", "old.op", "x.op"]


def test_no_folder_at_all(cache: tuple[Path, str], tmp_path: Path) -> None:
    """Neither the folder asked for nor the temporary ones take files."""
    prefix = "import gguflike.kernels.engine.host as host; host._writable = lambda folder: False\n"
    assert run(tmp_path, prefix) == cache[1]
    assert kept(tmp_path) == {}


def test_a_folder_that_is_only_read(cache: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in it count; an empty one is passed over for a temporary one."""
    folder = cache[0]
    monkeypatch.setattr(host, "_writable", lambda path: "/gguflike/" not in path)
    try:
        for base, passed_over in ((folder, False), (tmp_path, True)):
            monkeypatch.setenv("GGUFLIKE_CACHE_DIR", str(base))
            host.cache_dir.cache_clear()
            assert str(host.cache_dir()).startswith(str(base)) != passed_over
    finally:
        host.cache_dir.cache_clear()


def test_plain_numba_makes_the_same(cache: tuple[Path, str], tmp_path: Path) -> None:
    """Without the parts of numba that it does not promise to keep."""
    changes = {
        "helpers fail": "internals._works = lambda compiler: False",
        "no helper compiler": "internals._helper_compiler = lambda: None",
        "no cache": "internals.KernelCache._file = lambda *args: None.missing",
    }
    for change in changes.values():
        prefix = f"from gguflike.kernels.engine import internals; {change}\n"
        assert run(tmp_path, prefix) == cache[1]


def test_helpers_are_tried_before_they_are_used() -> None:
    compiler = internals._helper_compiler()
    assert compiler is not None
    assert internals._works(compiler.__mro__[1])

    class Broken(compiler.__mro__[1]):  # type: ignore[misc]
        def define_pipelines(self) -> list[object]:
            raise AttributeError("numba has changed")

    assert not internals._works(Broken)


def test_numba_told_not_to_compile(tmp_path: Path) -> None:
    program = "import numpy, gguflike; gguflike.quantize(numpy.ones((1, 32)), 'Q8_0')"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "GGUFLIKE_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "UnsupportedError: NUMBA_DISABLE_JIT: " in done.stderr
    assert "unset" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("changed", ["kernels/encode/scale.py", "blocks/table.py"])
def test_kernels_of_other_sources_are_others(tmp_path: Path, changed: str) -> None:
    """Machine code holds offsets and levels of block types as constants, so it is kept apart by their sources, too."""
    package = Path(gguflike.__file__).parent
    shutil.copytree(package, tmp_path / "gguflike", ignore=shutil.ignore_patterns("__pycache__", "data"))
    code = "from gguflike.kernels.engine.host import sources_digest; print(sources_digest())"

    def digest() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    before = digest()
    path = tmp_path / "gguflike" / changed
    path.write_text(path.read_text() + "\n")
    assert digest() != before
