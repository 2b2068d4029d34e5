#!/usr/bin/env python3
"""Feeds everything that reads files of strangers with damaged ones.

    python scripts/fuzz.py [--inputs 200000] [--first 0] [--targets NAME ...] [--jobs 2] [--keep DIR] [--log FILE]
    python scripts/fuzz.py --sum FILE ...                     what several runs come to, by their logs
    python scripts/fuzz.py --guided TARGET [--inputs N]       by coverage; needs atheris (pip install atheris)
    python scripts/fuzz.py --replay FILE --targets NAME       one input that was kept
    python scripts/fuzz.py --list                             the mutations

Every input is a good file with one to four things changed (fuzz_mutations.py), read by all that reads its kind
(fuzz_targets.py). It must be read, or refused by one of the package's errors, within a second: another exception, a
warning, an input that takes longer, one for which a process grows beyond its limit, and a process that dies, are
findings, of which the input is kept. Prints how many of each kind were read and refused; exit status 1 where there are
findings.

An input is made from its number and from nothing else, whatever the number of processes: a run tries the numbers from
``--first`` on. So runs over ranges that do not overlap try different seeds of chance, and their counts add up. With
``--log`` a run writes every half minute which numbers it has tried and what became of them; ``next`` is where another
may begin, should this one be stopped. ``--sum`` adds logs, and refuses those whose numbers overlap or whose kinds of
input differ. (Two numbers may still make the same file: where one byte of a small file was changed, say.)
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import fuzz_mutations as mutations
from fuzz_targets import Target, targets

from gguflike.errors import GGUFLikeError

SECONDS = 1.0
MEMORY = 1 << 30  # bytes more than a process has at its start
LARGEST = 1 << 20  # bytes of an input that a dead process leaves
HEAD = 24  # bytes: how many inputs are done, and of the one in work its target and its length
OUTCOMES = ("read", "refused", "finding")
COLUMNS = (*OUTCOMES, "nanoseconds")  # what is counted of each target; time of a processor, of making inputs too
LOG_SECONDS = 30.0
COLLECTED = 500  # inputs between two collections of garbage


class TooLong(BaseException):
    """An input took more than SECONDS of a processor."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--targets", nargs="+", choices=[each.name for each in targets()], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for inputs that are findings")
    parser.add_argument("--log", type=Path, metavar="FILE", help="JSON of the counts, written anew every half minute")
    parser.add_argument("--sum", type=Path, nargs="+", metavar="FILE", help="add up the logs of several runs")
    parser.add_argument("--guided", choices=[each.name for each in targets()], metavar="TARGET")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    chosen = [each for each in targets() if args.targets is None or each.name in args.targets]
    if args.list:
        print("\n".join(mutations.MUTATIONS))
        return 0
    if args.sum is not None:
        return show(summed(args.sum))
    if args.replay is not None:
        with tempfile.TemporaryDirectory() as folder:
            chosen[0].read(args.replay.read_bytes(), Path(folder))
        return 0
    if args.guided is not None:
        return guided(next(each for each in chosen if each.name == args.guided), args.inputs)
    return at_random(chosen, args)


def at_random(chosen: Sequence[Target], args: argparse.Namespace) -> int:
    """Inputs shared out to processes, which are started again where one dies."""
    begun = logged = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made:
        jobs = [Job(number, chosen, args, Path(made)) for number in range(args.jobs)]
        for job in jobs:
            job.start()
        while any(job.running for job in jobs):
            time.sleep(0.2)
            for job in jobs:
                job.look()
            if args.log is not None and time.monotonic() > logged + LOG_SECONDS:
                logged = time.monotonic()
                write_log(args.log, account(jobs, args, logged - begun))
    found = account(jobs, args, time.monotonic() - begun)
    if args.log is not None:
        write_log(args.log, found)
    status = show(found)
    if status:
        print(f"see {args.keep}")
    return status


def account(jobs: Sequence[Job], args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What a run has done so far: the numbers from ``first`` to ``next``, of which with several processes some of the
    last may not have been tried, and what became of each kind of input."""
    total: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        total += job.counts()
    kinds = {target.name: {column: total[target.name, column] for column in COLUMNS} for target in jobs[0].chosen}
    end = args.first + min(args.inputs, args.jobs * max(job.done for job in jobs))
    return {"runs": [{"first": args.first, "next": end}], "seconds": seconds, "kinds": kinds}


def write_log(path: Path, found: dict[str, Any]) -> None:
    """Write it whole, or leave what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(found) + "\n")
    new.replace(path)


def summed(paths: Sequence[Path]) -> dict[str, Any]:
    """The account of several runs together. Exits where they tried numbers twice, or other kinds of input."""
    logs = [json.loads(path.read_text()) for path in paths]
    runs = sorted((run for log in logs for run in log["runs"]), key=lambda run: run["first"])
    for one, other in pairwise(runs):
        if other["first"] < one["next"]:
            sys.exit(
                f"inputs {other['first']:,} to {min(one['next'], other['next']) - 1:,} were tried twice: {one}, {other}"
            )
    if any(log["kinds"].keys() != logs[0]["kinds"].keys() for log in logs):
        sys.exit("these runs tried different kinds of input, so the same number stands for different inputs")
    kinds = {
        name: {column: sum(log["kinds"][name][column] for log in logs) for column in COLUMNS}
        for name in logs[0]["kinds"]
    }
    return {"runs": runs, "seconds": sum(log["seconds"] for log in logs), "kinds": kinds}


def show(found: dict[str, Any]) -> int:
    """Print an account; the exit status."""
    kinds, seconds = found["kinds"], found["seconds"]
    counts = {name: sum(each[outcome] for outcome in OUTCOMES) for name, each in kinds.items()}
    findings, inputs = sum(each["finding"] for each in kinds.values()), sum(counts.values())
    busy = sum(each["nanoseconds"] for each in kinds.values()) / 1e9
    print(f"{inputs:,} inputs in {seconds:.0f} s, {inputs / max(seconds, 1e-9):,.0f} a second; {findings} findings")
    ranges = ", ".join(f"{run['first']:,} to {run['next'] - 1:,}" for run in found["runs"])
    print(f"numbers {ranges}; {busy:.0f} s of processors, {inputs / max(busy, 1e-9):,.0f} a second of them")
    for name, each in kinds.items():
        speed = counts[name] / max(each["nanoseconds"] / 1e9, 1e-9)
        print(f"  {name:12} {counts[name]:12,}, of which {each['read']:,} were read; {speed:,.0f} a second")
    return 1 if findings else 0


class Job:
    """A process that works through its share of the inputs. What it does now lies in memory that outlives it."""

    def __init__(self, number: int, chosen: Sequence[Target], args: argparse.Namespace, folder: Path) -> None:
        self.number, self.chosen, self.args = number, chosen, args
        self.folder = folder / str(number)
        self.folder.mkdir()
        self.inputs: int = args.inputs // args.jobs + (number < args.inputs % args.jobs)
        self.tally = 8 * len(COLUMNS) * len(chosen)  # bytes of what became of the inputs, by target
        self.memory = mmap.mmap(-1, HEAD + self.tally + LARGEST)
        self.running = False

    def start(self) -> None:
        self.pid = os.fork()
        self.running = True
        if not self.pid:
            status = 1
            try:
                self.work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def look(self) -> None:
        """Go on where a process has died: its last input is a finding."""
        if not self.running:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return
        self.running = False
        code = os.waitstatus_to_exitcode(status)
        if code:
            done, target, length = struct.unpack_from("<QQQ", self.memory)
            data = bytes(self.memory[HEAD + self.tally :][:length])
            keep(self.args.keep, self.chosen[target].name, data, f"the process ended with {code}", self.numbered(done))
            self.count(target, "finding")
            struct.pack_into("<Q", self.memory, 0, done + 1)
            self.start()

    def numbered(self, done: int) -> int:
        """The number of the input that follows so many others."""
        first: int = self.args.first + self.number + done * self.args.jobs
        return first

    @property
    def done(self) -> int:
        """How many inputs were tried, with the one in work."""
        done: int = struct.unpack_from("<Q", self.memory)[0]
        return min(done + 1, self.inputs)

    def count(self, target: int, column: str, more: int = 1) -> None:
        at = HEAD + 8 * (len(COLUMNS) * target + COLUMNS.index(column))
        struct.pack_into("<Q", self.memory, at, more + struct.unpack_from("<Q", self.memory, at)[0])

    def counts(self) -> Counter[tuple[str, str]]:
        """How many inputs of each target came to what."""
        numbers = iter(struct.unpack_from(f"<{len(COLUMNS) * len(self.chosen)}Q", self.memory, HEAD))
        return Counter({(target.name, column): next(numbers) for target in self.chosen for column in COLUMNS})

    def work(self) -> None:
        places = range(len(self.chosen))
        shares = list(accumulate(target.share for target in self.chosen))
        warnings.simplefilter("error")  # who reads a bad file is told by an error
        _limit_memory()
        signal.signal(signal.SIGVTALRM, _too_long)
        (first,) = struct.unpack_from("<Q", self.memory)
        with contextlib.ExitStack() as around:
            for target in self.chosen:
                around.enter_context(target.around())
            gc.freeze()  # what is there by now stays
            gc.disable()
            before = time.process_time_ns()
            for done in range(first, self.inputs):
                if done % COLLECTED == 0:  # a tenth of the time less than where Python chooses when
                    gc.collect()
                chance = random.Random(self.numbered(done))
                (at,) = chance.choices(places, cum_weights=shares)
                target = self.chosen[at]
                data = target.mutated(chance.choice(target.seeds), chance)
                kept = data[:LARGEST]
                struct.pack_into("<QQQ", self.memory, 0, done, at, len(kept))
                start = HEAD + self.tally
                self.memory[start : start + len(kept)] = kept
                self.count(at, self.outcome(target, data, done))
                now = time.process_time_ns()
                self.count(at, "nanoseconds", now - before)
                before = now

    def outcome(self, target: Target, data: bytes, done: int) -> str:
        """What became of an input: read, refused, or a finding."""
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            target.read(data, self.folder)
            return "read"
        except GGUFLikeError as error:
            str(error)
            return "refused"
        except TooLong:
            problem = f"more than {SECONDS} seconds: {traceback.format_exc()}"
        except Exception:
            problem = traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        keep(self.args.keep, target.name, data, problem, self.numbered(done))
        return "finding"


def _too_long(*_: Any) -> None:
    raise TooLong


def _limit_memory() -> None:
    """MemoryError, which is a finding, instead of a machine that stands still."""
    with contextlib.suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def keep(folder: Path, name: str, data: bytes, problem: str, number: int) -> None:
    """Keep an input that is a finding, one for each place where something went wrong."""
    lines = [line for line in problem.splitlines() if line.strip().startswith("File ")]
    where = "-".join((lines or [problem])[-1].replace('"', "").split())[-80:].replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{where}"
    if not path.exists():
        path.write_bytes(data)
        path.with_name(path.name + ".txt").write_text(f"input {number}\n{problem}")


def guided(target: Target, inputs: int) -> int:
    """By coverage: atheris keeps what reaches new code, and changes it further as this script does."""
    try:
        import atheris
    except ImportError:
        sys.exit("coverage needs atheris: pip install atheris")
    with tempfile.TemporaryDirectory() as made:
        corpus, work = Path(made) / "corpus", Path(made) / "work"
        corpus.mkdir()
        work.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(target.encoded(seed))

        def one(data: bytes) -> None:
            with contextlib.suppress(GGUFLikeError):
                target.read(data, work)

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            chance = random.Random(seed)
            made = mutations.mutated_bytes(data, chance) if chance.random() < 0.5 else None
            return (made if made is not None else target.mutated(chance.choice(target.seeds), chance))[:most]

        atheris.instrument_all()
        options = [sys.argv[0], str(corpus), f"-runs={inputs}", f"-timeout={int(SECONDS)}", "-max_len=65536"]
        atheris.Setup(options, one, custom_mutator=mutate)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
