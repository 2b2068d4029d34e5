"""Work shared by threads: everything once, whoever does it; errors arrive; a fork and the end of the process pass."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gguflike.kernels.engine.threads import _helpers, run_rows, together


@pytest.mark.parametrize("least", [1, 7, 1000])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("rows", [0, 1, 2, 16, 17, 999])
def test_every_row_once(rows: int, threads: int, least: int) -> None:
    count = np.zeros(rows, np.int64)
    ranges = []

    def kernel(start: int, stop: int, *more: object) -> None:
        assert more == ("a", None)
        ranges.append(stop - start)
        count[start:stop] += 1

    run_rows(kernel, rows, "a", None, threads=threads, least=least)
    assert (count == 1).all()
    assert sum(size < least for size in ranges) <= 1  # what is left of the rows
    assert threads > 1 or len(ranges) == 1


def test_threads_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=60)
    together(lambda _: meeting.wait() and None, 3)


def test_the_caller_is_told_apart() -> None:
    meeting, told = threading.Barrier(3, timeout=60), []

    def work(last: bool) -> None:
        meeting.wait()
        told.append((last, threading.current_thread() is threading.main_thread()))

    together(work, 3)
    assert sorted(told) == [(False, False), (False, False), (True, True)]


@pytest.mark.parametrize("failing", [True, False])
def test_errors_arrive_and_end_the_rest(failing: bool) -> None:
    meeting, done = threading.Barrier(2, timeout=60), []

    def kernel(start: int, stop: int) -> None:
        if start < 12:  # the first range of each of two threads
            meeting.wait()
        if failing == (threading.current_thread() is threading.main_thread()):
            raise ValueError(start)
        time.sleep(0.05)
        done.append(start)

    with pytest.raises(ValueError, match=r"^\d+$"):
        run_rows(kernel, 96, threads=2, least=6)
    assert len(done) <= 3
    together(lambda _: None, 2)  # as good as new


def test_nobody_waits_for_a_thread_that_is_busy() -> None:
    """The only helper is in another call: this one is done without it, and it does not come later."""
    _helpers.cache_clear()
    begun, free, late = threading.Event(), threading.Event(), []

    def work(last: bool) -> None:
        if not last:
            begun.set()
        (begun if last else free).wait(60)

    other = threading.Thread(target=together, args=(work, 2))
    other.start()
    assert begun.wait(60)
    for _ in range(3):
        together(lambda last: None if last else late.append(1), 2)
    free.set()
    other.join(60)
    together(lambda last: None if last else late.append(2), 2)
    assert not other.is_alive()
    assert 1 not in late


def test_in_a_fork_and_at_the_end() -> None:
    """A forked child has helpers of its own, and helpers do not keep a process from ending."""
    program = (
        "import os, threading, time\n"
        "from gguflike.kernels.engine.threads import together\n"
        "def meet():\n"
        "    meeting = threading.Barrier(2, timeout=30)\n"
        "    together(lambda last: meeting.wait() and None, 2)\n"
        "meet()\n"
        "child = os.fork()\n"
        "meet()\n"
        "if child: raise SystemExit(os.waitpid(child, 0)[1])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
