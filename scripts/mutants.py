#!/usr/bin/env python3
"""Change the package in one small way at a time, and report the changes that no test notices.

    python scripts/mutants.py [--module container ...] [--count 50] [--seed 0] [--jobs N] [--list] [--json OUT.json]
    python scripts/mutants.py --only 1f3a9c2e     one mutant again, by the name that the report gives it

A *mutant* is the package with one comparison, operator, number, condition, call, ``raise`` or ``return`` changed. The
tests run once under a tracer first, which tells what lines each test runs (also in processes that it starts); the
result is kept until the package or the tests change. A mutant then runs the tests that pass through its line, as many
as --budget allows, until one fails: it is *killed*. One that fails none *survives*: a test is missing, or the change
makes no difference, in which case mutants_explained.json says why. Kernels are left alone: compiling them takes
minutes.

Mutants of functions are tried in forks of a process that has collected the tests, where their code takes the place of
the functions'. The others, and those that only a process started by a test would show, are tried in temporary copies.
The working tree is only read.

Exit status: 0 if every mutant was killed or explained, 1 if not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from queue import Queue
from typing import Any

from mutants_changes import Mutant, mutants_of
from mutants_plugin import AT_IMPORT

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("gguflike", "tests", "spec", "scripts", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml")
PLAIN = ("container", "convert", "checkpoint", "runner", "verify", "diff", "inspect", "tensor")
EXPLAINED = Path(__file__).with_name("mutants_explained.json")
PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-p", "mutants_plugin"]
# sitecustomize.py while tests are traced: for the processes that a test starts
SITE = """
import os
if "PYTEST_CURRENT_TEST" in os.environ:
    import mutants_plugin
    mutants_plugin.trace_child()
"""
# Tests of kernels are left out: they compile for minutes.
KERNELS = re.compile(r"^from gguflike\.kernels\.(?!table\b|engine import host\b)", re.MULTILINE)
FORKS = hasattr(os, "fork")
STARTUP_SECONDS, SLOWER = 60.0, 10.0  # a mutant's time limit: this, and so many times what its tests took


@dataclass
class Outcome:
    """What became of one mutant."""

    mutant: Mutant
    status: str  # killed, timeout (killed by the clock), survived, uncovered (no test runs the line) or explained
    detail: str = ""  # the test that failed, or the explanation
    tests: int = 0


@dataclass
class Coverage:
    """Which lines of the package each test runs, and how long it takes."""

    tests: dict[str, tuple[float, dict[str, list[int]]]]
    budget: float

    @cached_property
    def by_line(self) -> dict[tuple[str, int], set[str]]:
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        for test, (_, files) in self.tests.items():
            for path, lines in files.items():
                for line in lines:
                    found[path.removeprefix("child:"), line].add(test)
        return found

    def at_import(self, mutant: Mutant) -> bool:
        """Whether the mutated line runs when the module is imported, where no fork can change what it did."""
        return not mutant.function or AT_IMPORT in self.by_line.get((mutant.path, mutant.line), ())

    def of(self, mutant: Mutant) -> list[str]:
        """The tests to run: those that run the mutated lines.

        What runs at import belongs to all tests of the files that use the module (a test may only look at a constant),
        what only a script run by path runs to the callers of the script.
        """
        found: set[str] = set()
        if self.at_import(mutant) or not self._users({mutant.path}):
            users = self._users({mutant.path}) or self._users(_mentioning(Path(mutant.path).name))
            files = {_file(test) for test in users}
            found = {test for test in self.tests if _file(test) in files}
        else:
            for line in range(mutant.line, mutant.end_line + 1):
                found |= self.by_line.get((mutant.path, line), set())
        return self._in_order(found - {AT_IMPORT}, Path(mutant.path).stem)

    def _in_order(self, tests: set[str], module: str) -> list[str]:
        """As many as the budget allows, the fastest, all of one file together; tests of recipe.py in test_recipe.py."""
        fastest = sorted(tests, key=lambda test: (self.tests[test][0], test))
        spent = list(accumulate(self.tests[test][0] for test in fastest))
        chosen = [test for test, seconds in zip(fastest, spent, strict=True) if seconds <= self.budget] or fastest[:1]
        cost: dict[str, float] = defaultdict(float)
        for test in chosen:
            cost[_file(test)] += self.tests[test][0]
        return sorted(chosen, key=lambda test: (module not in _file(test), cost[_file(test)], _file(test)))

    def in_children(self, mutant: Mutant, tests: Sequence[str]) -> list[str]:
        """Those of the tests that run the module in a process of their own, which a fork of this one cannot change."""
        if not self._users({mutant.path}):  # a script that is run by path
            return list(tests)
        return [test for test in tests if "child:" + mutant.path in self.tests[test][1]]

    def _users(self, paths: set[str]) -> set[str]:
        return {
            test
            for test, (_, files) in self.tests.items()
            if any(path.removeprefix("child:") in paths for path in files)
        }


def _file(test: str) -> str:
    return test.partition("::")[0]


def _mentioning(name: str) -> set[str]:
    """The package's files that hold ``name`` as text."""
    files = (ROOT / "gguflike").rglob("*.py")
    return {path.relative_to(ROOT).as_posix() for path in files if name in path.read_text("utf-8")}


class Sandbox:
    """Temporary copies of the repository, and pytest in them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.template = folder, folder / "original"
        self.template.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.template / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (ROOT / name).exists():
                shutil.copy2(ROOT / name, self.template / name)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        (folder / "trace").mkdir()

    def command(self, tree: Path, arguments: Sequence[str], **settings: str) -> dict[str, Any]:
        """How pytest is started in ``tree``, as arguments of Popen."""
        paths = [
            str(tree),
            str(tree / "scripts"),
            *([str(self.folder / "site")] if "MUTANTS_TRACE" in settings else []),
        ]
        environment = os.environ | settings | {"PYTHONPATH": os.pathsep.join(paths), "MUTANTS_ROOT": str(tree)}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "", "TMPDIR": str(tree.parent)}
        command = [*PYTEST, "--hypothesis-seed=0", *arguments]
        return {"args": command, "cwd": tree, "env": environment, "start_new_session": True}

    def run(self, tree: Path, arguments: Sequence[str], seconds: float | None, **settings: str) -> tuple[int, str]:
        """pytest in ``tree``: its exit status and output. TimeoutExpired kills it and whatever it started."""
        how = self.command(tree, arguments, **settings)
        with subprocess.Popen(**how, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                output: bytes = process.communicate(timeout=seconds)[0]
            finally:
                _kill(process)
        return process.returncode, output.decode(errors="replace")

    def trace(self, file: str) -> str:
        """Run one file of tests under the tracer; returns pytest's last line."""
        status, output = self.run(self.template, ["--maxfail=0", file], None, MUTANTS_TRACE=str(self.folder / "trace"))
        if status not in (0, 1, 5):
            sys.exit(f"{file}: pytest ended with status {status}\n{output}")
        return output.strip().rpartition("\n")[2]

    def try_out(self, mutant: Mutant, coverage: Coverage, servers: Queue[Server]) -> Outcome:
        """Run the tests of one mutant: in a fork of a server if that can be, and in a copy unless the fork kills it."""
        tests = coverage.of(mutant)
        if not tests:
            return Outcome(mutant, "uncovered")
        seconds = STARTUP_SECONDS + SLOWER * sum(coverage.tests[test][0] for test in tests)
        server = servers.get()
        try:
            if FORKS and not coverage.at_import(mutant):
                status, detail = server.ask(mutant, tests, seconds)
                if status == "survived" and (rest := coverage.in_children(mutant, tests)):
                    return self._in_a_copy(mutant, rest, seconds)
                if status != "unknown":
                    return Outcome(mutant, status, detail, len(tests))
            return self._in_a_copy(mutant, tests, seconds)
        finally:
            servers.put(server)

    def _in_a_copy(self, mutant: Mutant, tests: list[str], seconds: float) -> Outcome:
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            tree, selection = Path(folder) / "tree", Path(folder) / "tests.json"
            shutil.copytree(self.template, tree)
            (tree / mutant.path).write_text(mutant.source, "utf-8")
            selection.write_text(json.dumps(tests))
            files = list(dict.fromkeys(map(_file, tests)))
            try:
                status, output = self.run(tree, files, seconds, MUTANTS_SELECT=str(selection))
            except subprocess.TimeoutExpired:
                return Outcome(mutant, "timeout", f"stopped after {seconds:.0f} s", len(tests))
        if status == 0:
            return Outcome(mutant, "survived", tests=len(tests))
        failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return Outcome(mutant, "killed", failed[0][:160] if failed else f"status {status}", len(tests))


class Server:
    """A pytest that has collected all tests and tries mutants in forks of itself: no start, no collecting again."""

    def __init__(self, sandbox: Sandbox, files: Sequence[str]) -> None:
        self._files, self._sandbox = files, sandbox
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> tuple[str, str]:
        """Status and detail, as of Outcome; "unknown" where only a copy can tell."""
        if self._process is None:
            self._start()
        before = (ROOT / mutant.path).read_text("utf-8")
        request = {"path": mutant.path, "before": before, "after": mutant.source, "tests": tests, "seconds": seconds}
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        answer = self._answers.readline()
        if not answer:
            sys.exit(f"the server of tests has ended:\n{(self._sandbox.folder / 'server.log').read_text()}")
        status, detail = json.loads(answer)
        return status, detail

    def _start(self) -> None:
        (read, requests), (answers, write) = os.pipe(), os.pipe()
        how = self._sandbox.command(self._sandbox.template, self._files, MUTANTS_SERVE=f"{read},{write}")
        with (self._sandbox.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(**how, stdout=log, stderr=log, pass_fds=(read, write))
        os.close(read)
        os.close(write)
        self._requests, self._answers = os.fdopen(requests, "wb"), os.fdopen(answers, "rb")

    def stop(self) -> None:
        if self._process is not None:
            self._requests.close()
            self._process.wait()
            self._answers.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it started."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def coverage_of(sandbox: Sandbox, jobs: int, budget: float) -> Coverage:
    """The map from tests to lines, from the cache where neither package nor tests have changed since."""
    digest = hashlib.sha256()
    for path in sorted(p for name in ("gguflike", "tests") for p in (sandbox.template / name).rglob("*.py")):
        digest.update(path.relative_to(sandbox.template).as_posix().encode() + b"\0" + path.read_bytes())
    kept = Path(tempfile.gettempdir(), f"gguflike-mutants-{digest.hexdigest()[:16]}.json")
    if not kept.exists():
        files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py"))
        files = [file for file in files if not KERNELS.search((ROOT / file).read_text("utf-8"))]
        with ThreadPoolExecutor(jobs) as pool:
            running = {pool.submit(sandbox.trace, file): file for file in files}
            for done in as_completed(running):
                print(f"traced {running[done]}: {done.result()}", file=sys.stderr, flush=True)
        record: dict[str, tuple[float, dict[str, set[int]]]] = {}
        for path in (sandbox.folder / "trace").iterdir():
            for test, (seconds, found) in json.loads(path.read_text()).items():
                before, lines = record.get(test, (0.0, {}))
                for file, numbers in found.items():
                    lines.setdefault(file, set()).update(numbers)
                record[test] = (before + seconds, lines)
        tests = {
            test: (seconds, {file: sorted(numbers) for file, numbers in lines.items()})
            for test, (seconds, lines) in sorted(record.items())
            if seconds or test == AT_IMPORT
        }
        if len(tests) < 2:
            sys.exit("no test passes on the package as it is: a mutant would look the same")
        kept.write_text(json.dumps(tests))
    return Coverage(json.loads(kept.read_text()), budget)


def all_mutants(modules: Sequence[str]) -> list[Mutant]:
    """Every mutant of the modules, in the order of files and lines."""
    found: list[Mutant] = []
    for module in modules:
        place = ROOT / "gguflike" / module.removeprefix("gguflike/").removesuffix(".py")
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for file in files:
            if not file.exists():
                sys.exit(f"no such module: {module}")
            found += mutants_of(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))
    return found


def explanation(mutant: Mutant) -> str | None:
    """Why a survivor makes no difference. An entry without ``after`` holds for whatever the piece is changed into."""
    for entry in json.loads(EXPLAINED.read_text("utf-8")):
        entered = (entry["path"], entry["before"], entry.get("after", mutant.after))
        if entered == (mutant.path, mutant.before, mutant.after):
            return str(entry["why"])
    return None


def outcomes(mutants: Sequence[Mutant], jobs: int, budget: float) -> Iterator[Outcome]:
    """Run mutants, as they finish."""
    with tempfile.TemporaryDirectory(prefix="gguflike-mutants-", ignore_cleanup_errors=True) as folder:
        sandbox = Sandbox(Path(folder))
        coverage = coverage_of(sandbox, jobs, budget)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "."], cwd=sandbox.template, check=False)
        servers: Queue[Server] = Queue()
        all_servers = [
            Server(sandbox, sorted({_file(test) for test in coverage.tests if test != AT_IMPORT})) for _ in range(jobs)
        ]
        for server in all_servers:
            servers.put(server)
        try:
            with ThreadPoolExecutor(jobs) as pool:
                running = [pool.submit(sandbox.try_out, mutant, coverage, servers) for mutant in mutants]
                for done in as_completed(running):
                    outcome = done.result()
                    if outcome.status in ("survived", "uncovered") and (why := explanation(outcome.mutant)):
                        outcome.status, outcome.detail = "explained", why
                    yield outcome
        finally:
            for server in all_servers:
                server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], epilog="See the head of this file for more."
    )
    parser.add_argument(
        "--module", action="append", help=f"package or module below gguflike/ (repeat; default: {' '.join(PLAIN)})"
    )
    parser.add_argument("--count", type=int, default=50, help="mutants to run, drawn at random; 0: all (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="another draw (default 0)")
    parser.add_argument("--only", action="append", help="run the mutant with this name (repeat)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: CPUs)")
    parser.add_argument(
        "--budget", type=float, default=60.0, metavar="SECONDS", help="of tests for one mutant: the fastest"
    )
    parser.add_argument("--list", action="store_true", help="show the mutants and run none")
    parser.add_argument("--json", type=Path, help="write every outcome to this file")
    arguments = parser.parse_args()

    mutants = all_mutants(arguments.module or PLAIN)
    if arguments.only:
        mutants = [mutant for mutant in mutants if mutant.name in arguments.only]
    elif 0 < arguments.count < len(mutants):
        chosen = random.Random(arguments.seed).sample(range(len(mutants)), arguments.count)
        mutants = [mutants[index] for index in sorted(chosen)]
    if arguments.list:
        for mutant in mutants:
            print(mutant)
        return 0

    done: list[Outcome] = []
    for outcome in outcomes(mutants, arguments.jobs, arguments.budget):
        done.append(outcome)
        print(f"{len(done)}/{len(mutants)} {outcome.status:9} {outcome.mutant}  {outcome.detail}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([_plain(each) for each in done], indent=1) + "\n")
    counts = Counter(outcome.status for outcome in done)
    print("\n" + ", ".join(f"{counts[status]} {status}" for status in sorted(counts)) + f" of {len(done)}")
    left = [outcome for outcome in done if outcome.status in ("survived", "uncovered")]
    for outcome in sorted(left, key=lambda each: (each.mutant.path, each.mutant.line)):
        print(f"{outcome.status:9} {outcome.mutant}  ({outcome.tests} tests)")
    return 1 if left else 0


def _plain(outcome: Outcome) -> dict[str, object]:
    record = asdict(outcome)
    mutant = record.pop("mutant")
    del mutant["source"]
    return {**mutant, **record}


if __name__ == "__main__":
    sys.exit(main())
