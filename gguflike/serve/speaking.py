"""A conversation's answer as it comes, for whichever interface tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from gguflike.chat.calls import Called
from gguflike.chat.reading import Said
from gguflike.engine.events import Failed, Finished, Token
from gguflike.serve.answering import Answers
from gguflike.serve.context import Call, jobs_of, reason_of
from gguflike.serve.conversation import Prepared, Talk, prepared
from gguflike.serve.errors import refused
from gguflike.serve.models import Loaded

if TYPE_CHECKING:
    from gguflike.chat import Prompt
    from gguflike.engine import Prefilled, Queued, Request
    from gguflike.runner import Generation


class Spoken(NamedTuple):
    """A piece of a choice: what was said, and the tokens that it was said by."""

    said: list[Said | Called]
    tokens: list[Token]


class Ended(NamedTuple):
    """The end of a choice, and why: "stop", "length" or "tool_calls". So many of its tokens were ``reasoning``."""

    reason: str
    generation: Generation
    reasoning: int


Piece: TypeAlias = "Spoken | Ended | Prefilled | Queued"


class Answer:
    """What is being made of one request: ``close`` it, whatever happens."""

    def __init__(self, loaded: Loaded, plan: Prepared, answers: Answers, choices: int) -> None:
        self.loaded, self.plan = loaded, plan
        self.close = answers.close
        self._answers, self._choices = answers, choices

    async def spoken(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """Pieces with the number of their choice, all that there are. Tokens that say nothing by themselves come with
        later ones."""
        choices = [_Choice(self.plan) for _ in range(self._choices)]
        async for events in self._answers:
            pieces: list[tuple[int, Piece]] = []
            for index, event in events:
                choice = choices[index]
                if isinstance(event, Token):
                    spoken = choice.push(event)
                    if choice.enough:
                        self._answers.cancel(index)
                    if spoken is not None:
                        pieces.append((index, spoken))
                elif isinstance(event, Finished):
                    pieces += [(index, piece) for piece in choice.end(event.generation)]
                else:
                    assert not isinstance(event, Failed)  # which the answers raise
                    pieces.append((index, event))
            if pieces:
                yield pieces


class _Choice:
    """One choice as it is read. ``enough``: it has called a tool, and may call no other."""

    def __init__(self, plan: Prepared) -> None:
        self._reader, self._parallel = plan.prompt.reader(), plan.parallel_calls
        self._tokens: list[Token] = []
        self._reasoning = 0
        self.enough = False

    def push(self, token: Token) -> Spoken | None:
        """What the token completes, if anything."""
        if self.enough:
            return None
        self._tokens.append(token)
        parts = self._taken(self._reader.push(token.text))
        return self._spoken(parts) if parts else None

    def end(self, generation: Generation) -> list[Spoken | Ended]:
        """What is left, and why it ended: with calls, unless it was cut off."""
        reason = "tool_calls" if self.enough else reason_of(generation)
        parts = [] if self.enough else self._taken(self._reader.end(cut=reason == "length"))
        if self._reader.called and reason == "stop":
            reason = "tool_calls"
        pieces: list[Spoken | Ended] = [self._spoken(parts)] if parts or self._tokens else []
        return [*pieces, Ended(reason, generation, self._reasoning)]

    def _taken(self, parts: list[Said | Called]) -> list[Said | Called]:
        """The parts up to a call that is to be the only one."""
        for place, part in enumerate(parts):
            if isinstance(part, Called) and not self._parallel:
                self.enough = True
                return parts[: place + 1]
        return parts

    def _spoken(self, parts: list[Said | Called]) -> Spoken:
        tokens, self._tokens = self._tokens, []
        if parts and all(isinstance(part, Said) and part.reasoning for part in parts):
            self._reasoning += len(tokens)
        return Spoken(parts, tokens)


async def prompt_of(call: Call, talk: Talk) -> Prompt:
    """The prompt that a conversation has, of which nothing is computed."""
    async with call.loaded() as loaded:
        return (await call.texts_done(lambda: prepared(loaded.model, talk))).prompt


async def submitted(
    call: Call, prepare: Callable[[Loaded], tuple[Any, Sequence[Request]]]
) -> tuple[Loaded, Any, Answers]:
    """The model, what ``prepare`` made for it (on another thread), and the jobs. Closing the answers releases it."""
    loaded = await call.server.models.acquire(call.values.get("model"))
    try:
        if loaded.engine is None:
            raise refused("model", f"{loaded.name} makes no text; /v1/embeddings or /v1/rerank may use it")
        plan, jobs = await call.texts_done(lambda: prepare(loaded))
        return loaded, plan, Answers(loaded.engine, loaded.post, jobs, loaded.release, call.server.metrics)
    except BaseException:
        loaded.release()
        raise


async def answer(
    call: Call,
    talk: Talk,
    *,
    choices: int = 1,
    logprobs: int | None = None,
    param: str = "messages",
) -> Answer:
    """Begin to answer a conversation. Every error that can be known before the first token is raised here."""

    def prepare(loaded: Loaded) -> tuple[Prepared, list[Request]]:
        plan = prepared(loaded.model, talk)
        more: dict[str, Any] = {"constraint": plan.constraint, "logprobs": logprobs, "shown": plan.prompt.shown}
        return plan, jobs_of(call.values, call.server, loaded, [plan.prompt.ids], param, choices=choices, **more)

    loaded, plan, answers = await submitted(call, prepare)
    return Answer(loaded, plan, answers, choices)
