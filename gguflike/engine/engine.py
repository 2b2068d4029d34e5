"""The engine: a queue of jobs, and a thread that computes for all of them.

A *step* is what the thread does between two looks at who has come and gone: one pass of the model, with a token of
every text that is being continued, and a piece of one prompt. Prompts take turns, piece by piece, and pieces are short
while others wait for their next token.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from gguflike.engine.computing import Computer, Place, Work
from gguflike.engine.events import Listener
from gguflike.engine.job import Job
from gguflike.engine.request import Request
from gguflike.errors import ArgumentError, Full, check_integer, counted

if TYPE_CHECKING:
    from gguflike.runner import Model

PIECE = 512  # tokens of a prompt that are computed together when nobody else waits for a token,
SHORT_PIECE = 64  # and while somebody does


class Slot(NamedTuple):
    """A job that is being computed: ``computed`` of its ``prompt_tokens`` and ``generated`` tokens are."""

    job: int
    prompt_tokens: int
    cached_tokens: int
    computed: int
    generated: int


class Stats(NamedTuple):
    """What an engine has done since it was made, and what it is doing. Jobs ``done`` ended by themselves; tokens
    ``cached`` are those of prompts that did not have to be computed; seconds are those of the thread's work."""

    slots: tuple[Slot, ...]
    parallel: int
    waiting: int
    queue: int
    submitted: int
    refused: int
    done: int
    failed: int
    cancelled: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    steps: int
    rows: int
    busy_seconds: float
    cache_bytes: int
    cache_limit: int


class Engine:
    """Computes for many on one model. A context manager.

    ``parallel``: how many texts are computed at the same time. ``queue``: how many may wait beside them.
    ``cache_bytes``: memory for what was computed of texts that have ended, for others that begin alike (None: a tenth
    of the machine's). The model is the engine's while it lives: nobody else should compute with it, and closing the
    engine does not close it.
    """

    def __init__(self, model: Model, *, parallel: int = 8, queue: int = 64, cache_bytes: int | None = None) -> None:
        self.model = model
        self.parallel = check_integer("parallel", parallel, 1)
        self.queue = check_integer("queue", queue, 0)
        if cache_bytes is not None:
            check_integer("cache_bytes", cache_bytes, 0)
        self._computer = Computer(model)
        self._changed = threading.Condition()
        self._numbers = count(1)
        self._waiting: deque[Job] = deque()
        self._running: list[tuple[Job, Place]] = []
        self._turn = 0  # whose prompt goes on next, among those that are running
        self._counts = dict.fromkeys(Stats._fields[4:-3], 0)
        self._busy_seconds = 0.0
        self._since = 0.0  # when work began to wait for a step; 0: none waits
        self._closing = False
        self._died: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="gguflike-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, listener: Listener) -> Job:
        """Ask for a text. ``listener`` hears of it (events.py).

        Full where as many wait as may; ArgumentError where the engine is closed; for the prompt what `Model.generate`
        raises. What goes wrong later is told as `Failed`.
        """
        self.model.check_prompt(list(request.prompt))
        job = Job(next(self._numbers), request, listener, self.model)
        with self._changed:
            if self._closing or self._died is not None:
                raise ArgumentError("the engine is closed", path=self.model.path)
            free = self.parallel - len(self._running)
            if len(self._waiting) >= self.queue + max(0, free):
                self._counts["refused"] += 1
                raise Full(
                    "so many texts are asked for already that no more can wait",
                    expected=f"at most {counted(self.queue, 'job')} waiting",
                    got=len(self._waiting),
                    remedy="ask again later, or make an Engine with a larger `queue`",
                )
            self._counts["submitted"] += 1
            self._waiting.append(job)
            self._since = self._since or time.monotonic()
            self._changed.notify()
        return job

    def health(self) -> float:
        """Seconds since the last step while work waits; 0.0 where none does, infinity where the thread has died."""
        if self._died is not None:
            return math.inf
        since = self._since
        return time.monotonic() - since if since else 0.0

    def stats(self) -> Stats:
        """Counters, and what is being computed."""
        with self._changed:
            slots = tuple(
                Slot(
                    job.id,
                    job.result.prompt_tokens,
                    job.result.cached_tokens,
                    job.computed,
                    len(job.result.tokens),
                )
                for job, _ in self._running
            )
            return Stats(
                slots=slots,
                parallel=self.parallel,
                waiting=len(self._waiting),
                queue=self.queue,
                busy_seconds=self._busy_seconds,
                cache_bytes=0,
                cache_limit=0,
                **self._counts,
            )

    def close(self) -> None:
        """Fail what waits and what is being computed, and end the thread. Not to be called by a listener."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The thread

    def _work(self) -> None:
        try:
            while self._wait():
                begin = time.monotonic()
                self._step()
                end = time.monotonic()
                self._busy_seconds += end - begin
                with self._changed:
                    self._since = end if self._running or self._waiting else 0.0
            self._fail_all(ArgumentError("the engine was closed", path=self.model.path))
        except BaseException as error:  # a defect: nobody may wait for a thread that is gone
            self._died = error
            self._fail_all(RuntimeError(f"the engine's thread died: {error!r}"))
            raise

    def _wait(self) -> bool:
        """Wait for work. Returns False where the engine is being closed."""
        with self._changed:
            while not (self._running or self._waiting or self._closing):
                self._changed.wait()
            return not self._closing

    def _step(self) -> None:
        self._sweep()
        self._admit()
        chosen = self._chosen()
        if not chosen:
            return
        work = [
            Work(place, job.left[:size], job.computed, job.computed + size == len(job.tokens))
            for job, place, size in chosen
        ]
        results = self._computer.compute(work)
        self._counts["steps"] += 1
        self._counts["rows"] += sum(size for _, _, size in chosen)
        for (job, _, size), result in zip(chosen, results, strict=True):
            if isinstance(result, Exception):
                job.fail(result)
            else:
                before = len(job.result.tokens)
                job.advance(size, result)
                self._counts["generated_tokens"] += len(job.result.tokens) - before
        self._sweep()

    def _sweep(self) -> None:
        """Let go of what is over or cancelled."""
        for job in [job for job, _ in self._running] + list(self._waiting):
            if job.cancelled:
                job.end("cancelled")
        ended = [(job, place) for job, place in self._running if job.over]
        with self._changed:
            self._running = [pair for pair in self._running if not pair[0].over]
            dropped = [job for job in self._waiting if job.over]
            self._waiting = deque(job for job in self._waiting if not job.over)
        for job, place in ended:
            self._computer.close(place, job.request.cache)
        for job in [*(job for job, _ in ended), *dropped]:
            self._counts[job.outcome] += 1

    def _admit(self) -> None:
        """Begin with as many of those who wait as there is room for, and tell the others where they stand."""
        while self._waiting and len(self._running) < self.parallel:
            job = self._waiting[0]
            try:
                place, cached = self._computer.open(job.tokens, job.request.cache)
            except Exception as error:  # the model was closed, or there is no memory for one more
                job.fail(error)
                self._sweep()
                continue
            with self._changed:
                self._waiting.popleft()
                self._running.append((job, place))
            self._counts["prompt_tokens"] += job.result.prompt_tokens
            self._counts["cached_tokens"] += cached
            job.begin(cached)
        for position, job in enumerate(list(self._waiting)):
            job.queued(position)

    def _chosen(self) -> list[tuple[Job, Place, int]]:
        """Whose tokens the next pass computes, and how many of each."""
        running = [(job, place) for job, place in self._running if not job.over]
        decoding = [(job, place, len(job.left)) for job, place in running if job.decoding]
        prompts = [(job, place) for job, place in running if not job.decoding]
        if prompts:
            self._turn = (self._turn + 1) % len(prompts)
            job, place = prompts[self._turn]
            return [*decoding, (job, place, min(len(job.left), SHORT_PIECE if decoding else PIECE))]
        return decoding

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            jobs = [job for job, _ in self._running] + list(self._waiting)
            self._running, self._waiting, self._since = [], deque(), 0.0
        for job in jobs:
            job.fail(error)
            self._counts["failed"] += 1
