"""Running models: gguflike beside llama.cpp and ik_llama.cpp on the same files, interleaved, each at its best.

    python scripts/bench_runner.py FILE.gguf ... [--engines gguflike,llama.cpp,ik_llama.cpp] [--threads 1,2]
        [--prompt 512] [--new 128] [--rounds 5] [--clock wall|cpu] [--json OUT.json]

Every engine runs in a process of its own (their libraries share symbol names) that loads the file once and then does
as told: a prefill of ``--prompt`` tokens into an empty cache, or ``--new`` tokens one by one, each the argmax of the
logits before. The engines take turns, so that other work on the machine disturbs all alike; medians count. On a busy
machine compare one thread by ``--clock cpu``. Needs the ``bench`` extra; an engine that is missing is left out.

A loop in C that only reads memory takes turns with them (where there is a C compiler): decoding reads every matrix once
a token, so the table says which part of the loop's bandwidth that is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench_engines import ask, end, start


class ReadLoop:
    """The C loop in a process of its own: ``run`` measures bytes per second into ``speeds``."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.speeds: list[float] = []
        assert self.process.stdout
        self.process.stdout.readline()

    def run(self) -> None:
        self.speeds.append(float(ask(self.process, "go")[0]))


def read_loop(threads: int, folder: str) -> ReadLoop | None:
    """Compiled in ``folder`` for this machine; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source, binary = Path(__file__).with_name("read_loop.c"), Path(folder) / "read_loop"
    subprocess.run([compiler, "-O3", "-march=native", "-pthread", str(source), "-o", str(binary)], check=True)
    return ReadLoop([str(binary), str(threads)])


def weight_bytes(path: str) -> int:
    """Bytes that one token's pass reads: every matrix, of experts those of the chosen ones, but no embedding of which
    a token takes a row."""
    import gguflike

    with gguflike.open(path) as file:
        key = f"{file.architecture}.expert"
        used, count = (file.metadata.get(f"{key}_{what}", 1) for what in ("used_count", "count"))
        looked_up = {"per_layer_token_embd.weight", *(["token_embd.weight"] if "output.weight" in file.infos else [])}
        return sum(
            info.nbytes * used // count if "_exps." in name else info.nbytes
            for name, info in file.infos.items()
            if len(info.shape) >= 2 and name not in looked_up
        )


def measure(path: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one file: each engine at the thread count that was best for it, for prefill and for decode apart."""
    context = max(options.prompt, options.new + 1, 64)
    pairs = [(engine, n) for engine in options.engines.split(",") for n in map(int, options.threads.split(","))]
    children = [child for engine, n in pairs if (child := start(engine, path, n, context))]
    if not children:
        raise SystemExit(f"error: no engine could load {path}")
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        loop = read_loop(max(n for _, n in pairs), folder)
    for child in children:  # warm up: caches, pages, clocks
        child.run("prefill", min(64, options.prompt), options.clock)
        child.run("decode", 4, options.clock)
        child.speeds.clear()
    for _ in range(options.rounds):
        for what, count in (("prefill", options.prompt), ("decode", options.new)):
            order.shuffle(children)
            for child in children:
                child.run(what, count, options.clock)
                if loop and what == "decode":
                    loop.run()
    read = statistics.median(loop.speeds) if loop else None
    nbytes = weight_bytes(path)
    rows = []
    for engine in options.engines.split(","):
        mine = [child for child in children if child.engine == engine]
        if not mine:
            continue
        row: dict[str, Any] = {"file": Path(path).name, "engine": engine, "load_s": min(c.load_s for c in mine)}
        for what in ("prefill", "decode"):
            best = max(mine, key=lambda child: statistics.median(child.speeds[what]))
            speeds = best.speeds[what]
            row |= {f"{what}_tokens_per_s": statistics.median(speeds), f"{what}_threads": best.threads}
            row[f"{what}_all"] = speeds
        row["decode_bytes_per_s"] = nbytes * row["decode_tokens_per_s"]
        row["read_loop_bytes_per_s"] = read
        rows.append(row)
    for process in [child.process for child in children] + ([loop.process] if loop else []):
        end(process)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; the ratio is gguflike's speed to that of the engine of the line."""
    lines = [
        "| file | engine | prefill, tokens/s | gguflike | decode, tokens/s | gguflike | weights, GB/s | of read loop |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = next((r for r in rows if r["file"] == row["file"] and r["engine"] == "gguflike"), row)
        cells = [row["file"], row["engine"]]
        for what in ("prefill", "decode"):
            speed = row[f"{what}_tokens_per_s"]
            cells += [
                f"{speed:.1f} ({row[f'{what}_threads']} threads)",
                f"{ours[f'{what}_tokens_per_s'] / speed:.2f}x",
            ]
        read, loop = row["decode_bytes_per_s"], row["read_loop_bytes_per_s"]
        cells += [f"{read / 1e9:.1f}", f"{read / loop:.0%}" if loop else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.gguf")
    parser.add_argument("--engines", default="gguflike,llama.cpp,ik_llama.cpp")
    parser.add_argument("--threads", default=",".join(sorted({"1", str(len(os.sched_getaffinity(0)))})))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", metavar="FILE", help="also write everything that was measured")
    options = parser.parse_args()
    rows = []
    for path in options.files:
        rows += measure(path, options)
    if options.json:
        about = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "clock": options.clock}
        Path(options.json).write_text(
            json.dumps({**about, "prompt": options.prompt, "new": options.new, "rows": rows}, indent=1)
        )
    print(table(rows))


if __name__ == "__main__":
    main()
