"""Speed of a model: loading, reading a prompt, writing."""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any

import numpy as np

from gguflike.errors import UnsupportedError
from gguflike.runner.model import Model, load

PROMPT_TOKENS = 512
NEW_TOKENS = 128


def bench(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
    new_tokens: int = NEW_TOKENS,
    repeat: int = 3,
) -> dict[str, Any]:
    """``load_s``, and medians over ``repeat`` runs of ``prefill_tokens_per_s`` (a prompt of ``prompt_tokens``) and
    ``decode_tokens_per_s`` (``new_tokens`` one by one after it), in wall time; also what they were measured with.

    Loading is timed as it happens: on a machine's first run it includes compiling kernels.
    """
    start = time.perf_counter()
    model = load(path, threads=threads)
    load_s = time.perf_counter() - start
    with model:
        if prompt_tokens + new_tokens > model.context:
            raise UnsupportedError(
                "the context is too short to measure",
                expected=f"{prompt_tokens + new_tokens} tokens",
                got=model.context,
                remedy="measure with fewer tokens",
            )
        ids = np.random.default_rng(0).integers(0, model.vocab_size, prompt_tokens).tolist()
        _decode(model, 0, 2)  # touches the weights once
        prefill, decode = [], []
        for _ in range(repeat):
            start = time.perf_counter()
            model.extend(ids, 0)
            middle = time.perf_counter()
            _decode(model, prompt_tokens, new_tokens)
            prefill.append(middle - start)
            decode.append(time.perf_counter() - middle)
        return {
            "load_s": load_s,
            "prefill_tokens_per_s": prompt_tokens / median(prefill),
            "decode_tokens_per_s": new_tokens / median(decode),
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "threads": model.threads,
        }


def _decode(model: Model, position: int, count: int) -> None:
    """Greedy tokens one by one, whether or not one of them would end a text."""
    token = 0
    for at in range(position, position + count):
        token = int(model.extend([token], at)[-1].argmax())
