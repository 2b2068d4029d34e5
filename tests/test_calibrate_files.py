"""Arrays in files: room on the disk is taken before memory stands for it, and none is an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.calibrate import files
from gguflike.errors import OutputError

Maker = Callable[[Path, tuple[int, ...]], "np.memmap[Any, Any]"]
MAKERS = (files.zeros, files.npy_zeros)


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_written_is_there(make: Maker, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\xff" * 1_000_000)  # of which nothing stays
    made = make(path, (300, 7))
    assert not made.any()
    made[:] = np.arange(2100.0).reshape(300, 7)
    made.flush()
    found = np.load(path) if make is files.npy_zeros else np.fromfile(path, np.float32).reshape(300, 7)
    np.testing.assert_array_equal(found, np.arange(2100.0).reshape(300, 7))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system takes no room in advance")
@pytest.mark.parametrize("make", MAKERS)
def test_room_is_taken_before_it_is_written(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a", (1000, 100))
    assert 512 * (tmp_path / "a").stat().st_blocks >= 400_000

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"b: no room for what calibrating keeps.*40[\d,]+ bytes free"):
        make(tmp_path / "b", (100, 100))

    def nowhere(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", nowhere)
    assert make(tmp_path / "c", (3, 5)).shape == (3, 5)


def test_what_is_there_need_not_be_free(tmp_path: Path) -> None:
    much = 1 << 60
    files.check_room(tmp_path, much, much - 1)
    with pytest.raises(OutputError, match=f"{much:,} bytes free; got [0-9,]+; free some space there"):
        files.check_room(tmp_path, much)
