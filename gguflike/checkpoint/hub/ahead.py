"""What will be read next, fetched before it is asked for, on several connections and in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import NamedTuple

from gguflike.checkpoint.hub import remote
from gguflike.checkpoint.safetensors import Extent

WINDOW = 128 << 20  # bytes fetched and not yet read
MISSES = 4  # reads in a row of what was not fetched, before some of what was makes room


class _Part(NamedTuple):
    """A piece of a span that one request fetches."""

    name: str
    offset: int
    data: bytearray
    done: Future[None]


class ReadAhead:
    """Fetches spans in order, ``WINDOW`` bytes ahead of what is read."""

    def __init__(self, spans: Iterable[Extent]) -> None:
        self._coming = _pieces(spans)
        self._parts: list[_Part] = []  # in order
        self._bytes = self._misses = 0
        self._lock = threading.Lock()
        self._closed = False
        with self._lock:
            self._fill()

    def take(self, name: str, offset: int, view: memoryview) -> bool:
        """Fill ``view`` with what was fetched; false where that is not all there, so that it must be read by itself.

        Errors are those of the request that failed.
        """
        with self._lock:
            parts = [part for part in self._parts if part.name == name and _overlap(part, offset, len(view))]
            if sum(len(_overlap(part, offset, len(view))) for part in parts) < len(view):
                self._missed()
                return False
            self._misses = 0
            self._let_go(self._parts.index(parts[0]))
        for part in parts:
            try:
                part.done.result()
            except CancelledError:  # another thread has read on
                return False
            found = _overlap(part, offset, len(view))
            view[found.start : found.stop] = part.data[offset + found.start - part.offset :][: len(found)]
        with self._lock:
            self._drop([part for part in parts if part.offset + len(part.data) <= offset + len(view)])
            self._fill()
        return True

    def _missed(self) -> None:
        """Where nobody comes for what was fetched, make room for what follows."""
        self._misses += 1
        if self._misses >= MISSES:
            self._misses = 0
            self._drop(self._parts[: max(len(self._parts) // 2, 1)])
            self._fill()

    def _let_go(self, index: int) -> None:
        """Drop what was left behind, where it takes up half of the window: parts before ``index`` in order."""
        behind = self._parts[:index]
        if sum(len(part.data) for part in behind) > WINDOW // 2:
            self._drop(behind)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for part in self._parts:
                part.done.cancel()
            self._parts.clear()

    def _drop(self, parts: list[_Part]) -> None:
        for part in parts:
            if part in self._parts:
                self._parts.remove(part)
                part.done.cancel()
                self._bytes -= len(part.data)

    def _fill(self) -> None:
        while not self._closed and self._bytes < WINDOW:
            span = next(self._coming, None)
            if span is None:
                return
            data = bytearray(span.nbytes)
            file = remote.opened(span.path, span.file_bytes)
            done = remote.pool().submit(file.read_part, span.offset, memoryview(data))
            self._parts.append(_Part(span.path, span.offset, data, done))
            self._bytes += span.nbytes


def _pieces(spans: Iterable[Extent]) -> Iterator[Extent]:
    for span in spans:
        for start in range(0, span.nbytes, remote.PART):
            yield span._replace(offset=span.offset + start, nbytes=min(remote.PART, span.nbytes - start))


def _overlap(part: _Part, offset: int, count: int) -> range:
    """Which of ``count`` bytes from ``offset`` on a part has."""
    start, stop = max(part.offset, offset) - offset, min(part.offset + len(part.data), offset + count) - offset
    return range(start, max(start, stop))


_current: ReadAhead | None = None


@contextmanager
def reading(spans: Iterable[Extent]) -> Iterator[ReadAhead]:
    """Read files ahead in this process, in the order of ``spans``, while the block runs."""
    global _current
    _current = ahead = ReadAhead(spans)
    try:
        yield ahead
    finally:
        _current = None
        ahead.close()


def read_into(name: str, size: int, offset: int, view: memoryview) -> None:
    """Fill ``view`` from ``offset`` on of a remote file of ``size`` bytes. RemoteError where that cannot be had."""
    ahead = _current
    if not len(view) or (ahead is not None and ahead.take(name, offset, view)):
        return
    remote.opened(name, size).read_into(offset, view)
