#!/usr/bin/env python3
"""Breaks what writes files in every way that we know, and sees that nothing is lost and nothing is half-written.

    python scripts/break_writing.py [--only KIND ...] [--operations NAME ...] [--points 200] [--kills 500] [--seed 0]

convert, quantize, merge, split, edit and sign of a small model run as commands, each in a process, and are hurt:

faults    the n-th call of each kind (write, sync, rename, link, open, cut, remove, make a folder) fails, for every n,
          once or from then on, with ENOSPC and EIO
disk      a file system of so many bytes (a tmpfs, for which one must be root) is full at each of its pages
kills     SIGKILL at each of those calls, before and after it, and at random moments
power     the calls are recorded; at random points of the record the power fails: of what was written and not yet
          synced, any sectors may be on the disk, and of the names the first so many changes
readers   16 processes read one file while it is replaced 500 times, and see whole files only
writers   two processes write one target at the same time: it is always one of theirs, whole

After each the target is absent, old or complete; a command that ends by itself says why in one sentence and has status
1; the same command, run again, ends well, with the bytes of a run that nothing disturbed, and no temporary file is
left. Prints how often each was done. Ends with exit status 1 at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from bench_convert import Shape, make

import gguflike
from gguflike.cli import main as command
from gguflike.container import reheader

#: What changes a file system, by the names that ``os`` gives it, and ``fcntl``: by it blocks are shared.
CALLS = (
    *("pwrite", "write", "fsync", "fdatasync", "replace", "rename", "link", "unlink"),
    *("open", "ftruncate", "mkdir", "rmdir", "copy_file_range", "ioctl"),
)
CODES = (errno.ENOSPC, errno.EIO)
SECTOR = 512
LONG, SHORT = "general.name=" + "long " * 3000, "general.name=short"
KINDS = ("faults", "disk", "kills", "power", "readers", "writers")
OPERATIONS = ("convert", "quantize", "merge", "split", "edit", "sign")


def fail(message: str) -> NoReturn:
    sys.exit(f"wrong: {message}")


# --- what is done ---


@dataclass
class Operation:
    """A command that writes files called ``x*`` in the folder where it runs."""

    name: str
    arguments: list[str]
    old: dict[str, bytes]  # what is there before
    whole: dict[str, bytes] = field(default_factory=dict)  # and after

    def prepare(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in self.old.items():
            (folder / name).write_bytes(data)


def operations(work: Path, names: Sequence[str]) -> list[Operation]:
    """Those called ``names``, with what they give when nothing disturbs them."""
    checkpoint = work / "hf"
    make(checkpoint, Shape(1, 512, 512, 4096), "F16", shard_bytes=2e6)
    half, parts = work / "half.gguf", work / "part"
    run(work, "convert", checkpoint, "-o", half, "-t", "F16")
    run(work, "split", half, "-o", parts, "--split-max-size", "1500K")
    first = sorted(work.glob("part-*.gguf"))[0]
    old = {"x.gguf": b"what was there before"}
    several = {path.name.replace("part", "x"): b"old" for path in sorted(work.glob("part-*.gguf"))}
    made = [
        Operation("convert", ["convert", str(checkpoint), "-o", "x.gguf", "-t", "Q8_0", "--overwrite"], old),
        Operation("quantize", ["quantize", str(half), "-o", "x.gguf", "-t", "Q4_K", "--overwrite"], old),
        Operation("merge", ["merge", str(first), "-o", "x.gguf", "--overwrite"], old),
        Operation("split", ["split", str(half), "-o", "x", "--split-max-size", "1500K", "--overwrite"], several),
        Operation("edit", ["edit", "x.gguf", "--set", LONG], {"x.gguf": half.read_bytes()}),
        Operation("edit in place", ["edit", "x.gguf", "--set", SHORT], {"x.gguf": half.read_bytes()}),
    ]
    if "sign" in names:
        first, second = (["sign", "x.gguf", "--key", str(key_of(work, name))] for name in ("first", "second"))
        made.append(Operation("sign", first, {"x.gguf": half.read_bytes()}))
        made.append(Operation("sign again", second, {"x.gguf": signed(work, half)}))
    chosen = [each for each in made if each.name.split()[0] in names]
    for each in chosen:
        each.prepare(work / "out")
        status, said = in_child(work / "out", each.arguments)
        if status:
            fail(f"{each.name} undisturbed: {said}")
        each.whole = contents(work / "out")
    return chosen


def key_of(work: Path, name: str) -> Path:
    """A private key, the same in every run."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    path = work / f"{name}.pem"
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    return path


def signed(work: Path, source: Path) -> bytes:
    """What the first key's signature makes of a file."""
    copy = work / "signed.gguf"
    shutil.copy(source, copy)
    run(work, "sign", copy, "--key", work / "first.pem")
    return copy.read_bytes()


def run(work: Path, *arguments: str | Path) -> None:
    status, said = in_child(work, [os.fspath(each) for each in arguments])
    if status:
        fail(f"{arguments}: {said}")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("x")}


def temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".gguflike-")]


def start(folder: Path, arguments: list[str], hook: Callable[[], None] = lambda: None) -> tuple[int, Path]:
    """A forked process that runs a command behind ``hook``; its id, and the file that has what it says."""
    said = folder.parent / f"said-{os.urandom(4).hex()}"
    child = os.fork()
    if child:
        return child, said
    status = 3
    try:
        os.chdir(folder)
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        hook()
        status = command(arguments)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 3
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def ended(child: int, said: Path) -> tuple[int, str]:
    """The status with which a process ends, negative for a signal, and what it said."""
    _, status = os.waitpid(child, 0)
    text = said.read_text(errors="replace") if said.exists() else ""
    said.unlink(missing_ok=True)
    return os.waitstatus_to_exitcode(status), text


def in_child(folder: Path, arguments: list[str], hook: Callable[[], None] = lambda: None) -> tuple[int, str]:
    return ended(*start(folder, arguments, hook))


# --- what must be so afterwards ---


def check(folder: Path, operation: Operation, what: str) -> None:
    """Each file is absent, if it was, or old or complete; a set of several is never mixed where it opens."""
    now = contents(folder)
    for name, data in now.items():
        if data not in (operation.old.get(name), operation.whole.get(name)):
            fail(f"{operation.name}, {what}: {name} is neither old nor complete ({len(data)} bytes)")
    missing = [name for name in operation.old if name not in now]
    if len(operation.whole) == 1 and missing:
        fail(f"{operation.name}, {what}: {missing} disappeared")
    if len(operation.whole) > 1:  # the first, which has the metadata, comes last, and its old one goes first
        first = min(operation.whole)
        new = [name for name in operation.whole if now.get(name) == operation.whole[name]]
        if new and len(new) < len(operation.whole) and first in now:
            fail(f"{operation.name}, {what}: {new} are new, and {first} is there")
    if len(temporary(folder)) > len(operation.whole):
        fail(f"{operation.name}, {what}: {temporary(folder)} are left")


def again(folder: Path, operation: Operation, what: str) -> None:
    """The same command ends well, and nothing tells from its files that it was disturbed."""
    status, said = in_child(folder, operation.arguments)
    if status or contents(folder) != operation.whole or temporary(folder):
        sizes = {name: len(data) for name, data in contents(folder).items()}
        fail(f"{operation.name} after {what}: status {status}, {said!r}, {sizes}, {temporary(folder)} are left")


def refused(operation: Operation, status: int, said: str, what: str) -> None:
    """A command that could not do its work says so, without a traceback."""
    if status not in (0, 1) or "Traceback" in said or "internal error" in said or (status and not said.strip()):
        fail(f"{operation.name}, {what}: status {status}: {said}")


# --- calls that fail, and kills at calls ---


class Calls:
    """Counts the calls of a process; ``at`` is called with each name and number before it, and ``behind`` after it."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = names, os.path.realpath(folder)
        self.count = 0
        self.lock = threading.Lock()

    def before(self, number: int) -> None: ...

    def after(self, number: int) -> None: ...

    def install(self) -> None:
        for name in self.names:
            module = fcntl if name == "ioctl" else os
            setattr(module, name, self.wrapped(name, getattr(module, name)))

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.counts(name, args):
                return real(*args, **kwargs)
            with self.lock:
                self.count += 1
                number = self.count
            self.before(number)
            result = real(*args, **kwargs)
            self.after(number)
            return result

        return call

    def counts(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a call is about the folder that is written to: not the cache, and no pipe."""
        if isinstance(args[0], int):
            with contextlib.suppress(OSError):
                return os.path.realpath(f"/proc/self/fd/{args[0]}").startswith(self.folder)
            return False
        if name == "open" and not (args[1] & (os.O_WRONLY | os.O_RDWR)):
            return False
        return os.path.realpath(os.path.dirname(os.fsdecode(args[0])) or ".").startswith(self.folder)  # noqa: PTH120


class Failing(Calls):
    """The n-th call fails, or all from it on."""

    def __init__(self, name: str, folder: Path, at: int, code: int, persistent: bool) -> None:
        super().__init__([name], folder)
        self.at, self.code, self.persistent = at, code, persistent

    def before(self, number: int) -> None:
        if number == self.at or (self.persistent and number > self.at):
            raise OSError(self.code, os.strerror(self.code))


class Deadly(Calls):
    """The process is killed before its n-th call, or after it."""

    def __init__(self, folder: Path, at: int, late: bool) -> None:
        super().__init__(CALLS, folder)
        self.at, self.late = at, late

    def before(self, number: int) -> None:
        if number == self.at and not self.late:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, number: int) -> None:
        if number == self.at and self.late:
            os.kill(os.getpid(), signal.SIGKILL)


class Counted(Calls):
    """How many calls of each kind there are, written to a file at the end of each."""

    def __init__(self, folder: Path, into: Path) -> None:
        super().__init__(CALLS, folder)
        self.into = into
        self.by_name = dict.fromkeys(CALLS, 0)

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.counts(name, args):
                with self.lock:
                    self.by_name[name] += 1
                    self.into.write_text(json.dumps(self.by_name))
            return real(*args, **kwargs)

        return call

    def counts(self, name: str, args: tuple[Any, ...]) -> bool:
        return args[0] != self.into and super().counts(name, args)


def counted(folder: Path, operation: Operation) -> dict[str, int]:
    operation.prepare(folder)
    into = folder.parent / "counted"
    in_child(folder, operation.arguments, Counted(folder, into).install)
    found: dict[str, int] = json.loads(into.read_text())
    return {name: count for name, count in found.items() if count}


def faults(folder: Path, operation: Operation) -> str:
    done = survived = 0
    for name, count in counted(folder, operation).items():
        for at in range(1, count + 1):
            for code in CODES:
                for persistent in (False, True):
                    what = f"{name} number {at} failing with {errno.errorcode[code]}{' for good' * persistent}"
                    operation.prepare(folder)
                    hook = Failing(name, folder, at, code, persistent).install
                    status, said = in_child(folder, operation.arguments, hook)
                    refused(operation, status, said, what)
                    check(folder, operation, what)
                    done += 1
                    survived += status == 0
                    if at % 3 == 1 or not status:
                        again(folder, operation, what)
    return f"{done} failing calls, {survived} of which it could do without"


def kills(folder: Path, operation: Operation, count: int, chance: random.Random) -> str:
    """At each call, before and after it, and as often as is left at random moments."""
    at_calls = 0
    total = sum(counted(folder, operation).values())
    for at in range(1, total + 1):
        for late in (False, True):
            if at_calls == count:
                break
            what = f"a kill {'after' if late else 'before'} call {at}"
            operation.prepare(folder)
            status, said = in_child(folder, operation.arguments, Deadly(folder, at, late).install)
            if status != -signal.SIGKILL:
                continue  # threads do not make the same calls each time
            at_calls += 1
            check(folder, operation, what)
            again(folder, operation, what)
    operation.prepare(folder)
    begun = time.perf_counter()
    in_child(folder, operation.arguments)
    seconds = time.perf_counter() - begun
    at_random = finished = 0
    while at_calls + at_random < count:
        operation.prepare(folder)
        while at_calls + at_random < count:
            child, said_in = start(folder, operation.arguments)
            time.sleep(chance.uniform(0, 1.1 * seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            status, said = ended(child, said_in)
            if status == 0:
                finished += 1
                seconds *= 0.95  # most runs are to be killed
                break
            if status != -signal.SIGKILL:
                fail(f"{operation.name}, going on: {said}")
            at_random += 1
            seconds *= 1.01
            check(folder, operation, "a kill at random")
        else:
            again(folder, operation, "kills at random")
        if contents(folder) != operation.whole:
            fail(f"{operation.name} after kills at random: other bytes")
    return f"{at_calls} kills at calls, {at_random} at random moments, {finished} runs finished between them"


# --- a full disk ---


def disk(folder: Path, operation: Operation) -> str:
    """On file systems of more and more pages, until the command ends well."""
    full = 0
    largest = sum(map(len, operation.whole.values())) + sum(map(len, operation.old.values()))
    pages = max(largest // 4096 // 60, 1)
    for step in range(2, 400):
        size = step * pages * 4096
        with mounted(folder, size) as place:
            if place is None:
                return "not run: only root can mount a file system"
            try:
                for name, data in operation.old.items():
                    (place / name).write_bytes(data)
            except OSError:
                continue
            status, said = in_child(place, operation.arguments)
            what = f"a disk of {size} bytes"
            refused(operation, status, said, what)
            check(place, operation, what)
            if status == 0:
                if contents(place) != operation.whole:
                    fail(f"{operation.name}, {what}: other bytes")
                return f"{full} full disks, then one of {size:,} bytes that was enough"
            if "space" not in said.lower():
                fail(f"{operation.name}, {what}: {said}")
            full += 1
    fail(f"{operation.name} never ended on a full disk")


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path | None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# --- power ---


@dataclass
class Node:
    """A file as the disk has it, and what was written to it since it was synced: (offset, bytes), or a new size."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)

    def synced(self) -> None:
        for each in self.pending:
            apply(self.durable, each)
        self.pending = []

    def after_crash(self, chance: random.Random) -> bytes:
        """Any of the sectors that were written, and any of the sizes that the file had."""
        data = bytearray(self.durable)
        for each in self.pending:
            if isinstance(each, int):
                if chance.random() < 0.5:
                    apply(data, each)
                continue
            offset, written = each
            keep = chance.choice((0.0, 0.5, 1.0))
            for start in range(0, len(written), SECTOR):
                if chance.random() < keep:
                    apply(data, (offset + start, written[start : start + SECTOR]))
        return bytes(data)


def apply(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        data[change:] = b"\0" * max(change - len(data), 0)
        return
    offset, written = change
    data.extend(b"\0" * (offset + len(written) - len(data)))
    data[offset : offset + len(written)] = written


class Recorder(Calls):
    """Writes down every call that changes something, with a number for the file that it is about."""

    def __init__(self, folder: Path, into: Path) -> None:
        super().__init__(CALLS, folder)
        self.into = into
        self.log: list[tuple[Any, ...]] = []
        self.newer: dict[int, int] = {}  # numbers of files that were made where an older one had the inode

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.counts(name, args):
                return real(*args, **kwargs)
            with self.lock:  # calls come in one order
                there = name == "open" and os.path.lexists(args[0])
                moved = self.number(os.lstat(args[0])) if name in ("rename", "replace", "link") else 0
                result = real(*args, **kwargs)
                self.note(name, args, result, moved, there)
                return result

        return call

    def number(self, status: os.stat_result) -> int:
        return self.newer.get(status.st_ino, status.st_ino)

    def note(self, name: str, args: tuple[Any, ...], result: Any, moved: int, there: bool) -> None:
        names = [Path(os.fsdecode(each)).name for each in args[:2] if isinstance(each, str | os.PathLike)]
        file = args[1] if name == "copy_file_range" else args[0]
        status = os.fstat(file) if isinstance(file, int) else None
        if status is not None and not status.st_nlink:
            return  # a file without a name, by which it is tried whether blocks can be shared, is on no disk afterwards
        about = 0 if status is None else self.number(status)
        if name == "pwrite":
            self.log.append(("write", about, args[2], bytes(args[1])[:result]))
        elif name == "copy_file_range":
            self.log.append(("write", about, args[4], os.pread(args[0], result, args[3])))
        elif name == "ioctl":
            source, offset, count, to = struct.unpack("=qQQQ", args[2])
            self.log.append(("write", about, to, os.pread(source, count, offset)))
        elif name == "ftruncate":
            self.log.append(("size", about, args[1]))
        elif name in ("fsync", "fdatasync"):
            inside = os.path.realpath(f"/proc/self/fd/{args[0]}") == self.folder
            self.log.append(("names",) if inside else ("synced", about))
        elif name == "open" and not there:
            self.newer[os.fstat(result).st_ino] = -1 - len(self.log)
            self.log.append(("name", names[0], -1 - len(self.log)))
        elif name == "unlink":
            self.log.append(("gone", names[0]))
        elif name == "link":
            self.log.append(("name", names[1], moved))
        elif name in ("rename", "replace"):
            self.log.append(("moved", names[0], names[1], moved))
        elif name in ("write", "mkdir", "rmdir"):
            raise AssertionError(f"{name} is not replayed")

    def keep(self) -> None:
        """At the end of the process."""
        self.into.write_bytes(pickle.dumps(self.log))


def recorded(folder: Path, operation: Operation) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """The calls of a command, and the inodes of the files that were there."""
    operation.prepare(folder)
    there = {path.name: path.stat().st_ino for path in folder.iterdir()}
    recorder = Recorder(folder, folder.parent / "record")

    def hook() -> None:
        recorder.install()
        leave = os._exit

        def kept(status: int) -> NoReturn:
            recorder.keep()
            leave(status)

        os._exit = kept

    status, said = in_child(folder, operation.arguments, hook)
    if status or contents(folder) != operation.whole:
        fail(f"{operation.name}, recorded: {said}")
    return pickle.loads((folder.parent / "record").read_bytes()), there


def power(folder: Path, operation: Operation, points: int, chance: random.Random) -> str:
    log, there = recorded(folder, operation)
    outcomes = {"old": 0, "complete": 0, "between": 0}
    for point in range(points):
        at = chance.randint(0, len(log)) if point else len(log)
        lose_power(folder, operation, log[:at], there, chance)
        what = f"power lost after call {at} of {len(log)}"
        check(folder, operation, what)
        now = contents(folder)
        outcomes["complete" if now == operation.whole else "old" if now == operation.old else "between"] += 1
        again(folder, operation, what)
    if outcomes["between"] and len(operation.whole) == 1:
        fail(f"{operation.name}: {outcomes}")
    found = ", ".join(f"{count} {what}" for what, count in outcomes.items())
    return f"{points} losses of power among {len(log)} calls: {found}"


def lose_power(
    folder: Path, operation: Operation, log: Sequence[tuple[Any, ...]], there: dict[str, int], chance: random.Random
) -> None:
    """Make the folder what the disk may hold after the calls of a record."""
    nodes = {inode: Node(bytearray(operation.old[name])) for name, inode in there.items()}
    durable = dict(there)  # names on the disk
    changes: list[tuple[Any, ...]] = []  # to names, since the folder was synced
    for call, *rest in log:
        if call in ("write", "size"):
            inode, *what = rest
            nodes[inode].pending.append((what[0], what[1]) if call == "write" else what[0])
        elif call == "synced":
            nodes[rest[0]].synced()
        elif call == "names":
            rename_all(durable, changes)
            changes = []
        else:
            if call == "name":
                nodes.setdefault(rest[1], Node())
            changes.append((call, *rest))
    rename_all(durable, changes[: chance.randint(0, len(changes))])
    shutil.rmtree(folder)
    folder.mkdir()
    linked: dict[int, Path] = {}
    for name, inode in durable.items():
        if inode in linked:
            os.link(linked[inode], folder / name)
        else:
            (folder / name).write_bytes(nodes[inode].after_crash(chance))
            linked[inode] = folder / name


def rename_all(names: dict[str, int], changes: Sequence[tuple[Any, ...]]) -> None:
    for call, *rest in changes:
        if call == "name":
            names[rest[0]] = rest[1]
        elif call == "gone":
            names.pop(rest[0], None)
        else:
            names.pop(rest[0], None)
            names[rest[1]] = rest[2]


# --- many processes ---


def readers(work: Path, swaps: int = 500, count: int = 16) -> str:
    """Processes that read a file while another replaces it."""
    folder = work / "swaps"
    folder.mkdir(exist_ok=True)
    target = folder / "x.gguf"
    whole = two_files(work)
    shutil.copy(work / "a.gguf", target)
    stop = folder / "stop"
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            os._exit(read_until(target, stop, {hashlib.sha256(data).hexdigest() for data in whole}))
        children.append(child)
    for swap in range(swaps):
        with gguflike.open(work / f"{'ba'[swap % 2]}.gguf") as file:
            gguflike.write(target, {key: file.metadata.typed(key) for key in file.metadata}, file.tensors.values())
    stop.touch()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(statuses) or target.read_bytes() not in whole:
        fail(f"readers ended with {statuses}: 4 is a file that is not whole, 5 one that read nothing, 6 an error")
    return f"{count} readers during {swaps} swaps saw whole files only"


def two_files(work: Path) -> list[bytes]:
    for seed, name in enumerate("ab"):
        array = np.random.default_rng(seed).standard_normal((64 + 64 * seed, 256)).astype(np.float32)
        tensor = gguflike.quantize(array, "Q8_0", name="t")
        gguflike.write(work / f"{name}.gguf", {"general.architecture": "llama", "general.name": name}, [tensor])
    return [(work / f"{name}.gguf").read_bytes() for name in "ab"]


def read_until(target: Path, stop: Path, whole: set[str]) -> int:
    reads = 0
    while not stop.exists():
        try:
            errors = [finding for finding in gguflike.verify(target).findings if finding.severity == "error"]
            if errors:
                print(errors, file=sys.stderr)
                return 4
        except Exception:
            traceback.print_exc()
            return 6
        if hashlib.sha256(target.read_bytes()).hexdigest() not in whole:
            return 4
        reads += 1
    return 0 if reads else 5


def writers(work: Path, rounds: int = 100) -> str:
    """Two processes that write one target at the same time."""
    two_files(work)
    folder = work / "two"
    won = [0, 0]
    for _ in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = [
            start(folder, ["quantize", str(work / f"{name}.gguf"), "-o", "x.gguf", "-t", "Q8_0", "--overwrite"])
            for name in "ab"
        ]
        for status, said in (ended(*each) for each in started):
            if status:
                fail(f"one of two writers: {said}")
        found = contents(folder)
        if list(found) != ["x.gguf"] or temporary(folder):
            fail(f"two writers: {list(found)}, {temporary(folder)}")
        with gguflike.open(folder / "x.gguf") as file:
            won["ab".index(str(file.metadata["general.name"]))] += 1
        if any(finding.severity == "error" for finding in gguflike.verify(folder / "x.gguf").findings):
            fail("two writers: the target is not whole")
    return f"{rounds} times two writers of one target: {won[0]} times the first one's, {won[1]} times the other's"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS, metavar="NAME")
    parser.add_argument("--points", type=int, default=200, help="losses of power for each operation")
    parser.add_argument("--kills", type=int, default=500, help="kills for each operation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reheader.FILLED_BYTES = 1 << 16  # small files are edited as large ones are
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        chance = random.Random(args.seed)
        kinds: dict[str, Callable[[Path, Operation], str]] = {
            "faults": faults,
            "disk": disk,
            "kills": lambda folder, operation: kills(folder, operation, args.kills, chance),
            "power": lambda folder, operation: power(folder, operation, args.points, chance),
        }
        for operation in operations(work, args.operations):
            for kind, hurt in kinds.items():
                if kind in args.only:
                    print(f"{operation.name}: {hurt(work / 'out', operation)}", flush=True)
        for kind, check_many in (("readers", readers), ("writers", writers)):
            if kind in args.only:
                print(check_many(work), flush=True)


if __name__ == "__main__":
    main()
