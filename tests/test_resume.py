"""Conversions that are cut off: the target is untouched, and the same command goes on and ends with the same bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.cli import main
from gguflike.container import TensorSpec, Writer, plan, publish, system
from gguflike.convert import convert, encode, merge, pipeline, quantize_file, resume
from gguflike.errors import OutputError, QuantizationError
from tests import tiny

KILLED = """
import os, signal, sys
from gguflike.convert import convert
calls = 0
def progress(done, total, what):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
split = int(sys.argv[4]) or None
convert(sys.argv[1], sys.argv[2], "F16", progress=progress, split_max_tensors=split, overwrite=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf", dtype="BF16", shards=2)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors that are encoded, in order."""
    names: list[str] = []
    real = encode.Job.encode

    def recorded(self: encode.Job, *args: Any) -> Any:
        names.append(self.source.name)
        return real(self, *args)

    monkeypatch.setattr(encode.Job, "encode", recorded)
    return names


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob(".gguflike-*"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("x*.gguf"))}


class Cut(Exception):
    """What ends a conversion in these tests, and is nothing that the library knows."""


def after(tensors: int, error: BaseException) -> Callable[[int, int, str], None]:
    """A progress callback that raises once so many tensors are written."""

    def progress(done: int, total: int, what: str) -> None:
        nonlocal tensors
        tensors -= what != "header"
        if tensors == 0:
            raise error

    return progress


def cut_off(folder: Path, target: Path, tensors: int = 9, **options: Any) -> Path:
    """Convert until so many tensors are written; what is left."""
    with pytest.raises(Cut):
        convert(folder, target, "F16", progress=after(tensors, Cut()), **options)
    assert not target.exists()
    [partial] = partials(target.parent)
    return partial


def bytes_of(folder: Path, **options: Any) -> bytes:
    """What a conversion that nothing disturbs makes."""
    target = folder.parent / "whole" / "x.gguf"
    convert(folder, target, "F16", overwrite=True, **options)
    return target.read_bytes()


@pytest.mark.parametrize("split", [0, 7])
def test_killed_at_any_tensor(folder: Path, tmp_path: Path, split: int, encoded: list[str]) -> None:
    """SIGKILL after the header, in the middle, and after the last tensor, each going on from the one before."""
    whole = tmp_path / "whole"
    whole.mkdir()
    planned = convert(folder, whole / "x.gguf", "F16", split_max_tensors=split or None)
    target = tmp_path / "x.gguf"
    names = [
        Path(path).name for path in convert(folder, target, "F16", dry_run=True, split_max_tensors=split or None).paths
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"old")
    for call in (1, 6, 9, 14):
        arguments = [sys.executable, "-c", KILLED, folder, target, str(call), str(split)]
        assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
        assert {(tmp_path / name).read_bytes() for name in names} == {b"old"}
        assert len(partials(tmp_path)) == max(len(names), 1)
    del encoded[:]
    done = convert(folder, target, "F16", split_max_tensors=split or None, overwrite=True)
    assert "goes on where it was cut off" in done.notices[-1]
    assert 0 < len(encoded) < len(planned.tensors) - 8
    assert digests(tmp_path) == digests(whole)
    assert partials(tmp_path) == []
    assert gguflike.verify(done.paths[0]).findings == ()


def test_an_error_says_what_is_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.gguf"
    with pytest.raises(OutputError) as caught:
        convert(folder, target, "F16", progress=after(9, OutputError("cannot write", remedy="free some space")))
    remedy = caught.value.remedy or ""
    assert remedy.startswith("free some space; ")
    assert remedy.endswith("of 21 tensors are kept: the same command goes on from there")
    with pytest.raises(KeyboardInterrupt, match="tensors are kept"):
        convert(folder, target, "F16", progress=after(12, KeyboardInterrupt()))
    assert main(["convert", str(folder), "-o", str(target), "-t", "F16", "--dry-run"]) == 0
    assert "notice: goes on where it was cut off" in capsys.readouterr().out
    assert main(["convert", str(folder), "-o", str(target), "-t", "F16", "--dry-run", "--no-resume"]) == 0
    assert "is not gone on with, and is removed" in capsys.readouterr().out
    assert len(partials(tmp_path)) == 1


def test_bad_data_leave_nothing(tmp_path: Path) -> None:
    """The same command would end the same way."""
    bad = tiny.weights(tiny.config())["model.norm.weight"].copy()
    bad[3] = np.inf
    folder = tiny.checkpoint(tmp_path / "hf", change={"model.norm.weight": bad})
    with pytest.raises(QuantizationError) as caught:
        convert(folder, tmp_path / "x.gguf", "F16")
    assert "kept" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def change_method(folder: Path) -> dict[str, Any]:
    return {"method": "absmax"}


def change_weights(folder: Path) -> dict[str, Any]:
    path = folder / "model-00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    return {}


def change_time(folder: Path) -> dict[str, Any]:
    os.utime(folder / "model-00002-of-00002.safetensors", ns=(1, 1))
    return {}


def change_header(folder: Path) -> dict[str, Any]:
    return {"name": "Another"}


def change_version(folder: Path) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("change", [change_method, change_weights, change_time, change_header, change_version])
def test_what_was_made_otherwise_is_discarded(
    folder: Path,
    tmp_path: Path,
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], dict[str, Any]],
) -> None:
    cut_off(folder, tmp_path / "x.gguf")
    options = change(folder)
    if change is change_version:
        monkeypatch.setattr(resume, "__version__", "9")
    del encoded[:]
    done = convert(folder, tmp_path / "x.gguf", "F16", **options)
    assert "was made of other files or options, and is removed" in done.notices[-1]
    assert len(encoded) == len(done.tensors)
    assert (tmp_path / "x.gguf").read_bytes() == bytes_of(folder, **options)
    assert partials(tmp_path) == []


def test_importance_belongs_to_it(tmp_path: Path) -> None:
    """Which no header says: only the name of its file."""
    from tests.imatrix_files import imatrix_gguf

    folder = tiny.checkpoint(tmp_path / "hf")
    rng = np.random.default_rng(0)
    target, matrix = tmp_path / "x.gguf", tmp_path / "m.gguf"

    def make() -> None:
        shapes = {f"blk.{i}.attn_q.weight": 32 for i in range(2)}
        sums = {name: rng.random((1, n), np.float32) for name, n in shapes.items()}
        imatrix_gguf(matrix, sums, {name: np.ones((1, 1)) for name in sums})

    make()
    with pytest.raises(Cut):
        convert(folder, target, "Q8_0", imatrix=matrix, progress=after(9, Cut()))
    assert "goes on" in convert(folder, target, "Q8_0", imatrix=matrix, dry_run=True).notices[-1]
    make()
    assert "made of other files" in convert(folder, target, "Q8_0", imatrix=matrix, dry_run=True).notices[-1]


@pytest.mark.parametrize("damage", ["data", "line", "tail", "head", "short"])
def test_nothing_in_a_journal_is_believed(folder: Path, tmp_path: Path, encoded: list[str], damage: str) -> None:
    """Data that are not what it says, a line that was cut off, zeros that a crash has left: each is written anew."""
    partial = cut_off(folder, tmp_path / "x.gguf")
    data = bytearray(partial.read_bytes())
    journal = data.index(b'{"journal"')
    infos = convert(folder, None, "F16", dry_run=True).file.tensors
    if damage == "data":
        data[infos[2].offset] ^= 1
    elif damage == "line":
        at = data.index(b"\n", data.index(infos[3].name.encode(), journal))
        data[at - 9 :] = b""
    elif damage == "tail":
        data += bytes(4096)
    elif damage == "head":
        data[journal + 3] ^= 1
    else:
        data[journal:] = b""
    partial.write_bytes(data)
    del encoded[:]
    done = convert(folder, tmp_path / "x.gguf", "F16")
    # Nine tensors were written when it was cut off, or a few more: the stages go on until they hear of it.
    least, most = {"data": (9, 13), "line": (18, 18), "tail": (8, 12), "head": (21, 21), "short": (21, 21)}[damage]
    assert least <= len(encoded) <= most
    assert (infos[2].name in encoded) == (damage in ("data", "head", "short"))
    assert (tmp_path / "x.gguf").read_bytes() == bytes_of(folder)
    assert gguflike.verify(done.paths[0]).findings == ()


def test_a_false_claim_does_not_hide_what_follows(folder: Path, tmp_path: Path, encoded: list[str]) -> None:
    """Cut off, damaged, gone on with and cut off again: the damaged tensor is written once more, and counts then."""
    partial = cut_off(folder, tmp_path / "x.gguf", 6)
    first = convert(folder, None, "F16", dry_run=True).file.tensors[1]
    data = bytearray(partial.read_bytes())
    data[first.offset] ^= 1
    partial.write_bytes(data)
    cut_off(folder, tmp_path / "x.gguf", 15)
    del encoded[:]
    convert(folder, tmp_path / "x.gguf", "F16")
    assert first.name not in encoded
    assert len(encoded) < 8
    assert (tmp_path / "x.gguf").read_bytes() == bytes_of(folder)


def test_without_resume(folder: Path, tmp_path: Path, encoded: list[str]) -> None:
    with pytest.raises(Cut):
        convert(folder, tmp_path / "x.gguf", "F16", progress=after(9, Cut()), resume=False)
    assert partials(tmp_path) == []
    cut_off(folder, tmp_path / "x.gguf")
    del encoded[:]
    done = convert(folder, tmp_path / "x.gguf", "F16", resume=False)
    assert len(encoded) == len(done.tensors)
    assert partials(tmp_path) == []


def test_what_belongs_to_other_targets_is_left_alone(folder: Path, tmp_path: Path) -> None:
    mine = cut_off(folder, tmp_path / "x.gguf")
    before = mine.read_bytes()
    convert(folder, tmp_path / "x2.gguf", "F16")
    merged = convert(folder, tmp_path / "x3.gguf", "F16", split_max_tensors=5)
    merge(merged.paths[0], tmp_path / "x4.gguf")
    assert partials(tmp_path) == [mine]
    assert mine.read_bytes() == before


def test_there_is_one_for_each_target(folder: Path, tmp_path: Path) -> None:
    """However often a command is cut off, and whatever its options were."""
    for kind in ("F16", "F32", "BF16", "F16"):
        with pytest.raises(Cut):
            convert(folder, tmp_path / "x.gguf", kind, progress=after(9, Cut()))
        assert len(partials(tmp_path)) == 1
    # what a version without journals, or a writer without one, has left
    (tmp_path / f"{publish.temporary_prefix('x.gguf')}old.tmp").write_bytes(b"")
    assert "goes on" in str(convert(folder, tmp_path / "x.gguf", "F16").notices)
    assert partials(tmp_path) == []


def test_two_at_the_same_time(folder: Path, tmp_path: Path) -> None:
    """The first goes on with what was left, the second has a file of its own; neither disturbs the other."""
    target = tmp_path / "x.gguf"
    cut_off(folder, target)
    seen: list[int] = []

    def progress(done: int, total: int, what: str) -> None:
        if not seen:
            seen.append(len(partials(tmp_path)))
            done_too = convert(folder, target, "F16", overwrite=True)
            seen.append(len(partials(tmp_path)))
            assert "goes on" not in str(done_too.notices)

    convert(folder, target, "F16", progress=progress, overwrite=True)
    assert seen == [1, 1]
    assert target.read_bytes() == bytes_of(folder)
    assert partials(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_an_executor_goes_on_and_is_gone_on_from(
    folder: Path, tmp_path: Path, encoded: list[str], workers: int
) -> None:
    target = tmp_path / "x.gguf"
    with ThreadPoolExecutor(workers) as executor:
        cut_off(folder, target, executor=executor)
        cut_off(folder, target, 14)
        del encoded[:]
        convert(folder, target, "F16", executor=executor)
    assert len(encoded) < 9
    assert target.read_bytes() == bytes_of(folder)


def test_a_quantization_goes_on(folder: Path, tmp_path: Path, encoded: list[str]) -> None:
    convert(folder, tmp_path / "f.gguf", "F32")
    quantize_file(tmp_path / "f.gguf", tmp_path / "whole.gguf", "Q8_0")
    with pytest.raises(Cut):
        quantize_file(tmp_path / "f.gguf", tmp_path / "x.gguf", "Q8_0", progress=after(9, Cut()))
    del encoded[:]
    quantize_file(tmp_path / "f.gguf", tmp_path / "x.gguf", "Q8_0")
    assert len(encoded) < 14
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_what_is_there_needs_no_more_space(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = cut_off(folder, tmp_path / "x.gguf", 18)
    size = convert(folder, None, "F16", dry_run=True).file_bytes
    there = 512 * partial.stat().st_blocks
    assert there > size // 2
    monkeypatch.setattr(system, "free_bytes", lambda _: size - there - 1)
    with pytest.raises(OutputError, match="not enough free space"):
        convert(folder, tmp_path / "x.gguf", "F16")
    assert partials(tmp_path) == [partial]  # which is still good for something
    monkeypatch.setattr(system, "free_bytes", lambda _: size - there)
    convert(folder, tmp_path / "x.gguf", "F16")
    monkeypatch.undo()
    assert (tmp_path / "x.gguf").read_bytes() == bytes_of(folder)


def test_space_is_that_of_all_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = convert(folder, None, "F16", dry_run=True, split_max_tensors=5).file_bytes
    monkeypatch.setattr(system, "free_bytes", lambda _: size - 1)
    with pytest.raises(OutputError, match="not enough free space"):
        convert(folder, tmp_path / "x.gguf", "F16", split_max_tensors=5)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    monkeypatch.setattr(system, "free_bytes", lambda _: size)
    convert(folder, tmp_path / "x.gguf", "F16", split_max_tensors=5)


def test_without_locks_nothing_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could tell a dead writer's file from a living one's."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(system, "lock", refuse)
    with pytest.raises(Cut):
        convert(folder, tmp_path / "x.gguf", "F16", progress=after(9, Cut()))
    assert partials(tmp_path) == []


def test_a_process_that_was_forked_does_not_hold_the_lock(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("nothing is forked here")
    planned = plan({}, [TensorSpec("x", (8,), gguflike.blocks.FORMATS["F32"])])
    read, write = os.pipe()
    here, ready = os.pipe()
    child = 0

    def die() -> None:
        nonlocal child
        with Writer(tmp_path / "x.gguf", planned, made_of="x") as writer:
            writer.write("x", np.zeros(32, np.uint8))
            child = os.fork()
            if not child:
                os.write(ready, b"x")
                os.read(read, 1)
                os._exit(0)
            os.read(here, 1)
            raise Cut

    with pytest.raises(Cut):
        die()
    try:
        with Writer(tmp_path / "x.gguf", planned, made_of="x") as writer:
            assert writer.restore("x")
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)


# --- what fails ---

CALLS = ("pwrite", "fsync", "fdatasync", "replace", "ftruncate", "open", "preadv")


@pytest.mark.parametrize("call", CALLS)
def test_each_failing_call(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Fail the n-th call of one kind, for every n until a conversion succeeds: the target is the old one, or complete
    (only its folder was not made durable), and the next run makes it so. No more than one file is ever left."""
    target = tmp_path / "x.gguf"
    whole = bytes_of(folder)
    monkeypatch.setattr(pipeline, "FLUSHED_BYTES", 4096)
    real = getattr(os, call)
    failures = 0
    for fail_at in range(200):
        target.write_bytes(b"old")
        count = 0

        def failing(*args: Any, last: int = fail_at, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == last + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                convert(folder, target, "F16", overwrite=True)
            except OutputError:
                failures += 1
            else:
                break
        assert target.read_bytes() in (b"old", whole)
        assert len(partials(tmp_path)) <= 1
        if fail_at % 5 == 0:  # the next run goes on, and mostly the one after it
            convert(folder, target, "F16", overwrite=True)
            assert target.read_bytes() == whole
            assert partials(tmp_path) == []
    else:
        pytest.fail("never succeeded")
    assert failures >= (call != "preadv")
    assert target.read_bytes() == whole
    assert partials(tmp_path) == []


@pytest.mark.parametrize("fail_at", [1, 8, 15])
def test_a_source_that_cannot_be_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, encoded: list[str]
) -> None:
    """A lost connection, a disk that fails: what was written before it is kept."""
    count, real = 0, encode.Job.read

    def failing(self: encode.Job, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == fail_at:
            raise ConnectionResetError(errno.ECONNRESET, "connection lost")
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(encode.Job, "read", failing)
        with pytest.raises(ConnectionResetError):
            convert(folder, tmp_path / "x.gguf", "F16")
    del encoded[:]
    convert(folder, tmp_path / "x.gguf", "F16")
    assert len(encoded) <= 21 - max(fail_at - 6, 0)  # some were on their way
    assert (tmp_path / "x.gguf").read_bytes() == bytes_of(folder)


def test_after_a_failing_sync_nothing_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk holds then is not known, and the memory that a reader sees may be all that is right."""
    for call in ("fsync", "fdatasync"):
        monkeypatch.setattr(pipeline, "FLUSHED_BYTES", 4096 if call == "fdatasync" else 1 << 30)
        with monkeypatch.context() as patch:

            def failing(_: int) -> None:
                raise OSError(errno.EIO, "broken")

            patch.setattr(os, call, failing)
            with pytest.raises(OutputError, match="cannot write"):
                convert(folder, tmp_path / "x.gguf", "F16")
        assert partials(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full(
    folder: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    """Others take the space that was there at the start; once they have gone, the same command goes on."""
    target = small_disk / "x.gguf"
    with monkeypatch.context() as patch:
        patch.setattr(system, "free_bytes", lambda _: 1 << 30)
        with pytest.raises(OutputError) as caught:
            convert(folder, target, "F16")
        assert "free some space" in str(caught.value)
        assert "tensors are kept" in str(caught.value)
        assert [path.name[:10] for path in small_disk.iterdir()] == [".gguflike-"]
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    del encoded[:]
    convert(folder, target, "F16")
    assert len(encoded) < 15
    assert target.read_bytes() == bytes_of(folder)
    assert [path.name for path in small_disk.iterdir()] == ["x.gguf"]


def test_the_same_bytes_with_any_number_of_threads_and_on_other_cpus(tmp_path: Path) -> None:
    """Also on one that has no instruction to multiply and add with one rounding."""
    folder = tiny.checkpoint(tmp_path / "hf", vocab_size=9000)  # a matrix that threads share
    made = set()
    for threads in (1, 2, 5, None):
        convert(folder, tmp_path / "x.gguf", "Q8_0", threads=threads, overwrite=True)
        made |= set(digests(tmp_path).values())
    if platform.machine() == "x86_64":
        environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
        command = [sys.executable, "-m", "gguflike", "convert", folder, tmp_path / "x.gguf", "q8_0", "--overwrite"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made |= set(digests(tmp_path).values())
    assert len(made) == 1
