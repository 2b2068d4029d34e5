"""How the idle workers of a team wait for the next pass: in machine code on POSIX semaphores, or in Python.

Machine code calls the C library by addresses that stand in the team's memory, so that it links where there is none.
Where an address is 0, ``work`` returns instead of waiting (interpreter.py): its thread then waits in Python, and calls
it again.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from gguflike.errors import UnsupportedError
from gguflike.kernels.engine.memory import BLOCK, BLOCK_BYTES, TEAM

if TYPE_CHECKING:
    import numpy.typing as npt

    Team = npt.NDArray[np.void]  # one element of memory.team_type

VARIABLE = "GGUFLIKE_WAIT"  # "posix" or "python" in the environment forces one


class Waiting(Protocol):
    """What a team's threads wait on: a count for each, which ``post`` raises, and ``wait`` lowers once it is not 0.

    ``in_python``: machine code neither waits nor posts by itself.
    """

    in_python: ClassVar[bool]

    def post(self, thread: int) -> None:
        """Let a thread go on that waits or is about to."""

    def wait(self, thread: int) -> None:
        """Wait for a post to this thread, without holding Python's lock."""


class PosixWaiting:
    """Semaphores of the C library, which machine code waits on and posts to by itself."""

    in_python: ClassVar[bool] = False

    def __init__(self, team: Team) -> None:
        libc = _libc()
        self._base, self._post, self._wait = int(team.ctypes.data), libc.sem_post, libc.sem_wait
        for thread in range(int(team["threads"][0])):
            # macOS has the function, which always fails.
            if libc.sem_init(self._semaphore(thread), 0, 0):
                raise OSError("no unnamed POSIX semaphores")
        team["sem_wait"], team["sem_post"] = _address(libc.sem_wait), _address(libc.sem_post)

    def post(self, thread: int) -> None:
        self._post(self._semaphore(thread))

    def wait(self, thread: int) -> None:
        self._wait(self._semaphore(thread))

    def _semaphore(self, thread: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._base + TEAM.blocks + thread * BLOCK_BYTES + BLOCK.semaphore)


class PythonWaiting:
    """Queues, whose length is the count: they wait and wake in C, unlike ``threading.Semaphore``."""

    in_python: ClassVar[bool] = True

    def __init__(self, team: Team) -> None:
        from queue import SimpleQueue

        team["sem_wait"] = team["sem_post"] = 0
        self._queues: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(int(team["threads"][0]))]

    def post(self, thread: int) -> None:
        self._queues[thread].put(None)

    def wait(self, thread: int) -> None:
        self._queues[thread].get()


_KINDS: dict[str, tuple[Callable[[Team], Waiting], ...]] = {
    "": (PosixWaiting, PythonWaiting),
    "posix": (PosixWaiting,),
    "python": (PythonWaiting,),
}


def prepare(team: Team) -> Waiting:
    """Make what the threads of a team wait on, and write the addresses of the C functions into its memory.

    POSIX semaphores where they work, else Python's queues, or what ``GGUFLIKE_WAIT`` says. UnsupportedError where that
    is not there.
    """
    team["yield_core"] = _yield_address()
    kind = os.environ.get(VARIABLE, "")
    for make in _KINDS.get(kind, ()):
        try:
            return make(team)
        except (AttributeError, OSError):  # no such function, or it fails
            continue
    raise UnsupportedError(
        "threads cannot wait in the way that was asked for",
        field=VARIABLE,
        expected="posix (where the system has unnamed semaphores) or python",
        got=repr(kind),
        remedy=f"unset {VARIABLE}",
    )


def _libc() -> ctypes.CDLL:
    """Return the C library of this process. OSError where functions cannot be found that way (Windows)."""
    try:
        return ctypes.CDLL(None)
    except TypeError as error:
        raise OSError("the C library has no handle") from error


def _address(function: object) -> int:
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)  # type: ignore[arg-type]  # a foreign function


def _yield_address() -> int:
    """Return the address of the function that offers the core to other threads, 0 where there is none."""
    try:
        return _address(_libc().sched_yield)
    except (AttributeError, OSError):
        windows = getattr(ctypes, "windll", None)
        return _address(windows.kernel32.SwitchToThread) if windows is not None else 0
