"""Programs: a forward pass as a flat list of ops in memory, run by a team of threads without Python in between.

``Program`` collects ops and lays them out for the interpreter (interpreter.py) in the structures of memory.py; ``Team``
owns the threads. No numba is imported when the machine code is in the cache.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.kernels.engine.args import WORD_BYTES, Own, Word
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.memory import (
    HEADER_TYPE,
    LINE_WORDS,
    RECORD_TYPE,
    SCRATCH_BYTES,
    aligned,
    team_type,
)
from gguflike.kernels.engine.waiting import prepare
from gguflike.progress import Progress

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.kernels.engine.memory import Words
    from gguflike.kernels.engine.waiting import Waiting

    Structure = npt.NDArray[np.void]


class Op(NamedTuple):
    """One step of a program: an op, its argument words, and how its items are divided among the threads.

    The op has ``items`` items, or as many for every ``per_tokens`` tokens of the pass, or for every ``per_keys``
    positions up to its end; begun ones count. Threads claim pieces of ``grain`` items.

    ``barrier``: the op reads what ops since the last barrier write, so these must be complete; without it, it runs
    beside them. ``chained``: a thread that has done items of the op before goes on with the same items of this one;
    where the two count items differently, ``each`` is how many of the op's own make one that is claimed. ``own``: each
    thread does all items for itself, before it begins with the other ops up to the next barrier; such an op comes first
    after a barrier and writes to ``Own`` memory only, which holds until that next barrier: a thread that finds nothing
    to do in a stage does not do its own ops either. ``calls`` names ops whose code this one calls: their addresses
    are its first words.
    """

    name: str
    args: tuple[Word, ...]
    items: int
    per_tokens: int = 0
    per_keys: int = 0
    grain: int = 1
    each: int = 1
    barrier: bool = True
    chained: bool = False
    own: bool = False
    calls: tuple[str, ...] = ()


class Program:
    """A sequence of ops, for one team. ``keep`` holds the arrays whose addresses the ops use."""

    def __init__(self, keep: Sequence[Any] = ()) -> None:
        self.ops: list[Op] = []
        self.keep = list(keep)
        self._layouts: dict[int, _Layout] = {}  # by number of threads
        self._own: set[int] = set()  # addresses of ``Own`` memory that own ops of the last stage have

    def add(self, name: str, args: tuple[Word, ...], *, items: int, **settings: Any) -> None:
        """Append an op with the words that ``Args.pack`` made; ``settings`` are the other fields of ``Op``.

        RuntimeError for an op that reads ``Own`` memory which no own op of its stage has written.
        """
        op = Op(name, args, items, **settings)
        if op.barrier and not op.chained:
            self._own.clear()
        own = [word for word in args if isinstance(word, Own)]
        if op.own:
            self._own.update(word.address for word in own)
        elif not all(any(0 <= word.address - start < word.stride for start in self._own) for word in own):
            raise RuntimeError(f"{name} reads what its threads have not written for themselves since the last barrier")
        self.ops.append(op)

    def link(self, progress: Progress | None = None) -> Program:
        """Compile or load the ops. A program can be run without it, but then nobody hears of progress."""
        from gguflike.kernels.engine import native  # who only counts what programs take loads no code

        native.load(self.names, progress)
        return self

    @property
    def names(self) -> list[str]:
        """The ops that must be compiled for it."""
        return [op.name for op in self.ops] + [called for op in self.ops for called in op.calls]

    def nbytes(self, threads: int) -> int:
        """Return the bytes that it takes laid out in memory for so many threads."""
        return laid_out_bytes(len(self.ops), sum(len(op.args) for op in self.ops), threads)

    def address(self, threads: int) -> int:
        """Return the address of the program laid out in memory for so many threads."""
        if threads not in self._layouts:
            self._layouts[threads] = self._laid_out(threads)
        return int(self._layouts[threads].program.ctypes.data)

    def _laid_out(self, threads: int) -> _Layout:
        from gguflike.kernels.engine import native

        count = len(self.ops)
        args = _args_of_threads([word for op in self.ops for word in op.args], threads)
        claims = aligned(threads * (-(-count // LINE_WORDS) * LINE_WORDS), np.int64).reshape(threads, -1)
        dones = aligned(count, np.int64)
        program = aligned(HEADER_TYPE.itemsize + count * RECORD_TYPE.itemsize)
        header = program[: HEADER_TYPE.itemsize].view(HEADER_TYPE)
        header["ops"], header["claims"], header["dones"] = count, claims.ctypes.data, dones.ctypes.data
        header["claims_stride"], header["args_stride"] = claims.strides[0], args.strides[0]
        records = program[HEADER_TYPE.itemsize :].view(RECORD_TYPE)
        for field in ("items", "per_tokens", "per_keys", "grain", "each", "own"):
            records[field] = [getattr(op, field) for op in self.ops]
        addresses = native.load(self.names)
        records["function"] = [addresses[op.name] for op in self.ops]
        first_words = list(accumulate((len(op.args) for op in self.ops[:-1]), initial=0))
        for op, word in zip(self.ops, first_words, strict=True):
            for index, called in enumerate(op.calls):
                args[:, word + index] = addresses[called]
        records["args"] = [args.ctypes.data + WORD_BYTES * word for word in first_words]
        records["starts_stage"] = [op.barrier or index == 0 for index, op in enumerate(self.ops)]
        records["chained"] = _followers(self.ops)
        return _Layout(program, claims, dones, args)


def laid_out_bytes(ops: int, words: int, threads: int) -> int:
    """Return the bytes that a program of so many ops, with so many words together, takes in memory for ``threads``."""
    claims = -(-ops // LINE_WORDS) * LINE_WORDS
    own = HEADER_TYPE.itemsize + ops * (RECORD_TYPE.itemsize + WORD_BYTES)
    return threads * WORD_BYTES * (words + claims) + own


class _Layout(NamedTuple):
    """A program in memory: header and records (memory.py), and what they address."""

    program: npt.NDArray[np.uint8]
    claims: Words
    dones: Words
    args: Words


def _args_of_threads(words: Sequence[Word], threads: int) -> Words:
    """Return the argument words of all ops, int64 (threads, words): alike but for those that are ``Own``."""
    first = np.array([word.address if isinstance(word, Own) else word for word in words], np.int64)
    stride = np.array([word.stride if isinstance(word, Own) else 0 for word in words], np.int64)
    return np.asarray(first + stride * np.arange(threads, dtype=np.int64)[:, None])


def _followers(ops: Sequence[Op]) -> list[int]:
    """Return how many chained ops follow each."""
    counts = [0] * len(ops)
    for index in range(len(ops) - 2, -1, -1):
        counts[index] = counts[index + 1] + 1 if ops[index + 1].chained else 0
    return counts


def _serve(work: Callable[..., None], team: Structure, thread: int, waiting: Waiting) -> None:
    """Work as one of a team's threads until it quits."""
    while True:
        work(int(team.ctypes.data), thread, 0, 0)
        if team["quit"][0]:
            return
        waiting.wait(thread)


def _quit(team: Structure, waiting: Waiting, workers: Sequence[threading.Thread], recent: list[Program]) -> None:
    """End a team's workers."""
    team["quit"] = 1
    for thread in range(1, int(team["threads"][0])):
        waiting.post(thread)
    for worker in workers:
        worker.join()
    recent.clear()


class Team:
    """``threads`` threads (the caller is one of them) that run programs together.

    Workers spin for a moment after each pass and then sleep until the next. They are started at the first pass, and
    again in a forked child.
    """

    OPS = ("engine.interpreter:run", "engine.interpreter:work")

    def __init__(self, threads: int | None = None) -> None:
        from gguflike.kernels.engine import native

        self.threads = thread_count(threads)
        self._scratch = aligned(self.threads * SCRATCH_BYTES)
        native.load(self.OPS)
        self._run = native.call("engine.interpreter:run")
        self._lock = threading.Lock()
        self._process = 0  # where the workers are
        self._team: Structure = np.zeros(1, team_type(1))
        self._recent: list[Program] = []  # programs that a late worker may still be looking at

    def _start(self) -> None:
        from gguflike.kernels.engine import native

        self._team = team = aligned(1, team_type(self.threads))
        team["threads"] = self.threads
        threads = np.arange(self.threads)
        states = team["blocks"][0]["state"]
        states["thread"], states["scratch"] = threads, self._scratch.ctypes.data + threads * SCRATCH_BYTES
        self._waiting = waiting = prepare(team)
        self._posts_due = team["blocks"][0]["post_due"]
        work = native.call("engine.interpreter:work")
        workers = [
            threading.Thread(target=_serve, args=(work, team, thread, waiting), name=f"gguflike-{thread}", daemon=True)
            for thread in range(1, self.threads)
        ]
        for worker in workers:
            worker.start()
        self._process = os.getpid()
        # Machine code is unmapped when the interpreter shuts down, so workers must be gone by then.
        self._finalizer = weakref.finalize(self, _quit, team, waiting, workers, self._recent)

    def run(self, program: Program, tokens: int, position: int = 0) -> None:
        """Run a linked program once, over ``tokens`` tokens from ``position`` on.

        Returns when all ops are complete, and an interrupt is raised no earlier. Calls from several Python threads take
        turns.
        """
        with self._lock:
            if self._process != os.getpid():
                self._start()
            if not self._team["busy"][0]:
                # Workers that wake up from now on look at the last program, not at those before it.
                del self._recent[:-1]
            self._recent.append(program)
            team, address = int(self._team.ctypes.data), program.address(self.threads)
            try:
                self._run(team, address, tokens, position)
                if self._waiting.in_python and self._posts_due.any():
                    # Were this interrupted, a worker might be woken twice, but none is forgotten.
                    for thread in np.flatnonzero(self._posts_due):
                        self._waiting.post(int(thread))
                        self._posts_due[thread] = 0
            finally:  # whoever hears of an interrupt may change what the pass reads and writes
                if self._waiting.in_python:
                    self._run(team, 0, 0, 0)

    def close(self) -> None:
        """End the workers. They come back with the next pass."""
        with self._lock:
            if self._process == os.getpid():
                self._finalizer()
            self._process = 0
