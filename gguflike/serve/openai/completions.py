"""/v1/completions"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gguflike.engine.events import Finished, Token
from gguflike.serve import logprobs, sse
from gguflike.serve.answering import Answers
from gguflike.serve.constraints import constraint_of_text
from gguflike.serve.context import Call, check_ids, jobs_of, new_id, now, reason_of, timings, usage
from gguflike.serve.conversation import schema_of
from gguflike.serve.errors import refused
from gguflike.serve.models import Loaded
from gguflike.serve.openai.chat import LIMIT, MOST_CHOICES
from gguflike.serve.parameters import (
    BOOLEAN,
    COMMON,
    ELSEWHERE,
    HARMLESS,
    MOST_PROMPTS,
    OBJECT,
    STOP,
    STRING,
    Parameter,
    integer,
    listed,
    not_done,
    texts,
    unique,
)
from gguflike.serve.speaking import submitted

if TYPE_CHECKING:
    from gguflike.engine import Request
    from gguflike.runner import Generation

TABLE = unique(
    (
        Parameter(
            "prompt",
            texts(MOST_PROMPTS),
            "A text, texts, token ids, or lists of them",
            required=True,
        ),
        *COMMON,
        Parameter("max_tokens", LIMIT, "Tokens at most (16); -1: until the end"),
        Parameter("max_completion_tokens", LIMIT, "The same", to="max_tokens"),
        Parameter("n_predict", LIMIT, "The same, as llama.cpp has it", to="max_tokens"),
        STOP,
        Parameter("n", integer(1, MOST_CHOICES), "How many continuations of each prompt"),
        Parameter("logprobs", integer(0, 20), "Tell how likely each token was, and so many others"),
        Parameter("echo", BOOLEAN, "Put the prompt before the text"),
        Parameter("stream_options", OBJECT, "include_usage: a last chunk with the counts"),
        Parameter("response_format", OBJECT, "text, json_object or json_schema; what is asked for is enforced"),
        Parameter("json_schema", OBJECT, "The schema alone, as llama.cpp has it"),
        Parameter("grammar", STRING, "What the text must be, in GBNF or Lark"),
    ),
    not_done({"suffix": "text is continued, not filled in"}, ""),
    not_done({"best_of": "use n", "prompt_logprobs": "only what is generated is told"}, 1, 0),
    ELSEWHERE,
    HARMLESS,
)


class _Plan(NamedTuple):
    """Prompts as tokens, and what of each is put before its text."""

    prompts: list[list[int]]
    echoes: list[str]


async def handle(call: Call) -> Any:
    values = call.values
    values.setdefault("max_tokens", 16)
    if values.get("echo") and "logprobs" in values:
        raise refused(
            "echo", "not supported beside logprobs: only what is generated is told", code="unsupported_parameter"
        )
    n = values.get("n", 1)

    def prepare(loaded: Loaded) -> tuple[_Plan, list[Request]]:
        tokenizer = loaded.model.tokenizer
        prompts = [tokenizer.encode(each) if isinstance(each, str) else each for each in listed(values["prompt"])]
        for ids in prompts:
            check_ids(ids, loaded.model.vocab_size, "prompt")
        schema = values.get("json_schema", schema_of(values.get("response_format")))
        source = constraint_of_text(loaded.model, schema, values.get("grammar") or None)
        more: dict[str, Any] = {"constraint": source, "logprobs": values.get("logprobs")}
        jobs = jobs_of(values, call.server, loaded, prompts, "prompt", choices=n, **more)
        echoed = [tokenizer.decode(ids) if values.get("echo") else "" for ids in prompts]
        return _Plan(prompts, echoed), jobs

    making = submitted(call, prepare)
    if not values.get("stream"):
        return await sse.while_connected(call.receive, _whole(call, making, n))
    loaded, plan, answers = await making
    return sse.EventStream(
        _chunks(call, loaded, plan, answers, n), lambda error: sse.data(error.openai()), answers.close
    )


async def _whole(call: Call, making: Any, n: int) -> dict[str, Any]:
    loaded, plan, answers = await making
    likely = "logprobs" in call.values
    choices = []
    made = await answers.whole()
    for index, (generation, tokens) in enumerate(made):
        echo = plan.echoes[index // n]
        told = logprobs.completion(loaded.model.tokenizer, tokens, len(echo)) if likely else None
        choices.append(
            {
                "index": index,
                "text": echo + generation.text,
                "logprobs": told,
                "finish_reason": reason_of(generation),
            }
        )
    return {
        **_head(loaded),
        "choices": choices,
        "usage": usage(sum(map(len, plan.prompts)), [generation for generation, _ in made]),
        "timings": timings(made[0][0]),
    }


def _head(loaded: Loaded) -> dict[str, Any]:
    return {
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": now(),
        "model": loaded.name,
        "system_fingerprint": loaded.fingerprint,
    }


async def _chunks(call: Call, loaded: Loaded, plan: _Plan, answers: Answers, n: int) -> AsyncIterator[bytes]:
    head, tokenizer, likely = _head(loaded), loaded.model.tokenizer, "logprobs" in call.values
    held: dict[int, list[Token]] = {}
    offsets: dict[int, int] = {}
    generations: list[Generation] = []

    def document(index: int, text: str, told: Any = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": told, "finish_reason": reason}
        return {**head, "choices": [choice], **more}

    def chunk(index: int, text: str, reason: str | None = None, **more: Any) -> bytes:
        told = None
        if likely:
            told = logprobs.completion(tokenizer, held.pop(index, []), offsets.get(index, 0))
            offsets[index] = offsets.get(index, 0) + len(text)
        return sse.data(document(index, text, told, reason, **more))

    plain = [sse.Frame(partial(document, index)) for index in range(n * len(plan.prompts))]
    for place, echo in enumerate(plan.echoes):
        for number in range(n if echo else 0):
            yield chunk(place * n + number, echo)
    async for events in answers:
        chunks: list[bytes] = []
        for index, event in events:
            if isinstance(event, Finished):
                generations.append(event.generation)
                chunks.append(chunk(index, "", reason_of(event.generation), timings=timings(event.generation)))
            elif not isinstance(event, Token):
                continue
            elif likely:
                held.setdefault(index, []).append(event)
                if event.text:
                    chunks.append(chunk(index, event.text))
            elif event.text:
                chunks.append(plain[index](event.text))
        if chunks:
            yield b"".join(chunks)
    if (call.values.get("stream_options") or {}).get("include_usage") is True:
        counts = usage(sum(map(len, plan.prompts)), generations)
        yield sse.data({**head, "choices": [], "usage": counts})
    yield sse.DONE
