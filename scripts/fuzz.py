#!/usr/bin/env python3
"""Feeds everything that reads files of strangers with damaged ones.

    python scripts/fuzz.py [--inputs 200000] [--targets NAME ...] [--jobs 2] [--seed 0] [--keep DIR]
    python scripts/fuzz.py --guided TARGET [--inputs N]       by coverage; needs atheris (pip install atheris)
    python scripts/fuzz.py --replay FILE --targets NAME       one input that was kept
    python scripts/fuzz.py --list                             the mutations

Every input is a good file with one to four things changed (fuzz_mutations.py), read by all that reads its kind
(fuzz_targets.py). It must be read, or refused by one of the package's errors, within a second: another exception, an
input that takes longer, one for which a process grows beyond its limit, and a process that dies, are findings, of which
the input is kept. Prints how many of each kind were read and refused; exit status 1 where there are findings.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fuzz_mutations as mutations
from fuzz_targets import Target, targets

from gguflike.errors import GGUFLikeError

SECONDS = 1.0
MEMORY = 1 << 30  # bytes more than a process has at its start
LARGEST = 1 << 20  # bytes of an input that a dead process leaves
HEAD = 24  # bytes: the number of an input, of its target, and its length
OUTCOMES = ("read", "refused", "finding")


class TooLong(BaseException):
    """An input took more than SECONDS of a processor."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--targets", nargs="+", choices=[each.name for each in targets()], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for inputs that are findings")
    parser.add_argument("--guided", choices=[each.name for each in targets()], metavar="TARGET")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    chosen = [each for each in targets() if args.targets is None or each.name in args.targets]
    if args.list:
        print("\n".join(mutations.MUTATIONS))
        return 0
    if args.replay is not None:
        with tempfile.TemporaryDirectory() as folder:
            chosen[0].read(args.replay.read_bytes(), Path(folder))
        return 0
    if args.guided is not None:
        return guided(next(each for each in chosen if each.name == args.guided), args.inputs)
    return at_random(chosen, args)


def at_random(chosen: Sequence[Target], args: argparse.Namespace) -> int:
    """Inputs shared out to processes, which are started again where one dies."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made:
        jobs = [Job(number, chosen, args, Path(made)) for number in range(args.jobs)]
        for job in jobs:
            job.start()
        while any(job.running for job in jobs):
            time.sleep(0.2)
            for job in jobs:
                job.look()
        total: Counter[tuple[str, str]] = Counter()
        for job in jobs:
            total += job.counts()
    seconds = time.monotonic() - begun
    findings = sum(count for (_, outcome), count in total.items() if outcome == "finding")
    inputs = sum(total.values())
    print(f"{inputs:,} inputs in {seconds:.0f} s, {inputs / seconds:,.0f} a second; {findings} findings")
    for target in chosen:
        read, refused = total[target.name, "read"], total[target.name, "refused"]
        print(f"  {target.name:12} {read + refused:12,}, of which {read:,} were read")
    if findings:
        print(f"see {args.keep}")
    return 1 if findings else 0


class Job:
    """A process that works through its share of the inputs. What it does now lies in memory that outlives it."""

    def __init__(self, number: int, chosen: Sequence[Target], args: argparse.Namespace, folder: Path) -> None:
        self.number, self.chosen, self.args = number, chosen, args
        self.folder = folder / str(number)
        self.folder.mkdir()
        self.inputs = args.inputs // args.jobs + (number < args.inputs % args.jobs)
        self.tally = 24 * len(chosen)  # bytes of what became of the inputs, by target
        self.memory = mmap.mmap(-1, HEAD + self.tally + LARGEST)
        self.lives = 0
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
            keep(self.args.keep, self.chosen[target].name, data, f"the process ended with {code}")
            self.count(target, "finding")
            self.lives += 1
            struct.pack_into("<Q", self.memory, 0, done + 1)
            self.start()

    def count(self, target: int, outcome: str) -> None:
        at = HEAD + 24 * target + 8 * OUTCOMES.index(outcome)
        struct.pack_into("<Q", self.memory, at, 1 + struct.unpack_from("<Q", self.memory, at)[0])

    def counts(self) -> Counter[tuple[str, str]]:
        """How many inputs of each target came to what."""
        numbers = iter(struct.unpack_from(f"<{3 * len(self.chosen)}Q", self.memory, HEAD))
        return Counter({(target.name, outcome): next(numbers) for target in self.chosen for outcome in OUTCOMES})

    def work(self) -> None:
        chance = random.Random(f"{self.args.seed} {self.number} {self.lives}")
        shares = [target.share for target in self.chosen]
        _limit_memory()
        signal.signal(signal.SIGVTALRM, _too_long)
        (first,) = struct.unpack_from("<Q", self.memory)
        for done in range(first, self.inputs):
            (at,) = chance.choices(range(len(self.chosen)), shares)
            target = self.chosen[at]
            data = target.mutated(chance.choice(target.seeds), chance)
            kept = data[:LARGEST]
            struct.pack_into("<QQQ", self.memory, 0, done, at, len(kept))
            start = HEAD + self.tally
            self.memory[start : start + len(kept)] = kept
            self.count(at, self.outcome(target, data))

    def outcome(self, target: Target, data: bytes) -> str:
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
        keep(self.args.keep, target.name, data, problem)
        return "finding"


def _too_long(*_: Any) -> None:
    raise TooLong


def _limit_memory() -> None:
    """MemoryError, which is a finding, instead of a machine that stands still."""
    with contextlib.suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def keep(folder: Path, name: str, data: bytes, problem: str) -> None:
    """Keep an input that is a finding, one for each place where something went wrong."""
    lines = [line for line in problem.splitlines() if line.strip().startswith("File ")]
    where = "-".join((lines or [problem])[-1].replace('"', "").split())[-80:].replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{where}"
    if not path.exists():
        path.write_bytes(data)
        path.with_name(path.name + ".txt").write_text(problem)


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
