"""A command in a terminal of its own: a pseudo-terminal, what is typed into it, and what it has written."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from types import TracebackType

SECONDS = 90.0  # a busy machine must not fail a test
ENTER, CTRL_C, CTRL_D, CTRL_Z, ESCAPE, UP = "\r", "\x03", "\x04", "\x1a", "\x1b", "\x1b[A"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\x1b\][^\x07]*\x07|\r")


def pasted(text: str) -> str:
    """What a terminal sends for a paste."""
    return f"\x1b[200~{text}\x1b[201~"


def _begin() -> None:
    """What a shell does for what it starts: its terminal, and signals as usual, also where who runs the tests ignores
    some."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """``gguflike ARGUMENTS`` in a terminal, or another ``command``. A context manager that kills what still runs."""

    def __init__(
        self,
        *arguments: object,
        columns: int = 80,
        rows: int = 24,
        stdout: int | None = None,
        command: Sequence[str] = (sys.executable, "-m", "gguflike"),
        **environment: str,
    ) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
        self._process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=self._slave,
            stdout=self._slave if stdout is None else stdout,
            stderr=self._slave,
            env=variables | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
            preexec_fn=_begin,
        )
        self.raw = ""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait_for(self, *patterns: str) -> str:
        """What was written from the last match up to one of these, one after the other, without control sequences."""
        end, found = time.monotonic() + SECONDS, ""
        for pattern in patterns:
            while not (match := re.search(pattern, plain(self.raw[self._seen :]))):
                assert time.monotonic() < end, f"no {pattern!r} in {self.raw[self._seen :]!r}"
                assert self._read(0.2) or self._process.poll() is None, f"ended without {pattern!r}: {self.raw!r}"
            found += plain(self.raw[self._seen :])[: match.end()]
            self._seen = self._place_of(match.end())
        return found

    def _place_of(self, count: int) -> int:
        """Where in what was written as many characters that can be seen are through."""
        place, seen = self._seen, 0
        while seen < count:
            match = CONTROL.match(self.raw, place)
            if match:
                place = match.end()
            else:
                place, seen = place + 1, seen + 1
        return place

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            self.raw += os.read(self._master, 65536).decode("utf-8", "replace")
        except OSError:
            return False
        return True

    def ends(self) -> int:
        """Wait for the end; the exit status."""
        end = time.monotonic() + SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < end, f"does not end: {self.raw!r}"
            self._read(0.1)
        while self._read(0.0):
            pass
        return self._process.returncode

    @property
    def text(self) -> str:
        """All that was written, without control sequences."""
        return plain(self.raw)

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal is set as it was."""
        return termios.tcgetattr(self._slave) == self.before

    @property
    def left(self) -> bytes:
        """What was typed and nobody has read: what the shell would get."""
        raw = termios.tcgetattr(self._slave)
        raw[3] &= ~termios.ICANON
        termios.tcsetattr(self._slave, termios.TCSANOW, raw)
        return os.read(self._slave, 4096) if select.select([self._slave], [], [], 0)[0] else b""


def plain(text: str) -> str:
    return CONTROL.sub("", text)
