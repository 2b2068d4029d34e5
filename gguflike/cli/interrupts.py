"""Ctrl-C that is never lost.

Python raises KeyboardInterrupt wherever the program happens to be. In a callback of the garbage collector or of a weak
reference, of which compiling has many, it is printed and forgotten. So who presses the keys is also noted, and long
work asks at its next step.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_is_pending = False
_raises = True


def install() -> None:
    """Note interrupts of this process from now on. Where they are ignored (``nohup``, a job in the background), they
    stay so."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, _interrupted)
    said = sys.unraisablehook

    def unraisable(found: Any) -> None:
        if found.exc_type is not KeyboardInterrupt:
            said(found)

    sys.unraisablehook = unraisable


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    global _is_pending
    _is_pending = True
    if _raises:
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """A block that Ctrl-C does not leave, but for the parts of it that are `stoppable`."""
    with _set(False):
        yield


@contextmanager
def stoppable() -> Iterator[None]:
    """A block that Ctrl-C leaves by KeyboardInterrupt."""
    with _set(True):
        yield


@contextmanager
def _set(raises: bool) -> Iterator[None]:
    global _raises
    before, _raises = _raises, raises
    try:
        yield
    finally:
        _raises = before


def check() -> None:
    """KeyboardInterrupt where one was raised that nobody has handled."""
    if _is_pending:
        clear()
        raise KeyboardInterrupt


def clear() -> bool:
    """The interrupt has been handled. Return whether there was one."""
    global _is_pending
    was, _is_pending = _is_pending, False
    return was
