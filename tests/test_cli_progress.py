"""What is said of work that takes long: on a terminal, in a pipe, and when it is interrupted."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from gguflike.amounts import duration
from gguflike.cli import interrupts, progress
from gguflike.cli.progress import Stage, progress_bar
from gguflike.kernels.engine import host
from gguflike.progress import CALIBRATING, COMPILING, FETCHING, READING, unit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal, to be made inside of a test: pytest sets its own before each."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(progress, "DRAWN_FROM", 0.0)
    monkeypatch.setattr(progress, "TICK", 0.01)
    return made


def wait_for(pattern: str, stream: io.StringIO) -> str:
    end = time.monotonic() + 20
    while not (found := re.search(pattern, stream.getvalue())):
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)
    return found[0]


def test_a_bar_is_drawn_on_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    with progress_bar() as report:
        report(3, 17, COMPILING)
        wait_for(r"compiling kernels: 3 of 17 \|#+\.+\| \d s", screen)
        report(5_000_000, 10_000_000, "blk.0\x1b")
        wait_for(r"blk\.0\\x1b: 5\.0 MB of 10\.0 MB \|#{20}\.{20}\| ", screen)
        report(512, 6000, READING)
        wait_for(r"reading the prompt: 512 of 6,000 tokens \|#", screen)
        report(1, 3, CALIBRATING + "blk.0")
        wait_for(r"calibrating blk\.0: 33 % \|#", screen)
    assert screen.getvalue().endswith(progress.ERASE)
    assert "\x1b" not in screen.getvalue().replace(progress.ERASE, "")
    assert max(map(len, screen.getvalue().split(progress.ERASE))) < 100


def test_a_step_that_takes_long_is_seen_to_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library says nothing while it compiles a kernel."""
    screen = screen_of(monkeypatch)
    with progress_bar() as report:
        report(0, 2, COMPILING)
        wait_for(r"0 of 2 \|\.+\| 1 s", screen)


def test_work_that_is_soon_done_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "DRAWN_FROM", 60.0)
    with progress_bar() as report:
        report(1, 2, COMPILING)
    assert screen.getvalue() == ""


def test_in_a_pipe_there_is_a_line_of_life(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LIFE", 0.05)
    with progress_bar() as report:
        report(5, 10, "blk.0\n")
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [r"blk.0\n: 5 bytes of 10 bytes, 0 s"] * 2


def test_in_a_pipe_compiling_and_downloads_are_told_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar() as report:
        report(5, 10, "blk.0")
        assert capsys.readouterr().err == ""
        report(0, 17, COMPILING)
        report(1, 17, COMPILING)
        report(0, 2, COMPILING)
        report(0, 2_000_000, FETCHING + "a.gguf")
        report(9, 2_000_000, FETCHING + "a.gguf")
    told = f"compiling 17 kernels, kept for next time in {host.cache_dir()}\nfetching a.gguf, 2.0 MB\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr(host, "cache_dir", lambda: None)
    with progress_bar() as report:
        report(0, 1, COMPILING)
    assert capsys.readouterr().err == "compiling 1 kernel, not kept: no folder takes them\n"
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar() as report:
        report(0, 1, COMPILING)


def test_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stage = Stage(10, 110, "blk.0", "bytes")
    now += 10
    stage.reach(60, "blk.1")
    assert stage.line() == "blk.1: 60 bytes of 110 bytes, 5 bytes/s, about 10 s left"
    stage = Stage(0, 4, COMPILING, unit(COMPILING))
    now += 100
    stage.reach(1, COMPILING)
    assert stage.line() == "compiling kernels: 1 of 4, about 5 min left"
    assert stage.drawn(30) == "compiling kernels: 1 of 4 abou"
    assert not stage.goes_on(0, 4, COMPILING)
    stage.reach(4, COMPILING)  # what still goes on has no measure
    assert stage.line() == "compiling kernels: 4 of 4, 2 min"
    assert [duration(s) for s in (0.4, 99, 200, 9000)] == ["0 s", "99 s", "3 min", "2 h 30 min"]


def test_the_time_left_falls_while_a_step_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At two of six in 20 s, 40 s are left, and 30 s after 10 more; what is overdue takes as long again."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stage = Stage(0, 6, "tuning, ", "steps")
    now += 20
    stage.reach(2, "tuning, ")
    said = []
    for later in (0, 10, 15, 10, 25):
        now += later
        stage.reach(2, "tuning, ")  # which tells nothing new
        said.append(stage.line().rpartition("about ")[2])
    assert said == ["40 s left", "30 s left", "25 s left", "35 s left", "60 s left"]


# Ctrl-C


def test_an_interrupt_that_nobody_heard_is_raised_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_is_pending", False)
    with pytest.raises(KeyboardInterrupt):
        interrupts._interrupted(signal.SIGINT, None)
    with progress_bar() as report, pytest.raises(KeyboardInterrupt):
        report(0, 1, "blk.0")
    with progress_bar() as report:  # it is raised once
        report(0, 1, "blk.0")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_in_a_callback_is_neither_printed_nor_lost() -> None:
    code = """
import os, signal, weakref
signal.signal(signal.SIGINT, signal.default_int_handler)
from gguflike.cli import interrupts
interrupts.install()
class Thing: pass
def gone(_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
thing = Thing()
reference = weakref.ref(thing, gone)
del thing
print("went on")
interrupts.check()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "went on\n"
    assert done.stderr.endswith("in check\n    raise KeyboardInterrupt\nKeyboardInterrupt\n")
    assert "Exception ignored" not in done.stderr
