"""Kernels compiled by several processes at a time, since numba compiles one at a time in each.

A task is a function that leaves its outcome in the kernel cache, named as text ``"module:function"`` with arguments
that JSON can carry. Helpers are plain Python processes that do one task after the other. What a helper could not do is
done in this process, where its errors belong.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from gguflike.kernels.engine.host import keeps_kernels, thread_count
from gguflike.progress import COMPILING, Progress

MOST_PROCESSES = 4  # each takes 200 MB, and starts in a second: for twenty kernels, more gain little
POLL_SECONDS = 0.05
# Nothing is imported before the path is this process's: a new one looks in the current folder first.
_PROGRAM = """
import sys
sys.path[:] = sys.argv[1:]
from gguflike.kernels.engine.workers import serve
serve()
"""


class Task(NamedTuple):
    """One call. Tasks of one ``kind`` are built from the same functions, which a process compiles once."""

    kind: str
    function: str
    args: tuple[Any, ...]


def compile_all(
    tasks: Sequence[Task], here: Callable[[Task], None], kept: Callable[[Task], bool], progress: Progress | None
) -> None:
    """Do all tasks: in this process, and in others beside it where that pays.

    ``here(task)`` does a task in this process. ``kept(task)`` takes from the cache what a helper has done, and returns
    whether it is there. ``progress`` counts tasks, and is told that they are COMPILING.
    """
    waiting = _Waiting(tasks)
    own: list[Task] = []
    told = -1

    def tell() -> None:
        nonlocal told
        if progress is not None and told != (done := min(len(own) + waiting.done, len(tasks))):
            progress(done, len(tasks), COMPILING)
            told = done

    def work(task: Task) -> None:
        tell()
        with _uncollected():
            here(task)
        own.append(task)

    helpers: list[_Helper] = []
    try:
        tell()
        if keeps_kernels():
            helpers += _started(min(thread_count(), len(tasks), MOST_PROCESSES) - 1, waiting)
        kind = ""
        while (task := waiting.take(kind)) is not None:
            kind = task.kind
            work(task)
        while busy := [helper for helper in helpers if helper.is_alive()]:
            busy[0].join(POLL_SECONDS)
            tell()
    finally:
        for helper in helpers:
            helper.end()
    for task in tasks:
        if task not in own and not kept(task):
            work(task)
    tell()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python from looking for garbage: it takes a twelfth of the time of compiling, and frees little."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class _Waiting:
    """Tasks that nobody has taken yet, and the number of those that helpers have done."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.done = 0
        self._kinds: dict[str, list[Task]] = defaultdict(list)
        for task in tasks:
            self._kinds[task.kind].append(task)
        self._lock = threading.Lock()

    def take(self, kind: str) -> Task | None:
        """Return a task of this kind, else one of those of which there are most; None if there is no more."""
        with self._lock:
            tasks = self._kinds.get(kind) or max(self._kinds.values(), key=len, default=[])
            return tasks.pop(0) if tasks else None

    def count(self) -> None:
        """Count a task that a helper has done."""
        with self._lock:
            self.done += 1


class _Helper(threading.Thread):
    """Another process, and the thread that hands it one task after the other."""

    def __init__(self, waiting: _Waiting) -> None:
        super().__init__(name="gguflike-compile", daemon=True)
        self._waiting = waiting
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            text=True,
        )

    def run(self) -> None:
        """Hand out tasks until there is no more, or one fails: the next would hardly do better."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        kind = ""
        with suppress(OSError):  # the process is gone
            while (task := self._waiting.take(kind)) is not None:
                kind = task.kind
                self._process.stdin.write(json.dumps([task.function, task.args]) + "\n")
                self._process.stdin.flush()
                if self._process.stdout.readline() != "done\n":
                    break
                self._waiting.count()

    def end(self) -> None:
        """End the process, whatever it does: files are kept whole or not at all."""
        self._process.kill()
        self.join()
        with suppress(OSError), self._process:  # closes the pipes and waits
            pass


def _started(count: int, waiting: _Waiting) -> list[_Helper]:
    """Start so many helpers, or as many of them as there can be."""
    helpers: list[_Helper] = []
    if sys.executable and not getattr(sys, "frozen", False):  # a frozen program would start itself again
        with suppress(OSError):
            for _ in range(count):
                helpers.append(_Helper(waiting))
                helpers[-1].start()
    return helpers


def serve() -> None:
    """What a helper runs: tasks from standard input, and on standard output a line for each that is done."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not disturb the answers
    gc.disable()  # see _uncollected
    for line in sys.stdin:
        function, args = json.loads(line)
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(*args)
        answers.write("done\n")
        answers.flush()
