"""A process that has loaded what templates need and forks for each rendering: what takes a tenth of a second to start
anew takes a few milliseconds.

It is for who renders often, a server: `ready` starts it and ends it. Nothing else changes: each rendering is a process
of its own (template_child.py), which limits itself and is watched, and has no descriptors but its own two pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path


class Forked:
    """A process that was forked for one rendering."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Ready:
    """The process. OSError where the system has no such."""

    def __init__(self, child: Path, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(child), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=child.parent,
                pass_fds=[theirs.fileno()],
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:  # which is told when it is asked
            stdin.write(json.dumps([entry for entry in sys.path if entry]).encode())

    def begin(self) -> tuple[Forked, int, int]:
        """A process for one rendering, with the descriptors to write its request to and to read its answer from.

        OSError where there is none to be had.
        """
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._control, [b"r"], [theirs_in, theirs_out])
                said = self._control.recv(8, socket.MSG_WAITALL)
            if len(said) != 8:
                raise OSError("the process that renders templates has ended")
        except BaseException:
            os.close(ours_in)
            os.close(ours_out)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        return Forked(int.from_bytes(said, "little")), ours_in, ours_out

    def close(self) -> None:
        """End it; renderings that are not done are not disturbed."""
        self._control.close()
        self._process.wait()


_current: Ready | None = None
_users, _changing = 0, threading.Lock()


def current() -> Ready | None:
    """The process, where `ready` has started one."""
    return _current


@contextlib.contextmanager
def ready(child: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A block in which there is such a process, where the system can fork and pass descriptors. Blocks may overlap."""
    global _current, _users
    able = hasattr(os, "fork") and hasattr(socket, "send_fds")
    with _changing:
        _users += 1
        if _current is None and able:
            with contextlib.suppress(OSError):  # then each rendering starts anew
                _current = Ready(child, environment)
    try:
        yield
    finally:
        with _changing:
            _users -= 1
            if _users == 0 and _current is not None:
                _current.close()
                _current = None
