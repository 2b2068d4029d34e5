"""The engine: a queue of jobs, and a thread that computes for all of them.

A *step* is what the thread does between two looks at who has come and gone: one pass of the model, with a token of
every text that is being continued, and a piece of what is to be read of prompts. Short rests of prompts come first, but
no prompt waits for ever, and pieces are short while others wait for their next token (pace.py).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from gguflike.engine.disk import Disk
from gguflike.engine.drafting import Drafts
from gguflike.engine.events import Listener
from gguflike.engine.job import Job
from gguflike.engine.pace import Pace
from gguflike.engine.places import Places
from gguflike.engine.request import Request
from gguflike.engine.stats import COUNTERS, Slot, Stats
from gguflike.engine.store import Store
from gguflike.errors import ArgumentError, Full, check_integer, counted
from gguflike.machine import machine_bytes
from gguflike.runner.together import Run

if TYPE_CHECKING:
    from gguflike.runner import Model

CACHE_SHARE = 10  # the cache may take one part in so many of the machine's memory
MOST_PARALLEL = 256  # texts: a pass must have room for a token of each
TEXTS_SHARE = 2  # and texts that are being computed
OLDEST_FIRST = 4  # of so many passes with prompts, one goes on with the oldest first


class Engine:
    """Computes for many on one model. A context manager.

    ``parallel``: how many texts are computed at the same time. ``queue``: how many may wait beside them.
    ``cache_bytes``: memory for what was computed of texts, for others that begin alike (None: a tenth of the
    machine's). ``text_bytes``: memory for the texts that are being computed (None: half of the machine's); each may
    fill the whole context, and one that does not fit beside others waits. ``draft``: a smaller model of the same
    vocabulary that guesses at most ``draft_tokens`` at a time, or "mtp", the multi-token-prediction heads of the file,
    which changes the speed and no text. ``store``: a folder for `save` and `restore`. ``prefixes``: a folder in which
    what was computed of texts is kept on a disk as well, at most ``prefix_bytes`` of it; ``notice`` hears, on any
    thread, what of that cannot be used or written. ``told`` is called on the engine's thread when listeners have heard
    all that there is for now: right before a pass of the model, while which others may run Python, or when there is
    nothing more to compute. The model may be used beside the engine,
    though each waits for the other; closing the engine does not close the model.

    A text is the same whatever is computed beside it (see `runner.together`).
    """

    def __init__(
        self,
        model: Model,
        *,
        parallel: int = 8,
        queue: int = 64,
        cache_bytes: int | None = None,
        text_bytes: int | None = None,
        draft: Model | Literal["mtp"] | None = None,
        draft_tokens: int = 8,
        store: str | os.PathLike[str] | None = None,
        prefixes: str | os.PathLike[str] | None = None,
        prefix_bytes: int = 8 << 30,
        notice: Callable[[str], None] | None = None,
        told: Callable[[], None] | None = None,
    ) -> None:
        """ArgumentError where the draft model has another vocabulary, a number is out of range, or there is no such
        folder; OutputError where that for prefixes cannot be made; UnsupportedError where the model has no logits, or
        no head."""
        self.model = model
        self.parallel = check_integer("parallel", parallel, 1, MOST_PARALLEL)
        self.queue = check_integer("queue", queue, 0)
        limit = machine_bytes() // CACHE_SHARE if cache_bytes is None else check_integer("cache_bytes", cache_bytes, 0)
        room = machine_bytes() // TEXTS_SHARE if text_bytes is None else check_integer("text_bytes", text_bytes, 0)
        self._together = model.together(parallel)
        positions = room // model.position_bytes if model.position_bytes else math.inf
        self._disk = None
        if prefixes is not None:
            limit_there = check_integer("prefix_bytes", prefix_bytes, 0)
            self._disk = Disk(Path(prefixes), limit_there, model, notice or (lambda _: None))
        self._places = Places(self._together.slots, limit, positions, self._disk)
        self._pace = Pace(self._together.batch)
        self._drafts = Drafts(model, self._together, draft, draft_tokens)
        self._told = told or _nobody
        self._changed = threading.Condition()
        self._numbers = count(1)
        self._store = None if store is None else Store(Path(store), model)
        self._calls: deque[tuple[Callable[[], int], Future[int]]] = deque()  # for the thread
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._turn = 0  # of prompts: see OLDEST_FIRST
        self._counts = dict.fromkeys(COUNTERS, 0)
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
        self.model.check_prompt(request.prompt)
        job = Job(next(self._numbers), request, listener, self.model)
        with self._changed:
            self._check_open()
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

    # Slots

    def save(self, slot: int, name: str) -> int:
        """Write what a free slot holds to a file of that name in the folder ``store``; returns how many tokens.

        ArgumentError where there is no folder, no such slot that is free, nothing in it, or the name is none (a path,
        say); OutputError where the file cannot be written.
        """
        return self._call(lambda: self._stored().save(self._places.free(slot), name))

    def restore(self, slot: int, name: str) -> int:
        """Let a free slot hold what `save` wrote, for the next text that begins alike; returns how many tokens.

        Errors as of `save`, and CacheError where the file is missing, damaged or of another model, type of cache,
        context or version: then the slot holds nothing.
        """
        return self._call(lambda: self._stored().restore(self._places.free(slot), name))

    def erase(self, slot: int) -> int:
        """Let a free slot hold nothing; returns how many tokens it held. ArgumentError where it is not free."""

        def erased() -> int:
            place = self._places.free(slot)
            held = len(place.tokens)
            place.lose()
            return held

        return self._call(erased)

    def _stored(self) -> Store:
        if self._store is None:
            raise ArgumentError("there is no folder for slots", field="store", remedy="make the Engine with `store`")
        return self._store

    def _call(self, work: Callable[[], int]) -> int:
        """What ``work`` returns or raises on the engine's thread, between two steps."""
        answer: Future[int] = Future()
        with self._changed:
            self._check_open()
            self._calls.append((work, answer))
            self._changed.notify()
        return answer.result()

    def _check_open(self) -> None:
        if self._closing or self._died is not None:
            raise ArgumentError("the engine is closed", path=self.model.path, remedy="make another one of the model")

    # What it does

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
                    job=job.id,
                    prompt_tokens=job.result.prompt_tokens,
                    cached_tokens=job.result.cached_tokens,
                    computed=job.computed,
                    generated=len(job.result.tokens),
                    number=job.slot.number,
                )
                for job in self._running
                if job.slot is not None
            )
            return Stats(
                slots=slots,
                parallel=self.parallel,
                waiting=len(self._waiting),
                queue=self.queue,
                busy_seconds=self._busy_seconds,
                cache_bytes=self._places.kept.nbytes,
                cache_limit=self._places.kept.limit,
                held=tuple(len(slot.tokens) for slot in self._together.slots),
                **self._counts,
            )

    def close(self) -> None:
        """Fail what waits and what is being computed, and end the thread. Not to be called by a listener."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._together.close()
        self._drafts.close()
        if self._disk is not None:
            self._disk.close()

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
                if not self._running:
                    self._told()
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
            while not (self._running or self._waiting or self._calls or self._closing):
                self._changed.wait()
            return not self._closing

    def _step(self) -> None:
        while self._calls:
            work, answer = self._calls.popleft()
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)
        self._sweep()
        self._admit()
        chosen = self._chosen()
        self._told()
        if chosen:
            self._compute(chosen)
            self._sweep()

    def _compute(self, chosen: list[tuple[Job, Run]]) -> None:
        """One pass with what was chosen of each job."""
        begin, rows = time.perf_counter(), sum(len(run.ids) for _, run in chosen)
        try:
            results = self._together.compute([run for _, run in chosen])
        except Exception as error:  # the model is closed, say: nobody can go on
            for job, _ in chosen:
                job.fail(error)
            return
        self._pace.took(rows, time.perf_counter() - begin)
        self._counts["steps"] += 1
        self._counts["rows"] += rows
        for (job, _), result in zip(chosen, results, strict=True):
            if isinstance(result, Exception):
                job.fail(result)
                continue
            before, was_prompt = len(job.result.tokens), not job.result.tokens
            try:
                job.advance(result)
                if was_prompt and job.request.cache:
                    self._places.computed(job, whole=len(result) > 0)
            except Exception as error:  # a grammar that leaves nothing to choose, or fails: no other text's concern
                job.fail(error)
            self._counts["generated_tokens"] += len(job.result.tokens) - before

    def _sweep(self) -> None:
        """Let go of what is over or cancelled."""
        for job in [*self._running, *self._queued()]:
            if job.cancelled:
                job.end("cancelled")
        with self._changed:
            ended = [job for job in (*self._running, *self._waiting) if job.over]
            self._running = [job for job in self._running if not job.over]
            self._waiting = deque(job for job in self._waiting if not job.over)
        for job in ended:
            self._places.leave(job)
            self._drafts.leave(job)
            self._counts[job.outcome] += 1
            for name in ("cached_tokens", "drafted", "accepted"):
                self._counts[name] += getattr(job.result, name)

    def _admit(self) -> None:
        """Begin with as many of those who wait as there is room for, and tell the others where they stand."""
        while self._waiting and len(self._running) < self.parallel:
            job = self._waiting[0]
            if not self._places.fits(job, self._running):
                break
            try:
                self._places.enter(job, self._running)
            except Exception as error:  # no memory, say
                job.fail(error)
                self._sweep()
                continue
            with self._changed:
                self._waiting.popleft()
                self._running.append(job)
            self._counts["prompt_tokens"] += job.result.prompt_tokens
        for position, job in enumerate(self._queued()):
            job.queued(position)

    def _queued(self) -> list[Job]:
        """Who waits now; more may come at any time."""
        with self._changed:
            return list(self._waiting)

    def _chosen(self) -> list[tuple[Job, Run]]:
        """Whose tokens the next pass computes, and which: of all who are decoding, and pieces of prompts."""
        decoding = [job for job in self._running if job.decoding]
        prompts = [job for job in self._running if not job.decoding and self._places.ready(job)]
        room = self._together.batch - len(decoding)
        self._drafts.propose(decoding, room - (1 if prompts else 0))
        chosen, left = [], self._together.batch - (1 if prompts else 0)
        for number, job in enumerate(decoding, 1):
            run = job.run(left - (len(decoding) - number))  # a token for each of the others
            left -= len(run.ids)
            chosen.append((job, run))
        left = min(left + 1, self._pace.piece(beside=len(decoding)))
        for job in self._in_turn(prompts):
            if left > 0:
                run = job.run(left)
                left -= len(run.ids)
                chosen.append((job, run))
        return chosen

    def _in_turn(self, prompts: list[Job]) -> list[Job]:
        """Whose prompts go on: the shortest rests first, but now and then the one that waits longest, so that none
        waits for ever."""
        order = sorted(prompts, key=lambda job: len(job.tokens) - job.computed)
        self._turn = (self._turn + 1) % OLDEST_FIRST
        if order and self._turn == 0:
            order.sort(key=lambda job: job.id)
        return order

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            jobs = [*self._running, *self._waiting]
            self._running, self._waiting, self._since = [], deque(), 0.0
            calls, self._calls = self._calls, deque()
        for _, answer in calls:
            answer.set_exception(error)
        for job in jobs:
            job.fail(error)
            self._counts["failed"] += 1
        self._told()


def _nobody() -> None:
    """Nobody waits for more than what listeners hear."""
