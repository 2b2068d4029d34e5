"""Work that threads share: plain Python threads that call kernels which release Python's lock. Imports no numba.

OpenMP teams spin while they wait, and two of them on two busy cores were measured 7x slower than one thread; these
sleep. To wake one takes 15 us here and 25 us there, as long as encoding ten thousand weights, so the caller works too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

from gguflike.kernels.engine.host import thread_count

Work = Callable[[bool], None]  # (is_caller)
Outcomes = SimpleQueue[BaseException | None]


class _Helpers:
    """Threads that wait for calls to help with: as many as one call has wanted at most."""

    def __init__(self) -> None:
        self._count = 0
        self._calls: SimpleQueue[tuple[Iterator[Work], Outcomes]] = SimpleQueue()

    def ask(self, count: int, tickets: Iterator[Work], outcomes: Outcomes) -> None:
        while self._count < count:
            self._count += 1
            threading.Thread(target=self._serve, name=f"gguflike-{self._count}", daemon=True).start()
        for _ in range(count):
            self._calls.put((tickets, outcomes))

    def _serve(self) -> None:
        while True:
            self._help(*self._calls.get())

    @staticmethod
    def _help(tickets: Iterator[Work], outcomes: Outcomes) -> None:
        work = next(tickets, None)
        if work is None:
            return  # too late
        try:
            work(False)
        except BaseException as error:  # the caller raises it
            outcomes.put(error)
        else:
            outcomes.put(None)


_helpers = lru_cache(maxsize=1)(_Helpers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # the child has none of the threads


def together(work: Work, workers: int) -> None:
    """Call ``work(is_caller)`` on this thread and up to ``workers - 1`` others, which divide the work among them.

    ``is_caller`` is True on this thread. Its call should keep something to do until the others return: a thread that
    waits for them wakes up 50 us after the last has ended. Returns when all calls have returned; a thread that comes
    late makes none. What one of them raises is raised here.
    """
    if workers == 1:
        work(True)
        return
    tickets, outcomes = iter([work] * (workers - 1)), Outcomes()
    _helpers().ask(workers - 1, tickets, outcomes)
    try:
        work(True)
    finally:
        begun = workers - 1 - len(list(tickets))
        ended = [outcomes.get() for _ in range(begun)]
    for error in ended:
        if error is not None:
            raise error


def run_rows(kernel: Callable[..., Any], rows: int, *args: Any, threads: int | None = None, least: int = 1) -> None:
    """Call ``kernel(start, stop, *args)`` on several threads, over ranges of rows that together are ``range(rows)``.

    A kernel writes only to the rows from ``start`` to ``stop``, so that the result does not depend on how they are
    divided. Ranges are small enough that a thread held up by another process delays the others little, but have
    ``least`` rows where there are as many.
    """
    workers = max(1, min(thread_count(threads), -(-rows // least)))
    *shared, final = _ranges(rows, workers, least)
    ranges = iter(shared)  # one iterator for all threads: each takes the next when it is done

    def work(is_caller: bool) -> None:
        try:
            for start, stop in ranges:
                kernel(start, stop, *args)
        except BaseException:
            list(ranges)  # nobody goes on
            raise
        if is_caller:
            kernel(*final, *args)

    together(work, workers)


def _ranges(rows: int, workers: int, least: int) -> list[tuple[int, int]]:
    """Divide rows: an eighth of a worker's share each, toward the end half a worker's share of what is left."""
    if workers == 1:
        return [(0, rows)]
    most = -(-rows // (8 * workers))
    ranges: list[tuple[int, int]] = []
    start = 0
    while start < rows:
        stop = min(start + max(least, min(most, (rows - start) // (2 * workers))), rows)
        ranges.append((start, stop))
        start = stop
    return ranges
