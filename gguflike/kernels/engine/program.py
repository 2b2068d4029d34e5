"""Programs: a forward pass as a flat list of ops in memory, run by a team of threads without Python in between.

``Program`` collects ops and lays them out for kernels/interpreter.py; ``Team`` owns the threads. No numba is imported
when the machine code is in the cache.

Layout, all words int64:

    program   number of ops; of the pass: TOKENS, POSITION of the first; CLAIMS and DONES, addresses of a word per op;
              CLAIMS_STRIDE and ARGS_STRIDE, bytes from one thread's claims and arguments to the next's; then a record
              per op
    claims    pass << 40 | pieces claimed from the front of a thread's share << 20 | from its back
    dones     pieces done of the stage that the op starts
    record    FUNCTION address, ARGS address, ITEMS, PER_TOKENS and PER_KEYS (0, or: as many items again for every so
              many tokens of the pass, or positions up to its end), GRAIN (items of a piece), EACH (items of the op per
              item claimed), STARTS_STAGE (1: every earlier op must be complete first), CHAINED (ops that follow on the
              same items), OWN (1: each thread does all items for itself)
    team      EPOCH (number of the pass), PROGRAM, QUIT, THREADS, BUSY (workers that look at a program), then a block
              per thread: ASLEEP, SEMAPHORE, STATE
    state     what ops see: TOKENS in this pass, POSITION of the first, THREAD index, SCRATCH address
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.errors import UnsupportedError
from gguflike.kernels.engine import native
from gguflike.kernels.engine.host import thread_count

Words = npt.NDArray[np.int64]

# Byte offsets.
PASS_TOKENS, PASS_POSITION, CLAIMS, DONES, CLAIMS_STRIDE, ARGS_STRIDE = range(8, 56, 8)
HEADER_BYTES, RECORD_BYTES = 64, 128
LINE_WORDS = 8  # of a cache line
FUNCTION, ARGS, ITEMS, PER_TOKENS, PER_KEYS, GRAIN, EACH, STARTS_STAGE, CHAINED, OWN = range(0, 80, 8)
EPOCH, PROGRAM, QUIT, THREADS, BUSY = 0, 64, 72, 80, 128
THREAD_BLOCKS, THREAD_BYTES = 192, 256
ASLEEP, SEMAPHORE, STATE = 0, 64, 128
TOKENS, POSITION, THREAD, SCRATCH = 0, 8, 16, 24

SCRATCH_BYTES = 1 << 18


def float_bits(value: float) -> int:
    """A float32 parameter as an argument word: its bits in the low half."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def aligned(count: int, dtype: Any = np.uint8, *, huge: bool = False) -> npt.NDArray[Any]:
    """A zeroed array on pages of its own, which are only taken from the system, one by one, when they are touched.

    ``huge`` asks for huge pages, for what will be filled: a tenth of the time to take them, and fewer to look up. A
    cache of which a little is used here and there would take it all.
    """
    dtype = np.dtype(dtype)
    pages = mmap.mmap(-1, max(count * dtype.itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(advice)
    return np.frombuffer(pages, dtype, count)


class Own(NamedTuple):
    """An address that differs between threads, as an argument word: the first thread's, and how far apart they are."""

    address: int
    stride: int


Word = int | Own


class Op(NamedTuple):
    """One step: the op called ``name`` over ``items`` items, or ``items`` for every ``per_tokens`` tokens of the pass,
    or for every ``per_keys`` positions up to its end.

    ``grain`` items are the least that a thread takes. ``barrier`` says whether the op depends on ops since the last
    barrier; without it, it runs beside them. ``chained``: it follows the op before on the same items, in the same
    thread. An item that is taken means ``each`` items of the op. ``own``: each thread does all items, for itself,
    before its first of the other ops up to the next barrier; it writes only to ``Own`` memory, and comes first after a
    barrier.
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


@dataclass
class Program:
    """A sequence of ops, for one team. ``keep`` holds the arrays whose addresses the ops use."""

    ops: list[Op] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)
    _layouts: dict[int, list[Words]] = field(default_factory=dict)

    def add(self, name: str, *args: Word, items: int, **settings: Any) -> None:
        """Append an op; ``settings`` are the other fields of ``Op``."""
        self.ops.append(Op(name, args, items, **settings))

    def link(self, progress: native.Progress | None = None) -> Program:
        """Compile or load the ops. A program can be run without it, but then nobody hears of progress."""
        native.load([op.name for op in self.ops], progress)
        return self

    def address(self, threads: int) -> int:
        """The program laid out in memory for so many threads."""
        if threads not in self._layouts:
            self._layouts[threads] = self._laid_out(threads)
        return int(self._layouts[threads][0].ctypes.data)

    def _laid_out(self, threads: int) -> list[Words]:
        addresses = native.load(op.name for op in self.ops)
        header, words, count = HEADER_BYTES // 8, RECORD_BYTES // 8, len(self.ops)
        stride = -(-count // LINE_WORDS) * LINE_WORDS
        flat = [word for op in self.ops for word in op.args]
        first = np.array([word.address if isinstance(word, Own) else word for word in flat], np.int64)
        apart = np.array([word.stride if isinstance(word, Own) else 0 for word in flat], np.int64)
        args = first + apart * np.arange(threads, dtype=np.int64)[:, None]
        program, claims, dones = (aligned(size, np.int64) for size in (header + words * count, threads * stride, count))
        program[:header] = count, 0, 0, claims.ctypes.data, dones.ctypes.data, 8 * stride, args.strides[0], 0
        place = int(args.ctypes.data)
        for index, op in enumerate(self.ops):
            chained = next((i for i, o in enumerate(self.ops[index + 1 :]) if not o.chained), count - index - 1)
            program[header + words * index :][:10] = (
                addresses[op.name],
                place,
                op.items,
                op.per_tokens,
                op.per_keys,
                op.grain,
                op.each,
                op.barrier or index == 0,
                chained,
                op.own,
            )
            place += 8 * len(op.args)
        return [program, claims, dones, args]


def _quit(words: Words, count: int, threads: Sequence[threading.Thread], recent: list[Program]) -> None:
    libc = ctypes.CDLL(None)
    words[QUIT // 8] = 1
    for thread in range(1, count):
        libc.sem_post(ctypes.c_void_p(int(words.ctypes.data) + THREAD_BLOCKS + thread * THREAD_BYTES + SEMAPHORE))
    for worker in threads:
        worker.join()
    recent.clear()


class Team:
    """``threads`` threads (the caller is one of them) that run programs together.

    Workers spin for a moment after each pass and then sleep until the next. They are started at the first pass, and
    again in a forked child.
    """

    def __init__(self, threads: int | None = None, progress: native.Progress | None = None) -> None:
        self.threads = thread_count(threads)
        if not hasattr(ctypes.CDLL(None), "sem_init"):
            raise UnsupportedError("running models needs POSIX semaphores", expected="Linux", got=os.name)
        self._scratch = aligned(self.threads * SCRATCH_BYTES)
        native.load(["engine.interpreter:run", "engine.interpreter:work"], progress)
        self._run = native.call("engine.interpreter:run")
        self._lock = threading.Lock()
        self._process = self._base = 0
        self._words: Words = np.empty(0, np.int64)
        self._recent: list[Program] = []  # programs that a late worker may still be looking at

    def _start(self) -> None:
        self._words = words = aligned((THREAD_BLOCKS + self.threads * THREAD_BYTES) // 8, np.int64)
        words[THREADS // 8] = self.threads
        self._base = base = int(words.ctypes.data)
        libc = ctypes.CDLL(None)
        for thread in range(self.threads):
            block = (THREAD_BLOCKS + thread * THREAD_BYTES) // 8
            libc.sem_init(ctypes.c_void_p(base + 8 * block + SEMAPHORE), 0, 0)
            words[block + (STATE + THREAD) // 8] = thread
            words[block + (STATE + SCRATCH) // 8] = self._scratch.ctypes.data + thread * SCRATCH_BYTES
        work = native.call("engine.interpreter:work")
        workers = [
            threading.Thread(target=work, args=(base, thread, 0, 0), name=f"gguflike-{thread}", daemon=True)
            for thread in range(1, self.threads)
        ]
        for worker in workers:
            worker.start()
        self._process = os.getpid()
        # Machine code is unmapped when the interpreter shuts down, so workers must be gone by then.
        self._finalizer = weakref.finalize(self, _quit, words, self.threads, workers, self._recent)

    def run(self, program: Program, tokens: int, position: int = 0) -> None:
        """One pass of a linked program. Calls from several Python threads take turns."""
        with self._lock:
            if self._process != os.getpid():
                self._start()
            if not self._words[BUSY // 8]:
                # Workers that wake up from now on look at the last program, not at those before it.
                del self._recent[:-1]
            self._recent.append(program)
            self._run(self._base, program.address(self.threads), tokens, position)

    def close(self) -> None:
        """End the workers. They come back with the next pass."""
        with self._lock:
            if self._process == os.getpid():
                self._finalizer()
            self._process = 0
