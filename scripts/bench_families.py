"""Speed of what is not a Llama: gguflike beside llama.cpp and ik_llama.cpp on the same files, in turns.

    python scripts/bench_families.py [NAME ...] [--file NAME=FILE.gguf ...] [--types Q4_0,Q4_K_M,Q8_0] [--rounds 5]
        [--prompt 512] [--new 64] [--context 8192] [--threads 2] [--clock wall|cpu] [--json OUT.json] [--folder DIR]

NAMEs are models of random weights (random_models.py; all without), made in --folder (a temporary one) and removed when
they are measured; --file is a model to quantize to each type instead (Gemma 3, say). Measured: a prompt of so many
tokens into an empty cache, decoding of --new tokens after the first, and, of the last type only, decoding at --context
(0: not at all). A ratio is our speed to the other's, the median of those of each round; the table gives that to the
faster other. What an engine does not load, it is left out of. For the time to the first token see bench_startup.py.

Decoding reads the matrices (of experts the chosen ones) once a token. A loop in C that only reads memory takes turns
with the engines, and the last column says which part of its bytes per second the two reach: nobody can do more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import random_models
from bench_engines import ENGINES, Child, end, start
from bench_runner import ReadLoop, read_loop, weight_bytes

import gguflike

OURS = "gguflike"
AT_CONTEXT = 16  # tokens of a round


@contextmanager
def children(path: Path, engines: list[str], threads: int, context: int) -> Iterator[list[Child]]:
    """Processes of the engines that load the file, warmed up."""
    started = [child for engine in engines if (child := start(engine, str(path), threads, context))]
    try:
        yield started
    finally:
        for child in started:
            child.end()


@contextmanager
def reading(threads: int, folder: str) -> Iterator[ReadLoop | None]:
    """A process that only reads memory; None without a C compiler."""
    loop = read_loop(threads, folder)
    try:
        yield loop
    finally:
        if loop:
            end(loop.process)


def ratios(found: list[Child], what: str, named: str = "") -> dict[str, Any]:
    """Our speed at ``what``, the fastest other's, its name and the median of the ratios of rounds."""
    ours = next(child.speeds[what] for child in found if child.engine == OURS)
    others = {
        child.engine: statistics.median(a / b for a, b in zip(ours, child.speeds[what], strict=True))
        for child in found
        if child.engine != OURS
    }
    peer = min(others, key=lambda engine: others[engine]) if others else ""
    speeds = {child.engine: child.speeds[what] for child in found}
    return {
        "what": named or what,
        "ours": statistics.median(ours),
        "peer": peer,
        "other": statistics.median(speeds[peer]) if peer else None,
        "ratio": others.get(peer),
        "ratios": others,
        "speeds": speeds,
    }


def short(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A prompt, and tokens after the first."""
    context = max(options.prompt, options.new + 1) + 1
    engines = [engine for engine in ENGINES if "flash" not in engine]
    with children(path, engines, options.threads, context) as found, reading(options.threads, options.folder) as loop:
        for child in found:  # caches, pages, clocks
            child.run("prefill", 64)
            child.run("decode", 4)
            child.speeds.clear()
        order = random.Random(0)
        for _ in range(options.rounds):
            for what, count in (("prefill", options.prompt), ("decode", options.new)):
                for child in order.sample(found, len(found)):
                    child.run(what, count, options.clock)
                    if loop and what == "decode":
                        loop.run()
        decode = ratios(found, "decode")
        if loop:
            decode["limit"] = statistics.median(loop.speeds) / weight_bytes(str(path))
        return [ratios(found, "prefill", f"prompt of {options.prompt}"), decode]


def long(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokens behind a long text. None is taken back: states of recurrent models cannot be."""
    context = options.context + (options.rounds + 1) * AT_CONTEXT + 1
    with children(path, list(ENGINES), options.threads, context) as found:
        for child in found:
            child.run("fill", options.context)
            child.run("more", AT_CONTEXT)
            child.speeds.clear()
        order = random.Random(0)
        for _ in range(options.rounds):
            for child in order.sample(found, len(found)):
                child.run("more", AT_CONTEXT, options.clock)
        return [ratios(found, "more", f"decode at {options.context}")]


def measure(name: str, source: str | None, kinds: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the table for one model."""
    for kind in kinds:
        path = Path(options.folder) / f"{name}-{kind}.gguf"
        if source is None:
            random_models.write(name, kind, path)
        else:
            gguflike.quantize_file(source, path, type=kind)
        try:
            rows = short(path, options)
            if options.context and kind == kinds[-1]:
                rows += long(path, options)
        finally:
            path.unlink()
        for row in rows:
            yield {"model": name, "type": kind, **row}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| model | type | what | gguflike, tokens/s | fastest other, tokens/s | ratio | of read loop: ours, other |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        other = f"{row['other']:.1f} ({row['peer']})" if row["peer"] else "none loads it"
        ratio = f"{row['ratio']:.2f}" if row["peer"] else ""
        of_limit = [f"{row[who] / row['limit']:.0%}" for who in ("ours", "other") if "limit" in row and row[who]]
        cells = [row["model"], row["type"], row["what"], f"{row['ours']:.1f}", other, ratio, ", ".join(of_limit)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(random_models.MODELS))
    parser.add_argument("--file", action="append", default=[], metavar="NAME=FILE.gguf")
    parser.add_argument("--types", default="Q4_0,Q8_0,Q4_K_M")
    parser.add_argument("--threads", type=int, default=2)
    for name, default in (("rounds", 5), ("prompt", 512), ("new", 64), ("context", 8192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", metavar="FILE", help="also write everything that was measured")
    parser.add_argument("--folder", help="where files are made")
    options = parser.parse_args()
    given = dict(text.split("=", 1) for text in options.file)
    if unknown := set(options.names) - set(random_models.MODELS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(random_models.MODELS)}")
    names = options.names or ([] if given else list(random_models.MODELS))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or folder
        for name, source in [*given.items(), *((name, None) for name in names)]:
            for row in measure(name, source, options.types.split(","), options):
                rows.append(row)
                print(table([row]).splitlines()[-1], flush=True)
    if options.json:
        about = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "clock": options.clock}
        Path(options.json).write_text(json.dumps({**about, "threads": options.threads, "rows": rows}, indent=1))
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
