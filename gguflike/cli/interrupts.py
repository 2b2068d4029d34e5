"""Ctrl-C that is never lost.

Python raises KeyboardInterrupt wherever the program happens to be. In a callback of the garbage collector or of a weak
reference, of which compiling has many, it is printed and forgotten. So who presses the keys is also noted, and long
work asks at its next step.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

_is_pending = False


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
    raise KeyboardInterrupt


def check() -> None:
    """KeyboardInterrupt where one was raised that nobody has handled."""
    if _is_pending:
        clear()
        raise KeyboardInterrupt


def clear() -> None:
    """The interrupt has been handled."""
    global _is_pending
    _is_pending = False
