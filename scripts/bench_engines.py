"""Engines that run the same GGUF files, each in a process of its own: gguflike, llama.cpp and ik_llama.cpp.

Their libraries share symbol names, so none may be loaded beside another. A process loads one file and then does as told
over its standard input: ``start`` starts it, ``Child.run`` measures. bench_runner.py and bench_families.py compare.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Step = Callable[[list[int], int], np.ndarray[Any, Any]]  # (tokens, position of the first) -> logits of the last
PIECE = 512  # tokens at a time of a long text


def gguflike_engine(path: str, threads: int, context: int) -> Step:
    from gguflike.runner import load

    model = load(path, threads=threads, context=context)
    return lambda tokens, position: model.extend(tokens, position)[-1]


def llama_engine(path: str, threads: int, context: int, flash: bool = False) -> Step:
    import llama_cpp

    settings = {"n_batch": context, "n_ubatch": 512, "n_threads": threads, "n_threads_batch": threads}
    llama = llama_cpp.Llama(path, n_ctx=context, flash_attn=flash, verbose=False, **settings)
    vocab = llama.n_vocab()

    def step(tokens: list[int], position: int) -> np.ndarray[Any, Any]:
        llama.n_tokens = position  # eval drops what the cache holds beyond
        llama.eval(tokens)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(vocab,))

    return step


def llama_flash_engine(path: str, threads: int, context: int) -> Step:
    return llama_engine(path, threads, context, flash=True)


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


#: "llama.cpp flash" is llama.cpp with flash attention, which helps it at some lengths and hurts at others.
ENGINES: dict[str, Callable[[str, int, int], Step]] = {
    "gguflike": gguflike_engine,
    "llama.cpp": llama_engine,
    "ik_llama.cpp": ik_engine,
    "llama.cpp flash": llama_flash_engine,
}


def serve(engine: str, path: str, threads: int, context: int) -> None:
    """The child: reads lines from standard input, answers with wall and CPU seconds.

    ``prefill N``: N tokens into an empty cache. ``decode N``: N tokens one by one, each the argmax of the logits
    before, after a first one. ``fill N``: N tokens into an empty cache, in pieces. ``more N``: N tokens one by one
    after what is there.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    start = time.perf_counter()
    step = ENGINES[engine](path, threads, context)
    logits = step([1], 0)
    out.write(f"{time.perf_counter() - start}\n")
    prompt = np.random.default_rng(0).integers(0, len(logits), context).tolist()
    position = 1
    for line in sys.stdin:
        what, count = line.split()[0], int(line.split()[1])
        if what == "decode":
            logits, position = step(prompt[:1], 0), 1
        wall, cpu = time.perf_counter(), time.process_time()
        if what == "prefill":
            logits, position = step(prompt[:count], 0), count
        elif what == "fill":
            for first in range(0, count, PIECE):
                logits = step(prompt[first : min(first + PIECE, count)], first)
            position = count
        else:
            for _ in range(count):
                logits, position = step([int(np.argmax(logits))], position), position + 1
        out.write(f"{time.perf_counter() - wall} {time.process_time() - cpu}\n")


@dataclass
class Child:
    """One engine at one thread count, and what was measured of it: tokens per second, by what was done."""

    engine: str
    threads: int
    process: subprocess.Popen[str]
    load_s: float
    speeds: dict[str, list[float]] = field(default_factory=dict)

    def run(self, what: str, count: int, clock: str = "wall") -> float:
        """Do what ``serve`` says; the tokens per second, which are also added to ``speeds``."""
        wall, cpu = map(float, ask(self.process, f"{what} {count}"))
        speed = count / (wall if clock == "wall" else cpu)
        self.speeds.setdefault(what, []).append(speed)
        return speed

    def end(self) -> None:
        end(self.process)


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


def start(engine: str, path: str, threads: int, context: int) -> Child | None:
    """A process with a model; None where the engine is missing or does not load the file."""
    command = [sys.executable, __file__, engine, path, str(threads), str(context)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    answer = process.stdout.readline()
    return Child(engine, threads, process, float(answer)) if answer else None


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
