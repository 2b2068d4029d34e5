"""What is typed while nobody reads: it is not echoed into an answer, it is the beginning of the next message, and what
is left at the end is not given to the shell."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

PASTES, NO_PASTES = "\x1b[?2004h", "\x1b[?2004l"  # the terminal marks the beginning and end of what is pasted


def screen() -> TextIO | None:
    """The terminal that a message is typed on: standard error if that is one, so that standard output has nothing but
    answers, else standard output; None where neither is."""
    return next((stream for stream in (sys.stderr, sys.stdout) if stream is not None and stream.isatty()), None)


@contextmanager
def kept() -> Iterator[None]:
    """A block in which keys wait for who reads them next, and are not shown. Ctrl-C is a signal, as ever."""
    try:
        import termios
    except ImportError:  # keys are read another way there
        yield
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = termios.tcgetattr(descriptor)
    quiet[0] &= ~termios.ICRNL  # Enter stays what the editor knows it as
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[3] |= termios.NOFLSH  # what was typed before Ctrl-C stays
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0

    def apply(*_: object) -> None:
        termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
        mark_pastes()

    def terminated(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def stopped(number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell finds the terminal as it was, and we find it again as we left it."""
        _write(screen(), NO_PASTES)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, stopped)  # from here on it goes on
        apply()

    handlers: dict[signal.Signals, Callable[[int, FrameType | None], object]] = {
        signal.SIGTSTP: stopped,
        signal.SIGCONT: apply,
        signal.SIGTERM: terminated,
        signal.SIGHUP: terminated,
    }
    old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    apply()
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        _write(screen(), NO_PASTES)
        with suppress(termios.error):  # the terminal is gone
            termios.tcflush(descriptor, termios.TCIFLUSH)
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def mark_pastes() -> None:
    """Have the terminal say where what is pasted begins and ends."""
    _write(screen(), PASTES)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None and os.environ.get("TERM") != "dumb":
        with suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()
