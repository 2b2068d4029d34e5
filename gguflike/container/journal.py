"""What a writer that was cut off has finished: lines behind the data of its temporary file.

The journal begins where the file to be will end, and is cut off before that takes the target's name. Its first line
names what is written, each further one a tensor that is complete, as JSON, so that people can read it. A line is a
claim: it counts only once the data have the digest that it states, so nothing need be on disk when it is written, and
no loss of power can make it lie. A line that was cut off ends the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from gguflike.container import system
from gguflike.container.layout import TensorInfo
from gguflike.container.plan import FilePlan

_FORMAT = "gguflike journal 1"
_MOST_LINE = 1 << 10  # bytes: a tensor's name has at most 63
_READ_BACK = 1 << 22  # bytes at a time when data are hashed from the file


class Journal:
    """The journal of one temporary file. ``made_of`` names what the data depend on; the plan tells their places."""

    def __init__(self, plan: FilePlan, made_of: str) -> None:
        self.start = plan.file_bytes
        key = hashlib.sha256(made_of.encode() + plan.header).hexdigest()
        self._head = _line({"journal": _FORMAT, "key": key})
        self._infos = {info.name: info for info in plan.tensors}
        self._lines: dict[str, bytes] = {}
        self._claims: dict[str, str] = {}
        self._end = 0  # none yet
        self._lock = threading.Lock()

    @property
    def tensors(self) -> int:
        """The number of tensors that are said to be complete."""
        return len(self._lines)

    def begin(self, descriptor: int) -> None:
        """Write the journal as far as it goes, unless it is there: the first line, and a line for each tensor."""
        with self._lock:
            if self._end:
                os.ftruncate(descriptor, self._end)  # without a line that was cut off
                return
            text = self._head + b"".join(self._lines.values())
            system.write_at(descriptor, text, self.start)
            self._end = self.start + len(text)

    def note(self, descriptor: int, info: TensorInfo, digest: str) -> None:
        """Say that a tensor is complete."""
        line = _claim(info, digest)
        with self._lock:
            system.write_at(descriptor, line, self._end)
            self._lines[info.name] = line
            self._end += len(line)

    def end(self, descriptor: int) -> None:
        """Cut the journal off: what is left is the file."""
        self._end = 0
        os.ftruncate(descriptor, self.start)

    def take_over(self, descriptor: int) -> bool:
        """Whether another writer's file is of this plan and made of the same; if so, its claims are this one's."""
        if not self.fits(descriptor):
            return False
        at = self.start + len(self._head)
        for line in _read(descriptor, at, 2 * len(self._infos) * _MOST_LINE).splitlines(keepends=True):
            info, digest = self._parsed(line)
            if info is None:
                break
            self._claims[info.name] = digest  # one that turned out wrong has another line, further down
            self._lines[info.name] = line
            at += len(line)
        self._end = at
        return True

    def fits(self, descriptor: int) -> bool:
        """Whether a writer's file is of this plan and made of the same."""
        return _read(descriptor, self.start, len(self._head)) == self._head

    def claim(self, name: str) -> str | None:
        """The digest that the journal taken over says that a tensor has; None where it does not name the tensor."""
        return self._claims.get(name)

    def _parsed(self, line: bytes) -> tuple[TensorInfo | None, str]:
        try:
            entry = json.loads(line)
            info, digest = self._infos[entry["tensor"]], entry["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):  # not a whole line
            return None, ""
        fits = isinstance(digest, str) and line == _claim(info, digest)
        return (info, digest) if fits else (None, "")


def _claim(info: TensorInfo, digest: str) -> bytes:
    return _line({"tensor": info.name, "offset": info.offset, "bytes": info.nbytes, "sha256": digest})


def sha256_of(descriptor: int, start: int, end: int) -> str:
    """SHA-256 of bytes of a file, as far as it has them."""
    digest = hashlib.sha256()
    hash_back(digest, descriptor, start, end)
    return digest.hexdigest()


def hash_back(digest: hashlib._Hash, descriptor: int, start: int, end: int) -> int:
    """Add bytes of a file to a digest, as far as it has them; where they end."""
    buffer = memoryview(bytearray(min(_READ_BACK, max(end - start, 0))))
    while start < end:
        count = system.read_at(descriptor, buffer[: end - start], start)
        if not count:
            break
        digest.update(buffer[:count])
        start += count
    return start


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _read(descriptor: int, start: int, limit: int) -> bytes:
    """Bytes of a file from ``start`` on: ``limit``, or as many as there are."""
    data = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    while len(data) < limit:
        count = system.read_at(descriptor, buffer[: limit - len(data)], start + len(data))
        if not count:
            break
        data += buffer[:count]
    return bytes(data)
