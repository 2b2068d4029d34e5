"""Waking a loop from another thread, once for each token that is said: by the least of what the system has for that."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Protocol


class Bell(Protocol):
    """``ring``, on any thread, has the loop call what the bell was made for; nothing happens where the loop has ended.
    ``close`` is for the loop's thread, and for when nobody rings any more."""

    def ring(self) -> None: ...

    def close(self) -> None: ...


def bell(call: Callable[[], None]) -> Bell:
    """One that has the running loop call this."""
    loop = asyncio.get_running_loop()
    if hasattr(os, "eventfd"):
        with contextlib.suppress(NotImplementedError, OSError):  # a loop without files, no file left
            return _Counter(loop, call)
    return _Call(loop, call)


class _Call:
    """What asyncio has: a call in a list, and a byte through a pair of sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._call)

    def close(self) -> None:
        """There is nothing to close."""


class _Counter:
    """Linux's eventfd: a number that a read sets back, in one call of the system where sockets take two and more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            loop.add_reader(self._number, self._rung)
        except BaseException:
            os.close(self._number)
            raise

    def ring(self) -> None:
        os.eventfd_write(self._number, 1)

    def _rung(self) -> None:
        os.eventfd_read(self._number)
        self._call()

    def close(self) -> None:
        self._loop.remove_reader(self._number)
        os.close(self._number)
