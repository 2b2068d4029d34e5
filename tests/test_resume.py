"""Conversions that are cut off: the target is untouched, and the same command goes on and ends with the same bytes."""

from __future__ import annotations

import errno
import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.convert import convert, encode
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
convert(sys.argv[1], sys.argv[2], "F16", progress=progress, split_max_tensors=int(sys.argv[4]) or None, overwrite=True)
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


def cut_off(folder: Path, target: Path, tensors: int, **options: Any) -> None:
    """Convert until so many tensors are written, then fail as a full disk does."""

    def progress(done: int, total: int, what: str) -> None:
        nonlocal tensors
        tensors -= what != "header"
        if tensors < 0:
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        convert(folder, target, "F16", progress=progress, **options)


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
