"""Requests to an engine and its events back, for all choices of one answer: from its thread to this loop.

What a pass of the model says to however many clients is brought over by waking the loop once, when all of it is said
and the next pass begins: the interpreter runs one thread at a time, and the engine's is the one that must not wait.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gguflike.engine.events import Failed, Finished, Token
from gguflike.errors import ArgumentError, Full, GGUFLikeError
from gguflike.serve.bell import Bell, bell
from gguflike.serve.errors import ApiError, told

if TYPE_CHECKING:
    from gguflike.engine import Engine, Event, Job, Request
    from gguflike.runner.generate import Generation
    from gguflike.serve.metrics import Metrics

RETRY_SECONDS = 2


class Post:
    """Events on their way from one engine's thread to the loop. `send` and `deliver` are for the former, all else for
    the latter. `close` it when the engine has ended."""

    def __init__(self) -> None:
        self._events: deque[tuple[Answers, int, Event]] = deque()
        self._bell: Bell | None = None
        self._called = False  # the loop is going to look

    def open(self) -> None:
        """Deliver on the running loop from now on."""
        if self._bell is None:
            self._bell = bell(self._arrive)

    def close(self) -> None:
        """Deliver what there is, and nothing more."""
        self._arrive()
        rung, self._bell = self._bell, None
        if rung is not None:
            rung.close()

    def send(self, to: Answers, index: int, event: Event) -> None:
        """An event of the choice of that number, to be delivered with those before it."""
        self._events.append((to, index, event))

    def deliver(self) -> None:
        """Wake the loop, where there is anything for it."""
        if self._events and not self._called and self._bell is not None:
            self._called = True
            self._bell.ring()

    def _arrive(self) -> None:
        self._called = False  # before the look: what comes during it has the loop look again
        while self._events:
            to, index, event = self._events.popleft()
            to.receive(index, event)


class Answers:
    """The jobs of one answer, submitted when this is made: 503 where the engine's queue is full. ``metrics`` hears of
    the first token and of every end.

    ``close`` cancels what is not finished and calls ``release``; it must be called, and may be twice.
    """

    def __init__(
        self, engine: Engine, post: Post, requests: Sequence[Request], release: Callable[[], None], metrics: Metrics
    ) -> None:
        post.open()
        self._events: list[tuple[int, Event]] = []
        self._arrived: asyncio.Future[None] | None = None  # where somebody waits for events
        self._release: Callable[[], None] | None = release
        self._metrics, self._begun = metrics, time.monotonic()
        self._jobs: list[Job] = []
        try:
            for index, request in enumerate(requests):
                self._jobs.append(engine.submit(request, partial(post.send, self, index)))
        except BaseException as error:
            self._release = None  # it is the caller's until this is made
            self.close()
            if isinstance(error, Full):
                message = f"the server is busy: {error.what}"
                raise ApiError(503, message, code="queue_full", retry_after=RETRY_SECONDS) from None
            if engine.health() == math.inf:
                raise ApiError(503, "the engine has died; see /health", code="unhealthy", retry_after=60) from error
            raise

    def receive(self, index: int, event: Event) -> None:
        """An event has arrived on the loop."""
        self._events.append((index, event))
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def whole(self) -> list[tuple[Generation, list[Token]]]:
        """What each choice came to, and the tokens that were told of it, when all have ended; then this is closed.
        Failed is raised."""
        tokens: list[list[Token]] = [[] for _ in self._jobs]
        generations: dict[int, Generation] = {}
        try:
            async for events in self:
                for index, event in events:
                    if isinstance(event, Finished):
                        generations[index] = event.generation
                    elif isinstance(event, Token):
                        tokens[index].append(event)
        finally:
            self.close()
        return [(generations[index], told_of) for index, told_of in enumerate(tokens)]

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """Events with the number of their choice, all that have arrived, until every choice has its last. Failed is
        raised."""
        open_ones, first, loop = len(self._jobs), True, asyncio.get_running_loop()
        while open_ones:
            if not self._events:
                self._arrived = loop.create_future()
                await self._arrived
            events, self._events = self._events, []
            for place, (_, event) in enumerate(events):
                if isinstance(event, Token):
                    if first:
                        self._metrics.first_token.add(time.monotonic() - self._begun)
                        first = False
                elif isinstance(event, Finished):
                    self._metrics.generated(event.generation)
                    open_ones -= 1
                elif isinstance(event, Failed):
                    yield events[:place]
                    raise _failure(event.error)
            yield events

    def cancel(self, index: int) -> None:
        """End one choice: its last event comes all the same."""
        self._jobs[index].cancel()

    def close(self) -> None:
        for job in self._jobs:
            job.cancel()
        release, self._release = self._release, None
        if release is not None:
            release()


def _failure(error: Exception) -> Exception:
    """What a job's end by an error means: the request was found to be good before, so it is not at fault."""
    if isinstance(error, ArgumentError):  # the engine was closed
        return ApiError(
            503, "the model is being unloaded, or the server ends", code="closing", retry_after=RETRY_SECONDS
        )
    if isinstance(error, GGUFLikeError):
        return ApiError(500, told(error), code="model_error")
    return error
