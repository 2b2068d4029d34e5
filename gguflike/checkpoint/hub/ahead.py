"""What will be read next, fetched before it is asked for, on several connections and in bounded memory.

A file whose tensors are read in the order in which they stand in it is fetched whole, what lies between them included,
and compared with the SHA-256 that the Hub has of it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager

from gguflike.checkpoint.elsewhere import Extent
from gguflike.checkpoint.hub import remote
from gguflike.checkpoint.hub.remote import RemoteFile
from gguflike.errors import ChangedError

WINDOW = 48 << 20  # bytes fetched and not yet read
MISSES = 4  # reads in a row of what was not fetched, before some of what was makes room
LEFT_OUT = 0.1  # share of a file that is fetched for its digest alone, at most


class _Part:
    """A piece of a file that one request fetches; ``wanted``: somebody will read it."""

    def __init__(self, file: RemoteFile, extent: Extent, wanted: bool, stop: threading.Event) -> None:
        self.name, self.offset, self.wanted = file.name, extent.offset, wanted
        self.data = bytearray(extent.nbytes)
        self.done: Future[None] = remote.pool().submit(file.read_part, extent.offset, memoryview(self.data), stop)

    def overlap(self, offset: int, count: int) -> range:
        """Which of ``count`` bytes from ``offset`` on it has."""
        start = max(self.offset, offset) - offset
        return range(start, max(start, min(self.offset + len(self.data), offset + count) - offset))


class ReadAhead:
    """Fetches extents in order, ``WINDOW`` bytes ahead of what is read."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._coming = _pieces(extents)
        self._digests: dict[str, _Digest] = {}
        self._parts: list[_Part] = []  # in order
        self._bytes = self._misses = 0
        self._lock = threading.RLock()
        self._stop = threading.Event()
        with self._lock:
            self._fill()

    def take(self, name: str, offset: int, view: memoryview) -> bool:
        """Fill ``view`` with what was fetched; false where that is not all there, so that it must be read by itself.

        Errors are those of the request that failed, and ChangedError for a file that is not what the Hub says.
        """
        with self._lock:
            self._check()
            parts = [part for part in self._parts if part.name == name and part.overlap(offset, len(view))]
            if sum(len(part.overlap(offset, len(view))) for part in parts) < len(view):
                self._missed()
                return False
            self._misses = 0
            self._let_go(self._parts.index(parts[0]))
        for part in parts:
            try:
                part.done.result()
            except CancelledError:  # another thread has read on
                return False
            found = part.overlap(offset, len(view))
            start = offset + found.start - part.offset
            view[found.start : found.stop] = memoryview(part.data)[start : start + len(found)]
        with self._lock:
            self._drop([part for part in parts if part.offset + len(part.data) <= offset + len(view)])
            self._fill()
        return True

    def finish(self) -> None:
        """Wait for what is still fetched for digests alone. ChangedError for a file that is not what the Hub says."""
        while True:
            with self._lock:
                self._fill()
                pending = [part for digest in self._digests.values() for part in digest.waiting()]
            if not pending:
                break
            wait([part.done for part in pending])
        self._check()

    def close(self) -> None:
        """Stop fetching."""
        self._stop.set()
        with self._lock:
            self._drop(list(self._parts))

    def _check(self) -> None:
        for digest in self._digests.values():
            digest.check()

    def _missed(self) -> None:
        """Where nobody comes for what was fetched, make room for what follows."""
        self._misses += 1
        if self._misses >= MISSES:
            self._misses = 0
            self._drop(self._parts[: max(len(self._parts) // 2, 1)])
            self._fill()

    def _let_go(self, index: int) -> None:
        """Drop what was left behind, where it takes up half of the window: parts before ``index`` in order."""
        behind = [part for part in self._parts[:index] if part.wanted]
        if sum(len(part.data) for part in behind) > WINDOW // 2:
            self._drop(behind)

    def _drop(self, parts: Iterable[_Part]) -> None:
        with self._lock:
            for part in parts:
                if part in self._parts:
                    self._parts.remove(part)
                    part.done.cancel()
                    self._bytes -= len(part.data)

    def _fill(self) -> None:
        while not self._stop.is_set() and self._bytes < WINDOW:
            piece = next(self._coming, None)
            if piece is None:
                return
            extent, wanted, whole = piece
            part = _Part(remote.opened(extent.path, extent.file_bytes), extent, wanted, self._stop)
            self._parts.append(part)
            self._bytes += extent.nbytes
            if whole:
                digest = self._digests.setdefault(extent.path, _Digest(extent.path))
                digest.expect(part)
                part.done.add_done_callback(lambda _, digest=digest: self._drop(digest.advance()))  # type: ignore[misc]


class _Digest:
    """The SHA-256 of a file, of parts in order."""

    def __init__(self, name: str) -> None:
        self._left: deque[_Part] = deque()  # those that are not in it yet
        self._file = remote.opened(name)
        self._sha256 = hashlib.sha256()
        self._position, self._right = 0, False
        self._lock = threading.Lock()

    def waiting(self) -> list[_Part]:
        """The parts that are still to come."""
        with self._lock:
            return list(self._left)

    def expect(self, part: _Part) -> None:
        """Another part follows."""
        with self._lock:
            self._left.append(part)

    def advance(self) -> list[_Part]:
        """Take the parts that have come; those that nobody else wants are given back."""
        given = []
        with self._lock:
            while self._left and self._left[0].done.done():
                part = self._left.popleft()
                if not part.done.cancelled() and part.done.exception() is None and part.offset == self._position:
                    self._sha256.update(part.data)
                    self._position += len(part.data)
                if not part.wanted:
                    given.append(part)
        return given

    def check(self) -> None:
        """ChangedError where the file is complete, and is not what the Hub says it is."""
        if self._right or self._position < self._file.size:
            return
        self._right = self._sha256.hexdigest() == self._file.etag
        if not self._right:
            raise ChangedError(
                "what was read is not what the Hub has",
                path=self._file.name,
                expected=f"SHA-256 {self._file.etag}",
                got=self._sha256.hexdigest(),
                remedy="start again",
            )


def _pieces(extents: Sequence[Extent]) -> Iterator[tuple[Extent, bool, bool]]:
    """What is to be fetched, a piece for each request; whether it will be read, and whether its file is fetched whole.

    Each file comes at once, where ``extents`` name its parts one after the other.
    """
    by_path: dict[str, list[Extent]] = {}
    for each in extents:
        by_path.setdefault(each.path, []).append(each)
    whole = _whole(by_path)
    position: dict[str, int] = dict.fromkeys(whole, 0)
    for extent in extents:
        if extent.path not in whole:
            yield from ((piece, True, False) for piece in _split(extent))
            continue
        start, end = position[extent.path], extent.offset + extent.nbytes
        yield from ((piece, False, True) for piece in _split(_between(extent, start, extent.offset)))
        yield from ((piece, True, True) for piece in _split(extent))
        position[extent.path] = end
        if extent is by_path[extent.path][-1]:
            yield from ((piece, False, True) for piece in _split(_between(extent, end, extent.file_bytes)))


def _whole(by_path: Mapping[str, Sequence[Extent]]) -> set[str]:
    """The files that are read in order and almost whole, and of which the Hub has a SHA-256."""
    found = set()
    for path, extents in by_path.items():
        ends = [0, *(each.offset + each.nbytes for each in extents)]
        in_order = all(end <= each.offset for end, each in zip(ends, extents, strict=False))
        enough = sum(each.nbytes for each in extents) >= (1 - LEFT_OUT) * extents[0].file_bytes
        if in_order and enough and re.fullmatch("[0-9a-f]{64}", remote.opened(path).etag or ""):
            found.add(path)
    return found


def _between(extent: Extent, start: int, stop: int) -> Extent:
    return extent._replace(offset=start, nbytes=stop - start)


def _split(extent: Extent) -> Iterator[Extent]:
    for start in range(0, extent.nbytes, remote.PART):
        yield extent._replace(offset=extent.offset + start, nbytes=min(remote.PART, extent.nbytes - start))


_current: ReadAhead | None = None


@contextmanager
def reading(extents: Sequence[Extent]) -> Iterator[ReadAhead]:
    """Read files ahead in this process, in the order of ``extents``, while the block runs.

    ChangedError, in the block or at its end, for a file that is not what the Hub says.
    """
    global _current
    _current = ahead = ReadAhead(extents)
    try:
        yield ahead
        ahead.finish()
    finally:
        _current = None
        ahead.close()


def read_into(name: str, size: int, offset: int, view: memoryview) -> None:
    """Fill ``view`` from ``offset`` on of a remote file of ``size`` bytes. RemoteError where that cannot be had."""
    ahead, step = _current, WINDOW // 2  # what is larger is never there at once
    for start in range(0, len(view), step):
        piece = view[start : start + step]
        if ahead is None or not ahead.take(name, offset + start, piece):
            remote.opened(name, size).read_into(offset + start, piece)
