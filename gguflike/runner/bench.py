"""How fast a model runs here, and how far that is from what the machine can do."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gguflike.errors import UnsupportedError
from gguflike.kernels.engine.memory import aligned
from gguflike.kernels.engine.program import Program, Team
from gguflike.kernels.matmul.args import LIMITS
from gguflike.progress import Progress
from gguflike.runner.model import Model, load

READ_BYTES = 256 << 20  # beyond any last-level cache
LEAST_READ = 64 << 20  # bytes in a measurement
READ_VECTORS = 256  # bytes of one item of limits:read
MULTIPLY_ROUNDS, ROUND_OPERATIONS = 50_000, 12 * 8 * 128  # of limits:multiply


def bench(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    activations: str = "dynamic",
    prompt_tokens: int = 512,
    new_tokens: int = 128,
    repeat: int = 3,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Load a model and measure it, with ``activations`` as of `load`; medians of ``repeat`` runs.

    Prefill is ``prompt_tokens`` tokens at once into an empty cache, decode ``new_tokens`` one after another after one,
    each chosen greedily. ``decode_gb_per_s`` counts the weights that a token reads and ``prefill_tera_ops_per_s`` two
    operations for each; ``machine_gb_per_s`` and ``machine_tera_ops_per_s`` are what the same threads reach in loops
    that only read ``machine_read_bytes`` of memory again and again, as many as the weights have (of larger ones, as
    many as no cache holds), and only multiply bytes.
    """
    start = time.perf_counter()
    with load(path, threads=threads, activations=activations, progress=progress) as model:
        load_s = time.perf_counter() - start
        needed = max(prompt_tokens, new_tokens + 1)
        if needed > model.context:
            raise UnsupportedError("benchmark longer than the context", expected=f"{model.context} tokens", got=needed)
        prompt = np.random.default_rng(0).integers(0, model.vocab_size, prompt_tokens).tolist()
        weights, nbytes = model.weights.matrix_weights, model.weights.matrix_bytes
        prefill = prompt_tokens / _median(lambda: model.extend(prompt, 0), repeat)
        decode = new_tokens / _median(lambda: _decode(model, prompt[0], new_tokens), repeat)
        read_bytes = min(nbytes, READ_BYTES)  # a model that a cache holds is read faster than memory can be
        gb_per_s, tera_ops = machine_limits(model.threads, repeat, read_bytes)
        return {
            "load_s": load_s,
            "threads": model.threads,
            "activations": activations,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "prefill_tokens_per_s": prefill,
            "decode_tokens_per_s": decode,
            "weight_bytes": nbytes,
            "decode_gb_per_s": decode * nbytes / 1e9,
            "machine_gb_per_s": gb_per_s,
            "machine_read_bytes": read_bytes,
            # The head is computed for the last token only.
            "prefill_tera_ops_per_s": prefill * 2 * (weights - model.weights.head_weights) / 1e12,
            "machine_tera_ops_per_s": tera_ops,
        }


def _decode(model: Model, token: int, count: int) -> None:
    logits = model.extend([token], 0)
    for position in range(1, count + 1):
        logits = model.extend([int(np.argmax(logits[-1]))], position)


def _median(run: Callable[[], Any], repeat: int) -> float:
    run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine_limits(threads: int, repeat: int = 3, read_bytes: int = READ_BYTES) -> tuple[float, float]:
    """(gigabytes read, tera-operations on bytes multiplied and added) per second of ``threads`` threads. What is read
    again and again are ``read_bytes``, rounded down to whole vectors."""
    team = Team(threads)
    vectors = max(read_bytes // READ_VECTORS, 1)
    times = -(-LEAST_READ // (vectors * READ_VECTORS))  # what is soon read is read several times
    memory, result = aligned(vectors * READ_VECTORS), aligned(64)
    memory[:] = 1
    words = LIMITS.pack(memory=int(memory.ctypes.data), result=int(result.ctypes.data))
    read, multiply = Program(keep=[memory, result]), Program(keep=[result])
    read.add("matmul.limits:read", words, items=vectors)
    multiply.add("matmul.limits:multiply", words, items=MULTIPLY_ROUNDS)
    for program in (read, multiply):
        program.link()

    def read_all() -> None:
        for _ in range(times):
            team.run(read, 1)

    reading = _median(read_all, repeat) / times
    multiplying = _median(lambda: team.run(multiply, 1), repeat)
    team.close()
    return vectors * READ_VECTORS / reading / 1e9, MULTIPLY_ROUNDS * ROUND_OPERATIONS / multiplying / 1e12
