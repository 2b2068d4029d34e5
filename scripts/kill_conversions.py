#!/usr/bin/env python3
"""Kills conversions at random moments, and sees that nothing is lost and nothing is wrong.

    python scripts/kill_conversions.py [--kills 300] [--layers 12] [--type Q8_0] [--seed 0] [--folder DIR]

A checkpoint of random weights is converted, to one file and to several by turns, in a process that is killed (SIGKILL,
with all its threads) after a random time. After each kill the target must be what it was, absent or an old file, and
no more than one temporary file may lie beside each. Then the same command is started again, until one ends by itself:
its files must have the SHA-256 of a conversion that nothing disturbed. Prints how many tensors the next runs found
written already, and ends with exit status 1 at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_convert import Shape, make

OLD = b"what was there before"
SPLIT = ("--split-max-size", "12M")


def command(source: Path, target: Path, kind: str, split: bool) -> list[str]:
    options = [*SPLIT] if split else []
    program = [sys.executable, "-m", "gguflike", "convert", str(source), "-o", str(target)]
    return [*program, "-t", kind, "--overwrite", *options]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("x*.gguf"))}


def fail(message: str) -> None:
    sys.exit(f"wrong: {message}")


def run(work: Path, args: argparse.Namespace) -> None:
    chance = random.Random(args.seed)
    size = make(work / "hf", Shape(args.layers, 512, 2048, 8000), "F16", shard_bytes=3e7)
    whole: dict[bool, dict[str, str]] = {}
    seconds = 0.0
    for split in (False, True):
        folder = work / f"whole-{split}"
        folder.mkdir()
        subprocess.run(command(work / "hf", folder / "x.gguf", args.type, split), check=True, capture_output=True)
        start = time.perf_counter()
        subprocess.run(command(work / "hf", folder / "x.gguf", args.type, split), check=True, capture_output=True)
        seconds = max(seconds, time.perf_counter() - start)
        whole[split] = digests(folder)
        for path in folder.iterdir():
            path.unlink()
    print(f"{size / 1e6:.0f} MB to {args.type} in {seconds:.1f} s, or {len(whole[True])} files", flush=True)

    kills = completed = resumed = found = 0
    folder = work / "out"
    folder.mkdir()
    while kills < args.kills:
        split = bool(completed % 2)
        names = list(whole[split])
        old = completed % 4 < 2
        for path in folder.iterdir():
            path.unlink()
        for name in names if old else []:
            (folder / name).write_bytes(OLD)
        for _ in range(1000):
            limit = chance.uniform(0, 1.1 * seconds) if kills < args.kills else None
            process = subprocess.Popen(
                command(work / "hf", folder / "x.gguf", args.type, split),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
            there = re.search(rb"goes on where it was cut off: (\d+) of", output)
            resumed += there is not None
            found += int(there[1]) if there else 0
            if process.returncode == 0:
                seconds *= 0.8  # the machine may be less busy than it was: most runs are to be killed
                break
            if process.returncode != -signal.SIGKILL:
                fail(output.decode(errors="replace"))
            kills += 1
            seconds *= 1.03
            check(folder, names, whole[split], old)
        if digests(folder) != whole[split] or list(folder.glob(".gguflike-*")):
            fail(f"{digests(folder)} and {list(folder.glob('.gguflike-*'))} instead of {whole[split]}")
        completed += 1
        print(f"\r{kills} kills, {completed} conversions completed, {resumed} runs went on", end="", flush=True)
    print(f"; {found} tensors were found written; every SHA-256 is that of an undisturbed conversion")


def check(folder: Path, names: list[str], whole: dict[str, str], old: bool) -> None:
    """What a kill may leave: the old files, or new ones where it came while they were given their names."""
    now = digests(folder)
    new = [name for name in names if now.get(name) == whole[name]]
    before = {name: hashlib.sha256(OLD).hexdigest() for name in names} if old else {}
    rest = {name: digest for name, digest in now.items() if name not in new}
    if new:  # the first file, which has the metadata, comes last, and its old one goes first
        before.pop(names[0], None)
        before = {name: digest for name, digest in before.items() if name not in new}
        if names[0] in new and len(new) < len(names):
            fail(f"{new} appeared before the others")
    elif len(names) > 1 and names[0] not in now:
        before.pop(names[0], None)  # between the two
    if rest != before:
        fail(f"the target was touched: {rest}, not {before}")
    left = list(folder.glob(".gguflike-*"))
    if len(left) > len(names):
        fail(f"{len(left)} temporary files")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--layers", type=int, default=12, help="of 7.6 MB each")
    parser.add_argument("--type", default="Q8_0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        run(Path(work), args)


if __name__ == "__main__":
    main()
