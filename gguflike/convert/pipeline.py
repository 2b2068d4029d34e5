"""Reading, encoding and writing at the same time: a thread ahead of the encoder and one behind it.

The encoder has its own threads, so that all cores are busy while a disk or a network is waited for. Between two stages
at most one slab waits: memory holds three slabs of float32, whatever the size of a tensor, and as many encoded ones.
What is written is sent to the disk meanwhile, since the file is not done before the disk has it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from gguflike.container import Writer
from gguflike.convert.encode import Job, Rows
from gguflike.convert.slabs import Slab

T = TypeVar("T")
FLUSHED_BYTES = 1 << 26  # what is written before it is sent to the disk: the end waits for little more


def run(jobs: Iterable[tuple[str, Job | int]], out: Writer, advance: Callable[[int, str], None]) -> None:
    """Write the bytes of every tensor that has a job, in order; of one that is written already, ``jobs`` has the size.

    ``advance(bytes, tensor)`` is called, on this thread, for each part that is written. What one of the stages raises
    is raised here, when none of them works any more.
    """
    read: _Channel[tuple[str, Job, Slab, Rows]] = _Channel()
    encoded: _Channel[tuple[str, int, npt.NDArray[np.uint8]]] = _Channel()
    dirty: _Channel[str] = _Channel()
    written: deque[tuple[int, str]] = deque()

    def reader() -> None:
        for name, job in jobs:
            if isinstance(job, int):
                written.append((job, name))
                continue
            for slab in job.slabs():
                if not read.put((name, job, slab, job.read(slab))):
                    return  # nobody wants it
        read.end()

    def writer() -> None:
        flushed = 0
        for name, offset, part in encoded:
            out.write_part(name, offset, part)
            written.append((part.nbytes, name))
            if out.cached - flushed >= FLUSHED_BYTES and dirty.offer(name):
                flushed = out.cached
        dirty.end()

    def flusher() -> None:
        for name in dirty:
            out.flush(name)

    def tell() -> None:
        while written:
            advance(*written.popleft())

    channels: list[_Channel[Any]] = [read, encoded, dirty]
    stages = [_Stage(work, channels) for work in (reader, writer, flusher)]
    for stage in stages:
        stage.start()
    try:
        current, offset = "", 0
        for name, job, slab, rows in read:
            current, offset = name, offset if name == current else 0
            part = job.encode(rows, slab, partial(out.room, name, offset))
            del rows  # the reader's next slab takes its place
            if not encoded.put((name, offset, part)):
                break
            offset += part.nbytes
            tell()
        encoded.end()
        for stage in stages:
            stage.join()
        tell()
    finally:
        for channel in channels:
            channel.close()
        for stage in stages:
            stage.join()
    for stage in stages:
        if stage.error is not None:
            raise stage.error


class _Channel(Generic[T]):
    """Room for one item between two threads. Iterating takes items until there are no more."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False

    def put(self, item: T) -> bool:
        """Hand an item on when there is room; whether anybody takes items any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._items or self._closed)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def offer(self, item: T) -> bool:
        """Hand an item on if there is room now; whether there was."""
        with self._changed:
            fits = not self._items and not self._closed
            if fits:
                self._items.append(item)
                self._changed.notify_all()
            return fits

    def end(self) -> None:
        """No item will follow."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing is put any more, and nobody waits for an item."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while self._has_item():
            yield self._take()  # which nothing here refers to any more

    def _has_item(self) -> bool:
        """Whether there is an item, or there will be: waits until that is known."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._closed)
            return bool(self._items)

    def _take(self) -> T:
        with self._changed:
            item = self._items.popleft()
            self._changed.notify_all()
            return item


class _Stage(threading.Thread):
    """A thread that does ``work``. When it fails, it closes all ``channels``: all stop."""

    def __init__(self, work: Callable[[], None], channels: Sequence[_Channel[Any]]) -> None:
        super().__init__(name=f"gguflike-{work.__name__}", daemon=True)
        self.error: BaseException | None = None
        self._work, self._channels = work, channels

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised where the stages are joined
            self.error = error
            for channel in self._channels:
                channel.close()
