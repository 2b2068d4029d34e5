"""A file system that shares blocks between files, for tests where there is none."""

from __future__ import annotations

import os
import struct

import pytest

from gguflike.container import system


def clones(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """A system that shares blocks, as far as can be seen; what it was asked for: bytes, from, to."""
    fcntl = pytest.importorskip("fcntl")
    asked: list[tuple[int, int, int]] = []

    def ioctl(target: int, request: int, said: bytes) -> int:
        source, offset, count, to = struct.unpack("=qQQQ", said)
        assert request == 0x4020940D  # FICLONERANGE of linux/fs.h
        whole = os.fstat(source).st_size
        if offset % 4096 or to % 4096 or offset + count > whole or (count % 4096 and offset + count != whole):
            raise OSError(22, "Invalid argument")
        asked.append((count, offset, to))
        os.pwrite(target, os.pread(source, count, offset), to)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(system, "_CLONE_RANGE", 0x4020940D)
    monkeypatch.setattr(system, "can_share", lambda source, _: os.fstat(source).st_size > 4096)
    return asked
