"""From the start of a process to the first token: gguflike beside llama-cpp-python, and the command line.

    python scripts/bench_startup.py FILE.gguf ... [--rounds 9] [--prompt TEXT] [--only NAMES] [--json OUT.json]
    python scripts/bench_startup.py FILE.gguf ... --first [--rounds 3] [--json OUT.json]

Every measurement is a process of its own, and the contestants take turns. The clock runs from before the process is
started until its first token can be read (for commands that make none: until they end). A round before the first is
not counted: it compiles kernels and brings the files into memory. Medians count.

Memory is what the process has resident once the model is loaded and after the first token; "over file" is that less
the file's size, of which the cache of keys and values is the model's own and the rest may be 150 MiB at most. What
is missing (llama-cpp-python, gguf-dump) is left out.

--first measures what a fresh machine waits for instead: ``run`` of each file, and ``convert`` of the bundled checkpoint
to Q4_K_M, from start to end, once with an empty kernel cache and once more with what the first has left there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPT = "The capital of France is"

# What a Python process runs: sys.argv is [-c, path, prompt]; "{resident}" is where it says how much memory it has.
_RESIDENT = """
import sys
def resident():
    with open("/proc/self/status") as status:
        kilobytes = next(line.split()[1] for line in status if line.startswith("VmRSS"))
    print(int(kilobytes) * 1024, file=sys.stderr)
"""
_GGUFLIKE = """
import gguflike
model = gguflike.load(sys.argv[1])
{loaded}
print(next(iter(model.generate(sys.argv[2], 1))).text, flush=True)
{done}
"""
_LLAMA = """
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], verbose=False)
{loaded}
print(model(sys.argv[2], max_tokens=1, temperature=0.0)["choices"][0]["text"], flush=True)
{done}
"""
_PYTHON = {"gguflike": _GGUFLIKE, "llama-cpp-python": _LLAMA}


def _tool(name: str) -> list[str]:
    """A command of the same environment as this Python."""
    return [str(Path(sys.executable).with_name(name))]


def commands(path: str, prompt: str) -> dict[str, list[str]]:
    """Name of a contestant -> command line."""
    python = {
        name: [sys.executable, "-c", "import sys" + code.format(loaded="", done=""), path, prompt]
        for name, code in _PYTHON.items()
    }
    return python | {
        "gguflike run": [*_tool("gguflike"), "run", path, "-p", prompt, "-n", "1"],
        "gguflike inspect": [*_tool("gguflike"), "inspect", path],
        "gguf-dump": [*_tool("gguf-dump"), "--no-tensors", path],
        "gguflike --help": [*_tool("gguflike"), "--help"],
        "import numpy": [sys.executable, "-c", "import numpy"],
    }


# An installed package has its bytecode beside it: let a checkout, in the round that does not count, write its own.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
MAKES_TEXT = {"gguflike", "llama-cpp-python", "gguflike run"}


@dataclass
class Result:
    """What was measured of one contestant: seconds to the first output (or the end), and CPU seconds to the end."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def once(command: list[str], first_output: bool, **environment: str) -> tuple[float, float]:
    """(seconds until the first byte of output, or the end; CPU seconds of the process). OSError where it fails."""
    variables = ENVIRONMENT | environment
    before = os.times()
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables) as process:
        assert process.stdout is not None
        if first_output:
            os.read(process.stdout.fileno(), 1)
            seconds = time.perf_counter() - begin
            process.stdout.read()
        else:
            process.stdout.read()
            process.wait()
            seconds = time.perf_counter() - begin
    if process.returncode:
        raise OSError(f"{command[0]} ended with status {process.returncode}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used


def measure(path: str, options: argparse.Namespace) -> dict[str, Result]:
    results: dict[str, Result] = {}
    lines = commands(path, options.prompt)
    for name in options.only.split(",") if options.only else lines:
        try:
            once(lines[name], name in MAKES_TEXT)
            results[name] = Result()
        except OSError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    order, names = random.Random(0), list(results)
    for _ in range(options.rounds):
        order.shuffle(names)
        for name in names:
            wall, cpu = once(lines[name], name in MAKES_TEXT)
            results[name].wall.append(wall)
            results[name].cpu.append(cpu)
    return results


def memory(path: str, prompt: str, names: set[str]) -> dict[str, tuple[int, int]]:
    """Contestant -> bytes resident (once loaded, after the first token)."""
    found = {}
    for name in sorted(names & set(_PYTHON)):
        text = _RESIDENT + _PYTHON[name].format(loaded="resident()", done="resident()")
        command = [sys.executable, "-c", text, path, prompt]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        numbers = [int(line) for line in done.stderr.split() if line.isdigit()]
        if not done.returncode and len(numbers) == 2:
            found[name] = (numbers[0], numbers[1])
    return found


def report(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """One file: prints two Markdown tables and returns all figures."""
    size = Path(path).stat().st_size
    results = measure(path, options)
    print(f"\n{Path(path).name}, {size / 2**20:.1f} MiB, {options.rounds} rounds\n")
    print("| process | seconds to the first token, or the end | fastest | CPU seconds |\n|---|---|---|---|")
    for name, result in results.items():
        cells = [statistics.median(result.wall), min(result.wall), statistics.median(result.cpu)]
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    resident = memory(path, options.prompt, set(results))
    print("\n| memory, MiB | loaded | over file | after the first token | over file |\n|---|---|---|---|---|")
    for name, (loaded, done) in resident.items():
        cells = [loaded, loaded - size, done, done - size]
        print(f"| {name} | " + " | ".join(f"{cell / 2**20:.1f}" for cell in cells) + " |")
    return {
        "file": Path(path).name,
        "file_bytes": size,
        "seconds": {name: result.wall for name, result in results.items()},
        "cpu_seconds": {name: result.cpu for name, result in results.items()},
        "resident_bytes": resident,
    }


def first(paths: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """An empty kernel cache: prints a Markdown table and returns all figures."""
    program = [sys.executable, "-m", "gguflike"]
    commands = {f"run {Path(path).name}": [*program, "run", path, "-p", options.prompt, "-n", "1"] for path in paths}
    checkpoint = Path(importlib.util.find_spec("gguflike").origin).parent / "data" / "austen-kjv-6m"
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "model.gguf")
        commands["convert to Q4_K_M"] = [*program, "convert", str(checkpoint), "-o", target, "-t", "Q4_K_M"]
        results = {name: (Result(), Result()) for name in commands}
        for number in range(options.rounds):
            for index, (name, command) in enumerate(commands.items()):
                for result in results[name]:
                    wall, cpu = once(command, False, GGUFLIKE_CACHE_DIR=str(Path(folder) / f"{number}-{index}"))
                    result.wall.append(wall)
                    result.cpu.append(cpu)
    print(f"\nAn empty kernel cache, {os.cpu_count()} CPUs, {options.rounds} rounds\n")
    print("| command | first, s | again, s | difference | first, CPU seconds | again |\n|---|---|---|---|---|---|")
    rows = []
    for name, (empty, filled) in results.items():
        wall, again = statistics.median(empty.wall), statistics.median(filled.wall)
        cells = [wall, again, wall - again, statistics.median(empty.cpu), statistics.median(filled.cpu)]
        print(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
        rows.append({"command": name, "first": vars(empty), "again": vars(filled)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.gguf")
    parser.add_argument("--rounds", type=int, help="default: 9, or 3 with --first")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--only", metavar="NAMES", help="contestants, by comma: " + ", ".join(commands("", "")))
    parser.add_argument("--json", metavar="FILE", help="also write everything that was measured")
    parser.add_argument("--first", action="store_true", help="measure a fresh machine: an empty kernel cache")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.first else 9)
    rows = first(options.files, options) if options.first else [report(path, options) for path in options.files]
    if options.json:
        about = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
        Path(options.json).write_text(json.dumps({**about, "rounds": options.rounds, "files": rows}, indent=1))


if __name__ == "__main__":
    main()
