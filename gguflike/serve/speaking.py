"""A conversation's answer as it comes, for whichever interface tells it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gguflike.engine.events import Failed, Finished, Token
from gguflike.serve.answering import Answers
from gguflike.serve.context import Server, job_of, reason_of
from gguflike.serve.conversation import Called, Prepared, Said, Talk, prepared
from gguflike.serve.errors import refused
from gguflike.serve.models import Loaded

if TYPE_CHECKING:
    from gguflike.engine import Prefilled, Queued, Request
    from gguflike.runner import Generation


class Spoken(NamedTuple):
    """A piece of a choice: what was said, and the tokens that it was said by."""

    said: list[Said | Called]
    tokens: list[Token]


class Ended(NamedTuple):
    """The end of a choice, and why: "stop", "length" or "tool_calls"."""

    reason: str
    generation: Generation


class Answer:
    """What is being made of one request: ``close`` it, whatever happens."""

    def __init__(self, server: Server, loaded: Loaded, plan: Prepared, answers: Answers, choices: int) -> None:
        self.server, self.loaded, self.plan = server, loaded, plan
        self.begun = time.monotonic()
        self.close = answers.close
        self._answers, self._choices = answers, choices

    async def spoken(self) -> AsyncIterator[tuple[int, Spoken | Ended | Prefilled | Queued]]:
        """Pieces with the number of their choice. Tokens that say nothing by themselves come with later ones."""
        readers = [self.plan.reader() for _ in range(self._choices)]
        held: list[list[Token]] = [[] for _ in readers]
        called = [False] * self._choices
        first = True
        async for index, event in self._answers:
            if isinstance(event, Token):
                if first:
                    self.server.metrics.first_token.add(time.monotonic() - self.begun)
                    first = False
                held[index].append(event)
                said = readers[index].push(event.text)
            elif isinstance(event, Finished):
                said = readers[index].end()
            else:
                assert not isinstance(event, Failed)  # which the answers raise
                yield index, event
                continue
            if said:
                called[index] = called[index] or any(isinstance(each, Called) for each in said)
                yield index, Spoken(said, held[index])
                held[index] = []
            if isinstance(event, Finished):
                if held[index]:
                    yield index, Spoken([], held[index])
                self.server.metrics.generated(event.generation)
                reason = reason_of(event.generation)
                yield index, Ended("tool_calls" if called[index] and reason == "stop" else reason, event.generation)


async def submitted(
    server: Server,
    name: str | None,
    prepare: Callable[[Loaded], tuple[Any, Sequence[Request]]],
) -> tuple[Loaded, Any, Answers]:
    """The model, what ``prepare`` made for it (on another thread), and the jobs. Closing the answers releases it."""
    loaded = await server.models.acquire(name)
    try:
        if loaded.engine is None:
            raise refused("model", f"{loaded.name} makes no text; /v1/embeddings or /v1/rerank may use it")
        plan, jobs = await asyncio.to_thread(prepare, loaded)
        return loaded, plan, Answers(loaded.engine, jobs, loaded.release)
    except BaseException:
        loaded.release()
        raise


async def answer(
    server: Server,
    values: Mapping[str, Any],
    talk: Talk,
    *,
    choices: int = 1,
    logprobs: int | None = None,
    param: str = "messages",
) -> Answer:
    """Begin to answer a conversation. Every error that can be known before the first token is raised here."""

    def prepare(loaded: Loaded) -> tuple[Prepared, list[Request]]:
        plan = prepared(loaded.model, talk)
        jobs = []
        for number in range(choices):
            seed = values.get("seed")
            given = values if seed is None or seed < 0 else {**values, "seed": (seed + number) % (1 << 64)}
            grammar = plan.grammar() if plan.grammar is not None else None
            jobs.append(job_of(given, server, loaded, plan.prompt, param, grammar=grammar, logprobs=logprobs))
        return plan, jobs

    loaded, plan, answers = await submitted(server, values.get("model"), prepare)
    return Answer(server, loaded, plan, answers, choices)
