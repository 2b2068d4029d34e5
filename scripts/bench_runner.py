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
import ctypes
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[list[int], int], np.ndarray[Any, Any]]  # (tokens, position of the first) -> logits of the last


def gguflike_engine(path: str, threads: int, context: int) -> Step:
    from gguflike.runner import load

    model = load(path, threads=threads, context=context)
    return lambda tokens, position: model.extend(tokens, position)[-1]


def llama_engine(path: str, threads: int, context: int) -> Step:
    import llama_cpp

    settings = {"n_batch": context, "n_ubatch": 512, "n_threads": threads, "n_threads_batch": threads}
    llama = llama_cpp.Llama(path, n_ctx=context, verbose=False, **settings)
    vocab = llama.n_vocab()

    def step(tokens: list[int], position: int) -> np.ndarray[Any, Any]:
        llama.n_tokens = position  # eval drops what the cache holds beyond
        llama.eval(tokens)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(vocab,))

    return step


def ik_engine(path: str, threads: int, context: int) -> Step:
    from ik_llama_cpp import _ctypes_api as api
    from ik_llama_cpp._internals import make_batch_range
    from ik_llama_cpp.llama import IkLlama

    llama = IkLlama(path, n_ctx=context, n_threads=threads, verbose=False)
    vocab = llama._model.n_vocab

    def step(tokens: list[int], position: int) -> np.ndarray[Any, Any]:
        if position == 0:
            api.llama_kv_cache_clear(llama.ctx)
        batch = make_batch_range(tokens, pos_start=position)
        if api.llama_decode(llama.ctx, batch):
            raise RuntimeError("llama_decode failed")
        api.llama_batch_free(batch)
        pointer = api.llama_get_logits_ith(llama.ctx, len(tokens) - 1)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(vocab,))

    return step


ENGINES = {"gguflike": gguflike_engine, "llama.cpp": llama_engine, "ik_llama.cpp": ik_engine}


def serve(engine: str, path: str, threads: int, context: int) -> None:
    """The child: reads "prefill N" or "decode N" from standard input, answers with wall and CPU seconds."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    start = time.perf_counter()
    step = ENGINES[engine](path, threads, context)
    first = step([1], 0)
    out.write(f"{time.perf_counter() - start}\n")
    vocab = len(first)
    prompt = np.random.default_rng(0).integers(0, vocab, context).tolist()
    for line in sys.stdin:
        what, count = line.split()[0], int(line.split()[1])
        logits = step(prompt[:1], 0) if what == "decode" else first
        wall, cpu = time.perf_counter(), time.process_time()
        if what == "prefill":
            step(prompt[:count], 0)
        else:
            for position in range(1, count + 1):
                logits = step([int(np.argmax(logits))], position)
        out.write(f"{time.perf_counter() - wall} {time.process_time() - cpu}\n")


def ask(process: subprocess.Popen[str], line: str) -> list[str]:
    """Sends a child a line; the words of its answer."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().split()


def end(process: subprocess.Popen[str]) -> None:
    """Lets a child come to its end, which is that of its input."""
    assert process.stdin
    process.stdin.close()
    process.wait()


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
    """Bytes that one token's pass reads: every matrix, but an embedding that is not also the output once a token."""
    import gguflike

    infos = gguflike.open(path).infos
    skipped = {"token_embd.weight"} if "output.weight" in infos else set()
    return sum(info.nbytes for name, info in infos.items() if len(info.shape) == 2 and name not in skipped)


@dataclass
class Child:
    """One engine at one thread count, and what was measured of it, in tokens per second."""

    engine: str
    threads: int
    process: subprocess.Popen[str]
    load_s: float
    prefill: list[float]
    decode: list[float]

    def run(self, what: str, count: int, clock: str) -> None:
        wall, cpu = map(float, ask(self.process, f"{what} {count}"))
        (self.prefill if what == "prefill" else self.decode).append(count / (wall if clock == "wall" else cpu))


def start(engine: str, path: str, threads: int, context: int) -> Child | None:
    command = [sys.executable, __file__, "--serve", engine, str(threads), str(context), path]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    answer = process.stdout.readline()
    return Child(engine, threads, process, float(answer), [], []) if answer else None


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
        child.prefill, child.decode = [], []
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
            best = max(mine, key=lambda child: statistics.median(getattr(child, what)))
            speeds = getattr(best, what)
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
    if sys.argv[1:2] == ["--serve"]:
        engine, threads, context, path = sys.argv[2:6]
        serve(engine, path, int(threads), int(context))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.gguf")
    parser.add_argument("--engines", default=",".join(ENGINES))
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
