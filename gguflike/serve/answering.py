"""Requests to an engine and its events back, for all choices of one answer: from its thread to this loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from gguflike.engine.events import Failed, Finished, Token
from gguflike.errors import ArgumentError, Full, GGUFLikeError
from gguflike.serve.errors import ApiError, told

if TYPE_CHECKING:
    from gguflike.engine import Engine, Event, Job, Request
    from gguflike.serve.metrics import Metrics

RETRY_SECONDS = 2


class Answers:
    """The jobs of one answer, submitted when this is made: 503 where the engine's queue is full. ``metrics`` hears of
    the first token and of every end.

    ``close`` cancels what is not finished and calls ``release``; it must be called, and may be twice.
    """

    def __init__(
        self, engine: Engine, requests: Sequence[Request], release: Callable[[], None], metrics: Metrics
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, Event]] = deque()
        self._filled = asyncio.Event()
        self._release: Callable[[], None] | None = release
        self._metrics, self._begun = metrics, time.monotonic()
        self._jobs: list[Job] = []
        try:
            for index, request in enumerate(requests):
                self._jobs.append(engine.submit(request, self._listener(index)))
        except BaseException as error:
            self._release = None  # it is the caller's until this is made
            self.close()
            if isinstance(error, Full):
                message = f"the server is busy: {error.what}"
                raise ApiError(503, message, code="queue_full", retry_after=RETRY_SECONDS) from None
            if engine.health() == math.inf:
                raise ApiError(503, "the engine has died; see /health", code="unhealthy", retry_after=60) from error
            raise

    def _listener(self, index: int) -> Callable[[Event], None]:
        def heard(event: Event) -> None:
            """Called on the engine's thread. The loop is woken once for all events that it has not taken yet."""
            self._events.append((index, event))
            if len(self._events) == 1:
                with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the server
                    self._loop.call_soon_threadsafe(self._filled.set)

        return heard

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Events with the number of their choice, until every choice has its last. Failed is raised."""
        open_ones, first = len(self._jobs), True
        while open_ones:
            self._filled.clear()
            while self._events:
                index, event = self._events.popleft()
                if isinstance(event, Failed):
                    raise _failure(event.error)
                if isinstance(event, Token) and first:
                    self._metrics.first_token.add(time.monotonic() - self._begun)
                    first = False
                elif isinstance(event, Finished):
                    self._metrics.generated(event.generation)
                    open_ones -= 1
                yield index, event
            if open_ones:
                await self._filled.wait()

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
