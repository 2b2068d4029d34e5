"""The half of mutants.py that runs inside pytest, and in the processes that tests start.

``MUTANTS_TRACE=FOLDER`` records which lines of the package each test runs, one file of lines a process:
``{test: [seconds, {path: [line, ...]}]}``. The path of lines that a process of the test's ran begins with "child:".
``MUTANTS_SELECT=FILE`` runs only the tests which that file names, in its order. ``MUTANTS_SERVE=READ,WRITE`` (two file
descriptors) collects the tests once and then tries mutants of functions, each in a fork of itself whose functions have
the mutant's code.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import select
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

PACKAGE = str(Path(os.environ.get("MUTANTS_ROOT", ".")).resolve() / "gguflike") + os.sep

AT_IMPORT = ""  # stands for a test where lines are recorded that run while tests are imported


class Tracer:
    """Collects the lines that run, under the test that runs at the time."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.current: set[tuple[str, int]] = set()

    def start(self, test: str) -> None:
        self.current = self.lines[test]
        threading.settrace(self._call)
        sys.settrace(self._call)

    def stop(self) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: FrameType, *_: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, *_: Any) -> Any:
        if event == "line":
            self.current.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def save(self, folder: str) -> None:
        record: dict[str, tuple[float, dict[str, list[int]]]] = {}
        for test, seen in self.lines.items():
            files: dict[str, set[int]] = defaultdict(set)
            for file, line in seen:
                files[f"{self.prefix}gguflike/{file.removeprefix(PACKAGE)}".replace(os.sep, "/")].add(line)
            record[test] = (self.seconds.get(test, 0.0), {path: sorted(lines) for path, lines in files.items()})
        Path(folder, f"{os.getpid()}-{os.urandom(4).hex()}.json").write_text(json.dumps(record))


class Recorder:
    """The plugin of a tracing run. Tests that do not pass are left out: they could not tell a mutant."""

    def __init__(self, folder: str) -> None:
        self.folder, self.tracer = folder, Tracer()

    def pytest_collection(self) -> None:
        self.tracer.start(AT_IMPORT)

    def pytest_collection_finish(self) -> None:
        self.tracer.stop()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tracer.start(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self.tracer.stop()
        before = self.tracer.seconds.get(report.nodeid, 0.0)
        self.tracer.seconds[report.nodeid] = before + (report.duration if report.passed else float("inf"))

    def pytest_sessionfinish(self) -> None:
        for test in [test for test, seconds in self.tracer.seconds.items() if seconds == float("inf")]:
            del self.tracer.lines[test]
        self.tracer.save(self.folder)


class Selection:
    """The plugin of a mutant's run."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: number for number, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self.place]
        items[:] = sorted(kept, key=lambda item: self.place[item.nodeid])


class Server:
    """The plugin that tries mutants: requests and answers are lines of JSON."""

    def __init__(self, read: int, write: int) -> None:
        self.requests, self.write = os.fdopen(read), write
        self.items: dict[str, pytest.Item] = {}
        self.trusted: set[str] = set()  # tests that pass in a fork of the original
        self.broken: set[str] = set()  # and those that do not

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        for line in self.requests:
            status, detail = self._answer(json.loads(line))
            os.write(self.write, json.dumps([status, detail]).encode() + b"\n")
        return True

    def _answer(self, request: dict[str, Any]) -> tuple[str, str]:
        while True:
            tests = [test for test in request["tests"] if test in self.items and test not in self.broken]
            status, detail = self._fork(request, tests)
            if status != "killed" or detail in self.trusted or detail not in self.items:
                return status, detail
            if self._fork(request | {"after": request["before"]}, [detail])[0] == "survived":
                self.trusted.add(detail)
                return status, detail
            self.broken.add(detail)

    def _fork(self, request: dict[str, Any], tests: list[str]) -> tuple[str, str]:
        """killed (by which test), survived, timeout, or unknown where the function is not to be found."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            try:
                found = replace_code(request["path"], request["before"], request["after"])
                outcome = self._run(tests) if found else ("unknown", "")
            except BaseException as error:  # the mutant broke what runs it
                outcome = ("killed", f"{type(error).__name__}: {error}")
            os.write(write, json.dumps(outcome).encode())
            os._exit(0)
        os.close(write)
        try:
            if not select.select([read], [], [], request["seconds"])[0]:
                return "timeout", f"stopped after {request['seconds']:.0f} s"
            answer = os.read(read, 65536)
            return tuple(json.loads(answer)) if answer else ("killed", "the process ended")
        finally:
            os.close(read)
            with suppress(OSError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _run(self, tests: list[str]) -> tuple[str, str]:
        from _pytest.runner import runtestprotocol

        for test, following in zip(tests, [*tests[1:], None], strict=True):
            reports = runtestprotocol(
                self.items[test], log=False, nextitem=self.items[following] if following else None
            )
            if any(report.failed for report in reports):
                return "killed", test
        return "survived", ""


def replace_code(path: str, before: str, after: str) -> bool:
    """Give the functions of a module the code that they have in another version of it; False if none is found."""
    module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    pairs = _functions(compile(before, path, "exec"), compile(after, path, "exec"))
    new = {(old.co_name, old.co_firstlineno): code for old, code in pairs if before != after and old != code}
    found = before == after
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename == module.__file__:
            code = new.get((function.__code__.co_name, function.__code__.co_firstlineno))
            if code is not None:
                function.__code__ = code.replace(co_filename=str(module.__file__))
                found = True
    return found


def _functions(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The outermost functions of two versions of a module, in pairs."""
    codes = ([const for const in code.co_consts if isinstance(const, CodeType)] for code in (old, new))
    for first, second in zip(*codes, strict=True):
        if first.co_flags & inspect.CO_OPTIMIZED:
            yield first, second
        else:  # a class's body
            yield from _functions(first, second)


def pytest_configure(config: pytest.Config) -> None:
    if folder := os.environ.get("MUTANTS_TRACE"):
        config.pluginmanager.register(Recorder(folder))
    if file := os.environ.get("MUTANTS_SELECT"):
        config.pluginmanager.register(Selection(json.loads(Path(file).read_text())))
    if pipes := os.environ.pop("MUTANTS_SERVE", None):
        config.pluginmanager.register(Server(*map(int, pipes.split(","))))


def trace_child() -> None:
    """Trace a process that a test started; its lines count for that test (pytest names it in the environment)."""
    folder, test = os.environ.get("MUTANTS_TRACE"), os.environ.get("PYTEST_CURRENT_TEST")
    if folder and test:
        tracer = Tracer("child:")
        atexit.register(tracer.save, folder)
        tracer.start(test.rpartition(" ")[0])
