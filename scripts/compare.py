#!/usr/bin/env python3
"""Two checkouts side by side: same bytes, same speed? Measured in turns, so that a busy machine disturbs both alike.

    python scripts/compare.py OLD NEW [--only encode,decode,matvec,matmul,run,start] [--types Q4_K,Q8_0]
        [--model FILE.gguf] [--rounds 7] [--least 0.97] [--json OUT.json]

OLD and NEW are folders that hold a ``gguflike`` package. Each is imported by a child process of its own, with kernels
compiled into a folder of its own (kept in $GGUFLIKE_CACHE_DIR or the user's cache folder, so that a second call need
not compile), and is used through the public API only. Measured, each on one thread unless said otherwise:

    encode    every block type, without and with importance, 128 x 4096, and whether the encoded bytes are the same
    decode    every block type, 512 x 4096
    matvec    ``linear`` of one token with a matrix of 4096 x 4096; matmul: of 512
    run       MODEL quantized to ten recipes: prefill of 512 tokens, decoding of 64 (all threads)
    start     from the start of a process to the first token of MODEL as Q4_0 (all threads)

A ratio is OLD's time over NEW's, the median over rounds of the pairs that were measured one right after the other;
above 1 means that NEW is faster. On one thread, both run on the same CPU, since others may slow one and not the next.
Where arrays happen to lie in memory makes a difference for as long as a process lives. So what is below ``--least`` is
measured again in new processes, ``--again`` times, and the median of all processes counts. Exit status: 1 where bytes
differ or a ratio stays below ``--least``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RECIPES = ("Q4_0", "Q4_K_M", "Q8_0", "Q6_K", "Q5_K_M", "Q3_K_M", "Q2_K", "IQ4_XS", "TQ2_0", "F16")
PARTS = ("encode", "decode", "matvec", "matmul", "run", "start")
ROWS, COLUMNS = 4096, 4096  # of a matrix for products
DECODED = 512  # rows of one that is decoded
LONG_ENOUGH = 0.05  # seconds of one sample
NO_LINEAR = {"F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"}


class Task(NamedTuple):
    """What a child is asked to measure: a method of ``Child`` and its arguments."""

    name: str
    method: str
    arguments: tuple[Any, ...]


# The child


class Child:
    """Measures one checkout. Every method returns (seconds of a sample, a digest of the result or "")."""

    def __init__(self) -> None:
        import gguflike

        self.api = gguflike
        self.x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
        self.importance = (np.random.default_rng(1).random(COLUMNS).astype(np.float32) + 0.01) ** 2
        self.repeats: dict[Any, int] = {}
        self.tensors: dict[str, Any] = {}
        self.models: dict[str, Any] = {}
        self.cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

    def _pin(self, alone: bool) -> None:
        """Run on one CPU, the same for both children: others on the machine may slow one CPU and not the next."""
        if self.cpus:
            os.sched_setaffinity(0, {max(self.cpus)} if alone else self.cpus)

    def _sample(self, key: Any, work: Callable[[], Any]) -> float:
        """Seconds of one call of ``work``, which is repeated until a sample is long enough."""
        self._pin(True)
        if key not in self.repeats:
            work()  # compiles
            begin = time.perf_counter()
            work()
            self.repeats[key] = max(1, round(LONG_ENOUGH / (time.perf_counter() - begin)))
        begin = time.perf_counter()
        for _ in range(self.repeats[key]):
            work()
        return (time.perf_counter() - begin) / self.repeats[key]

    def encode(self, kind: str, weighted: bool) -> tuple[float, str]:
        importance = self.importance if weighted else None
        found: list[Any] = []

        def work() -> None:
            found[:] = [self.api.quantize(self.x[:128], kind, importance=importance, threads=1)]

        seconds = self._sample(("encode", kind, weighted), work)
        return seconds, _digest(found[0].data)

    def _tensor(self, kind: str) -> Any:
        if kind not in self.tensors:
            self.tensors.clear()
            self.tensors[kind] = self.api.quantize(self.x, kind, method="absmax")
        return self.tensors[kind]

    def decode(self, kind: str) -> tuple[float, str]:
        tensor, found = self.api.quantize(self.x[:DECODED], kind, method="absmax"), []

        def work() -> None:
            found[:] = [tensor.dequantize(threads=1)]

        seconds = self._sample(("decode", kind), work)
        return seconds, _digest(found[0])

    def linear(self, kind: str, tokens: int) -> tuple[float, str]:
        tensor, found = self._tensor(kind), []
        x = np.random.default_rng(2).standard_normal((tokens, COLUMNS)).astype(np.float32)

        def work() -> None:
            found[:] = [tensor.linear(x, threads=1)]

        seconds = self._sample(("linear", kind, tokens), work)
        return seconds, _digest(found[0])

    def quantize_file(self, source: str, target: str, kind: str) -> tuple[float, str]:
        begin = time.perf_counter()
        self.api.quantize_file(source, target, type=kind, overwrite=True)
        return time.perf_counter() - begin, ""

    def generate(self, path: str, what: str) -> tuple[float, str]:
        """Seconds of a token: of a prompt of 512, or decoded after it."""
        self._pin(False)
        if path not in self.models:
            for model in self.models.values():
                model.close()
            self.models.clear()
            model = self.models[path] = self.api.load(path, context=1024)
            self._generation(model, 8)
        result = self._generation(self.models[path], 1 if what == "prefill" else 65)
        speed = result.prefill_tokens_per_s if what == "prefill" else result.decode_tokens_per_s
        return 1 / speed, ",".join(str(token) for token in result.tokens)

    def _generation(self, model: Any, count: int) -> Any:
        model.logits([1])  # so that nothing of the prompt is in the cache
        prompt = np.random.default_rng(3).integers(1000, model.vocab_size, 512).tolist()
        return model.generate(prompt, count).result()


def _digest(array: Any) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def serve() -> None:
    """Answer one JSON request a line: [method, arguments] -> [seconds, digest]."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    child = Child()
    for line in sys.stdin:
        method, arguments = json.loads(line)
        out.write(json.dumps(getattr(child, method)(*arguments)) + "\n")


# The parent


class Side:
    """One checkout and its child."""

    def __init__(self, folder: Path, cache: Path) -> None:
        if not (folder / "gguflike" / "__init__.py").is_file():
            sys.exit(f"{folder} holds no gguflike package")
        self.folder = folder.resolve()
        cache.mkdir(parents=True, exist_ok=True)
        # Memory that is given back to the system and taken anew, page by page, costs more than decoding into it.
        keep = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(1 << 30))
        places = {"PYTHONPATH": str(self.folder), "GGUFLIKE_CACHE_DIR": str(cache)}
        self.environment = {**os.environ, **keep, **places}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def ask(self, method: str, arguments: tuple[Any, ...]) -> tuple[float, str]:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps([method, arguments]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.folder}: the child ended at {method}{arguments}")
        seconds, digest = json.loads(line)
        return seconds, digest

    def start(self, model: str) -> tuple[float, str]:
        """Seconds from the start of a process to the end of ``run`` with one token."""
        command = [sys.executable, "-m", "gguflike", "run", model, "-p", "The capital of France is", "-n", "1"]
        begin = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        )
        return time.perf_counter() - begin, done.stdout


def tasks(parts: list[str], types: list[str], models: dict[str, str]) -> Iterator[Task]:
    for kind in types:
        if "encode" in parts:
            for weighted in (False, True):
                yield Task(f"encode {kind}{' weighted' if weighted else ''}", "encode", (kind, weighted))
        if "decode" in parts:
            yield Task(f"decode {kind}", "decode", (kind,))
        if kind not in NO_LINEAR:
            if "matvec" in parts:
                yield Task(f"matvec {kind}", "linear", (kind, 1))
            if "matmul" in parts:
                yield Task(f"matmul {kind}", "linear", (kind, 512))
    for kind, path in models.items():
        if "run" in parts:
            yield Task(f"prefill {kind}", "generate", (path, "prefill"))
            yield Task(f"tokens {kind}", "generate", (path, "decode"))
    if "start" in parts and models:
        yield Task("start to first token Q4_0", "start", (models["Q4_0"],))


def measure(task: Task, old: Side, new: Side, rounds: int) -> tuple[float, bool]:
    """(median ratio, whether the results are the same)."""

    def once(side: Side) -> tuple[float, str]:
        return side.start(*task.arguments) if task.method == "start" else side.ask(task.method, task.arguments)

    same = once(old)[1] == once(new)[1]  # and compiles
    ratios = []
    for round_number in range(rounds):
        first, second = (old, new) if round_number % 2 else (new, old)
        times = {first: once(first)[0], second: once(second)[0]}
        ratios.append(times[old] / times[new])
    return statistics.median(ratios), same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PARTS")
    parser.add_argument("--types", default="", help="block types; default: every one that has an encoder")
    parser.add_argument("--model", help="GGUF file of a Llama, for run and start (they are left out without it)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--again", type=int, default=6)
    parser.add_argument("--least", type=float, default=0.97)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    types = arguments.types.split(",") if arguments.types else block_types()
    base = Path(os.environ.get("GGUFLIKE_CACHE_DIR") or Path.home() / ".cache") / "gguflike-compare"
    ratios: dict[Task, list[float]] = {}
    differ: set[Task] = set()
    with tempfile.TemporaryDirectory() as folder:
        models: dict[str, str] = {}
        for turn in range(1 + arguments.again):
            with Side(arguments.old, base / "old") as old, Side(arguments.new, base / "new") as new:
                if not turn:
                    if arguments.model and {"run", "start"} & set(parts):
                        for kind in RECIPES if "run" in parts else RECIPES[:1]:
                            models[kind] = str(Path(folder) / f"{kind}.gguf")
                            new.ask("quantize_file", (str(Path(arguments.model).resolve()), models[kind], kind))
                    left = list(tasks(parts, types, models))
                for task in left:
                    ratio, same = measure(task, old, new, arguments.rounds)
                    ratios.setdefault(task, []).append(ratio)
                    differ |= set() if same else {task}
                    print(f"{task.name:28} {ratio:6.3f}{'' if same else '   RESULTS DIFFER'}", flush=True)
            left = [task for task in left if statistics.median(ratios[task]) < arguments.least]
            if not left:
                break
            print(f"{len(left)} below {arguments.least}: again in new processes", flush=True)
    medians = {task: statistics.median(found) for task, found in ratios.items()}
    for task in left:
        print(f"{task.name:28} {medians[task]:6.3f}  of {', '.join(f'{ratio:.3f}' for ratio in ratios[task])}   <--")
    for name, group in by_part(medians).items():
        print(f"{name:8} {len(group):3} ratios: least {min(group):.3f}, median {statistics.median(group):.3f}")
    print(f"{len(left)} below {arguments.least}, {len(differ)} with other results")
    if arguments.json:
        report = [{"task": t.name, "ratio": r, "all": ratios[t], "same": t not in differ} for t, r in medians.items()]
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(bool(left or differ))


def by_part(medians: dict[Task, float]) -> dict[str, list[float]]:
    """Ratios by the first word of what was measured."""
    groups: dict[str, list[float]] = {}
    for task, ratio in medians.items():
        groups.setdefault(task.name.split()[0], []).append(ratio)
    return groups


def block_types() -> list[str]:
    """Names of the block types that can be encoded, as this Python's gguflike has them."""
    from gguflike.blocks import FORMATS

    return [name for name in FORMATS if name not in {"F64", "I8", "I16", "I32", "I64"}]


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main())
