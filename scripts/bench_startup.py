"""From the start of a process to the first token: gguflike beside llama-cpp-python, and the command line.

    python scripts/bench_startup.py FILE.gguf ... [--rounds 9] [--prompt TEXT] [--only NAMES] [--json OUT.json]

Every measurement is a process of its own, and the contestants take turns. The clock runs from before the process is
started until its first token can be read (for commands that make none: until they end). A round before the first is
not counted: it compiles kernels and brings the files into memory. Medians count.

Memory is what the process has resident once the model is loaded and after the first token; "over file" is that less
the file's size, of which the cache of keys and values is the model's own and the rest may be 150 MiB at most. What
is missing (llama-cpp-python, gguf-dump) is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
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


def once(command: list[str], first_output: bool) -> tuple[float, float]:
    """(seconds until the first byte of output, or the end; CPU seconds of the process). OSError where it fails."""
    before = os.times()
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.gguf")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--only", metavar="NAMES", help="contestants, by comma: " + ", ".join(commands("", "")))
    parser.add_argument("--json", metavar="FILE", help="also write everything that was measured")
    options = parser.parse_args()
    rows = [report(path, options) for path in options.files]
    if options.json:
        about = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
        Path(options.json).write_text(json.dumps({**about, "rounds": options.rounds, "files": rows}, indent=1))


if __name__ == "__main__":
    main()
