"""How far work is: on a terminal a line that is drawn anew, elsewhere a line of life every few seconds.

The library calls when a step is done, and a step may take long; so a thread draws, which knows what was last said.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from gguflike.amounts import duration, size
from gguflike.cli import interrupts
from gguflike.cli.output import clean, columns
from gguflike.progress import COMPILING, FETCHING, unit

if TYPE_CHECKING:
    from gguflike.progress import Progress

DRAWN_FROM = 0.3  # seconds: what is done sooner is not worth a line
TICK = 0.2  # between two drawings
LIFE = 2.0  # between two lines where they stay, at first
LIFE_SHARE, MOST_LIFE = 1 / 20, 15.0  # later, so much of the time so far, at most
KNOWN_FROM = 1.0  # seconds of a stage from which on the time left is worth saying
ERASE = "\r\x1b[K"


@contextmanager
def progress_bar(counted: str | None = None) -> Iterator[Progress]:
    """A callback for the library. What is counted is ``counted``, or what the library says of it."""
    if sys.stderr is None:
        yield lambda _done, _total, _what: interrupts.check()
        return
    drawn = sys.stderr.isatty()
    report = Report(sys.stderr, drawn, counted)
    try:
        yield report
    finally:
        report.close()


class Report:
    """What was last heard of some work, and a thread that says it; `close` ends both."""

    def __init__(self, stream: TextIO, drawn: bool, counted: str | None = None) -> None:
        self._stream, self._drawn, self._counted = stream, drawn, counted
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._stage: Stage | None = None
        self._told: set[str] = set()
        self._is_on_screen = False

    def __call__(self, done: int, total: int, what: str) -> None:
        interrupts.check()
        with self._lock:
            if self._stage is None or not self._stage.goes_on(done, total, what):
                self._stage = Stage(done, total, what, unit(what) if self._counted is None else self._counted)
            self._stage.reach(done, what)
        if not self._drawn:
            self._announce(total, what)
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell, name="gguflike-progress", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Say nothing more, and leave the screen as it was."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_on_screen:
            self._write(ERASE)

    def _announce(self, total: int, what: str) -> None:
        """For a log file or a pipe: one line if kernels are compiled, and one for each file that is fetched."""
        if what in self._told:
            return
        if what.startswith(FETCHING):
            self._told.add(what)
            self._write(f"{clean(what)}, {size(total)}\n")
        elif what == COMPILING:
            from gguflike.kernels.engine.host import cache_dir, keeps_kernels

            self._told.add(what)
            kept = f"kept for next time in {cache_dir()}" if keeps_kernels() else "not kept: no folder takes them"
            self._write(f"compiling {total} {'kernel' if total == 1 else 'kernels'}, {kept}\n")

    def _tell(self) -> None:
        begin = time.monotonic()
        wait = DRAWN_FROM if self._drawn else LIFE
        while not self._closed.wait(wait):
            with self._lock:
                assert self._stage is not None
                wide = columns(self._stream) - 1 if self._drawn else 0
                line = self._stage.drawn(wide) if self._drawn else self._stage.line()
            if self._drawn:
                self._is_on_screen = True
                self._write(f"{ERASE}{line}")
                wait = TICK
            else:
                self._write(f"{line}\n")
                wait = min(MOST_LIFE, max(LIFE, LIFE_SHARE * (time.monotonic() - begin)))

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class Stage:
    """Work of one kind: ``done`` of ``total``, counted in ``unit``."""

    def __init__(self, done: int, total: int, what: str, unit: str) -> None:
        self.done, self.total, self.what, self.unit = done, total, what, unit
        self._first = done
        self._begin = self._reached = time.monotonic()

    def reach(self, done: int, what: str) -> None:
        """Take down how far the work is now."""
        if done != self.done:
            self._reached = time.monotonic()
        self.done, self.what = done, what

    def goes_on(self, done: int, total: int, what: str) -> bool:
        """Whether what is heard is of the same work."""
        return total == self.total and done >= self.done and unit(what) == unit(self.what)

    def line(self) -> str:
        """Where the work stands, as a line that stays."""
        return f"{clean(self.what, 60) or 'working'}: {', '.join([self._share(), *self._times()])}"

    def drawn(self, width: int) -> str:
        """The same, with a bar, in at most so many columns."""
        head = f"{clean(self.what, 40) or 'working'}: {self._share()} "
        tail = " " + ", ".join(self._times())
        room = min(width - len(head) - len(tail) - 2, 40)
        if room < 5:
            return (head + tail.lstrip())[:width]
        filled = room * min(self.done, self.total) // max(self.total, 1)
        return f"{head}|{'#' * filled}{'.' * (room - filled)}|{tail}"

    def _share(self) -> str:
        if self.unit == "bytes":
            return f"{size(self.done)} of {size(self.total)}"
        if not self.unit:
            return f"{100 * self.done // max(self.total, 1)} %"
        return f"{self.done:,} of {self.total:,}" + ("" if self.unit in self.what else f" {self.unit}")

    def _times(self) -> list[str]:
        """The time left is that at the speed until the last step, less what went by since; a step that takes longer
        than all of that is taken for half done."""
        now, did = time.monotonic(), self.done - self._first
        spent, since = now - self._begin, now - self._reached
        if spent < KNOWN_FROM or did <= 0 or self.done >= self.total:  # what follows what is counted has no measure
            return [duration(spent)]
        left = max((self.total - self.done) * (spent - since) / did - since, since)
        speed = [f"{size(did / spent)}/s"] if self.unit == "bytes" else []
        return [*speed, f"about {duration(left)} left"]
