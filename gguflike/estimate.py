"""How much memory a model takes where it runs, and how fast it can run at most, before anything of it is loaded.

Sizes are those that `gguflike.runner` asks for (`gguflike.runner.needs`), from the header of a file alone.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gguflike.container import GGUFFile
from gguflike.errors import ArgumentError, check_choice, check_integer, check_threads
from gguflike.locate import open_header
from gguflike.machine import machine_bytes
from gguflike.runner import graph as programs
from gguflike.runner.ability import Understood, understand
from gguflike.runner.needs import Needs, of_file, sizes
from gguflike.runner.network import ACTIVATIONS, crest_of
from gguflike.runner.state import TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_CONTEXTS = 5  # rows of a table
LEAST_CONTEXT = 2048
MOST_USERS = 256  # as of `gguflike.engine`: a pass must have room for a token of each
READ_BYTES = 128 << 20  # beyond most last-level caches
READ_SECONDS = 0.3


@dataclass(frozen=True)
class Estimate:
    """What a model takes with a cache of ``cache_type`` for ``users`` texts at a time, each of ``context`` tokens.

    ``threads`` compute. ``needs`` has the bytes, ``memory`` is what the machine has. ``bandwidth`` is how many bytes
    its memory gives in a second, 0 where that was not measured: it bounds how many tokens a text can get.
    """

    context: int
    cache_type: str
    users: int
    threads: int
    needs: Needs
    memory: int
    bandwidth: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether the machine has so much memory."""
        return self.needs.peak <= self.memory

    @property
    def tokens_per_second(self) -> float:
        """The bound at the beginning of a text; 0 where the bandwidth was not measured."""
        return self.bandwidth / self.needs.read

    @property
    def tokens_per_second_full(self) -> float:
        """The bound where the context is full."""
        return self.bandwidth / (self.needs.read + self.needs.read_cache)


def estimate(
    file: str | os.PathLike[str] | GGUFFile,
    context: int | None = None,
    *,
    cache_type: str = "f16",
    users: int = 1,
    threads: int | None = None,
    activations: str = "dynamic",
    bandwidth: float = 0.0,
) -> Estimate:
    """Memory and speed of a model that runs with these arguments of `load`, for ``users`` texts at a time.

    ``file``: one that is open, or its path or name; of a file elsewhere only the header is fetched. ``context``: None
    is what the model was trained for. ``bandwidth``: what `read_bandwidth` gave.

    Errors as of `load`: GGUFError where the file is no model, UnsupportedError where this version cannot run it or
    where the context is beyond what it can be computed with, ArgumentError for a value that is none.
    """
    return estimates(
        file,
        None if context is None else [context],
        [cache_type],
        users=users,
        threads=threads,
        activations=activations,
        bandwidth=bandwidth,
    )[-1]


def estimates(
    file: str | os.PathLike[str] | GGUFFile,
    contexts: Sequence[int] | None = None,
    cache_types: Sequence[str] = TYPES,
    *,
    users: int = 1,
    threads: int | None = None,
    activations: str = "dynamic",
    bandwidth: float = 0.0,
) -> list[Estimate]:
    """`estimate` for each of ``contexts`` (None: those that `usual_contexts` gives), and for each type of cache."""
    check_threads(threads)
    check_choice("activations", activations, ACTIVATIONS)
    check_integer("users", users, 1, MOST_USERS)
    threads = threads or os.cpu_count() or 1
    crest = crest_of(activations)
    found, memory = [], machine_bytes()
    with nullcontext(file) if isinstance(file, GGUFFile) else open_header(file) as opened:
        model = understand(opened)
        weights = sizes(model.graph, opened.infos, model.left_out, opened.path)
        for context in usual_contexts(model) if contexts is None else contexts:
            _check_context(model, check_integer("context", context, 1), opened.path)
            for cache_type in cache_types:
                check_choice("cache_type", cache_type, TYPES)
                taken = of_file(
                    *(opened, model, context, cache_type), texts=users, threads=threads, crest=crest, weights=weights
                )
                found.append(
                    Estimate(
                        context=context,
                        cache_type=cache_type,
                        users=users,
                        threads=threads,
                        needs=taken,
                        memory=memory,
                        bandwidth=bandwidth,
                    )
                )
    return found


def usual_contexts(model: Understood, most: int = MOST_CONTEXTS) -> list[int]:
    """The context that a model was made for, and at most so many in all, each four times the one before."""
    longest = model.longest
    return sorted(longest // 4**power for power in range(most) if power == 0 or longest // 4**power >= LEAST_CONTEXT)


def read_bandwidth(threads: int | None = None) -> float:
    """Bytes that the machine's memory gives so many threads in a second, measured for READ_SECONDS with numpy, the best
    of several rounds."""
    check_threads(threads)
    count = threads or os.cpu_count() or 1
    parts = np.array_split(np.ones(READ_BYTES, np.uint8), count)
    best, stop = 0.0, time.perf_counter() + READ_SECONDS
    with ThreadPoolExecutor(count) as pool:
        while True:
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            end = time.perf_counter()
            best = max(best, READ_BYTES / (end - start))
            if end > stop:
                return best


def _check_context(model: Understood, context: int, path: str) -> None:
    """ArgumentError for a context of more positions than the model can be computed with."""
    for limit, why in programs.limits(model.graph).items():
        if context > limit:
            raise ArgumentError(
                "out of range", path=path, field="context", expected=f"at most {limit}, {why}", got=context
            )
