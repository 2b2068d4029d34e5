"""/v1/chat/completions"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any

from gguflike.chat.calls import Called
from gguflike.chat.reading import Said
from gguflike.engine.events import Prefilled, Queued
from gguflike.serve import logprobs, sse
from gguflike.serve.context import Call, new_id, now, timings, usage
from gguflike.serve.conversation import MESSAGES, TOOL_CHOICE, TOOLS, Talk, allowed_of, schema_of, tool_choice_of
from gguflike.serve.errors import refused
from gguflike.serve.parameters import (
    BOOLEAN,
    COMMON,
    ELSEWHERE,
    HARMLESS,
    OBJECT,
    STOP,
    STRING,
    TOKENS,
    Parameter,
    choice,
    integer,
    not_done,
    unique,
)
from gguflike.serve.replies import Reply, whole
from gguflike.serve.speaking import Answer, Ended, Spoken, answer, prompt_of

GENERATION_PROMPT = Parameter(
    "add_generation_prompt",
    BOOLEAN,
    "End the prompt with what begins an answer (on by default); must not be true beside continue_final_message",
)
LIMIT = {"anyOf": [TOKENS, {"type": "integer", "enum": [-1]}]}
MOST_CHOICES = 16

TABLE = unique(
    (
        Parameter("messages", MESSAGES, "The conversation", required=True),
        *COMMON,
        Parameter("max_completion_tokens", LIMIT, "Tokens at most; without, and -1: until the end", to="max_tokens"),
        Parameter("max_tokens", LIMIT, "The same, older"),
        Parameter("n_predict", LIMIT, "The same, as llama.cpp has it", to="max_tokens"),
        STOP,
        Parameter("n", integer(1, MOST_CHOICES), "How many answers; each has its own seed: the seed and its number"),
        Parameter("logprobs", BOOLEAN, "Tell how likely each token was"),
        Parameter("top_logprobs", integer(0, 20), "And how likely these many others were"),
        Parameter("stream_options", OBJECT, "include_usage: a last chunk with the counts"),
        Parameter("tools", TOOLS, "Functions that the model may call"),
        Parameter("tool_choice", TOOL_CHOICE, "none, auto, required, a function, or allowed_tools"),
        Parameter("parallel_tool_calls", BOOLEAN, "Whether several calls may be made at once"),
        Parameter("response_format", OBJECT, "text, json_object or json_schema; what is asked for is enforced"),
        Parameter("json_schema", OBJECT, "The schema alone, as llama.cpp has it"),
        Parameter("grammar", STRING, "What the answer must be, in GBNF or Lark"),
        Parameter(
            "reasoning_effort",
            choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
            "For templates that know it",
        ),
        Parameter("chat_template_kwargs", OBJECT, "Variables for the template"),
        Parameter("continue_final_message", BOOLEAN, "Go on with the last message, the assistant's"),
        GENERATION_PROMPT,
        Parameter("return_progress", BOOLEAN, "Tell in chunks how much of the prompt is done"),
    ),
    not_done(
        {"functions": "use tools", "function_call": "use tool_choice", "web_search_options": "nothing is searched"}, []
    ),
    not_done({"audio": "only text is made"}),
    (Parameter("modalities", {}, "", refused="only text is made", neutral=(None, ["text"])),),
    ELSEWHERE,
    HARMLESS,
)


async def handle(call: Call) -> Any:
    values = call.values
    n, stream = values.get("n", 1), values.get("stream", False)
    alternatives = values.get("top_logprobs", 0) if values.get("logprobs") else None
    if values.get("top_logprobs") and not values.get("logprobs"):
        raise refused("top_logprobs", "logprobs must be true")
    making = answer(call, talk_of(values), choices=n, logprobs=alternatives)
    if not stream:
        return await sse.while_connected(call.receive, _whole(making, n, alternatives is not None))
    made = await making
    options = values.get("stream_options") or {}
    with_usage, progress = options.get("include_usage") is True, values.get("return_progress", False)
    return sse.EventStream(_chunks(made, n, with_usage, progress), lambda error: sse.data(error.openai()), made.close)


def talk_of(values: Mapping[str, Any]) -> Talk:
    """The conversation that parameters of this endpoint ask for."""
    wanted, tools = allowed_of(values.get("tool_choice"), values.get("tools", []))
    template = dict(values.get("chat_template_kwargs", {}))
    if "reasoning_effort" in values:
        template.setdefault("reasoning_effort", values["reasoning_effort"])
        if values["reasoning_effort"] == "none":
            template.setdefault("enable_thinking", False)
    continued = values.get("continue_final_message", False)
    if continued and values.get("add_generation_prompt"):
        raise refused("add_generation_prompt", "cannot be true beside continue_final_message")
    if "add_generation_prompt" in values and not continued:
        template.setdefault("add_generation_prompt", values["add_generation_prompt"])
    return Talk(
        messages=values["messages"],
        tools=tools,
        tool_choice=tool_choice_of(wanted, tools),
        parallel_calls=values.get("parallel_tool_calls", True),
        template=template,
        continued=continued,
        schema=values.get("json_schema", schema_of(values.get("response_format"))),
        grammar=values.get("grammar") or None,
    )


async def count_tokens(call: Call) -> dict[str, Any]:
    """The length of the prompt that a request for an answer has."""
    prompt = await prompt_of(call, talk_of(call.values))
    return {"object": "response.input_tokens", "input_tokens": len(prompt.ids)}


async def _whole(making: Any, n: int, likely: bool) -> dict[str, Any]:
    """The answer when it is complete."""
    made, replies = await whole(making, n)
    choices = []
    for index, reply in enumerate(replies):
        told = logprobs.chat(made.loaded.model.tokenizer, reply.tokens) if likely else None
        choices.append(
            {
                "index": index,
                "message": _message(reply),
                "logprobs": None if told is None else {"content": told, "refusal": None},
                "finish_reason": reply.reason,
            }
        )
    generations = [reply.generation for reply in replies]
    return {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": now(),
        "model": made.loaded.name,
        "system_fingerprint": made.loaded.fingerprint,
        "choices": choices,
        "usage": usage(len(made.plan.prompt.ids), generations, sum(reply.reasoning_tokens for reply in replies)),
        "timings": timings(generations[0]),
    }


def _message(reply: Reply) -> dict[str, Any]:
    calls = [
        {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
        for each in reply.calls
    ]
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or (None if calls else ""), "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if calls:
        message["tool_calls"] = calls
    return message


async def _chunks(made: Answer, n: int, with_usage: bool, progress: bool) -> AsyncIterator[bytes]:
    """The answer as it comes: the role once, then deltas, then why it ended, and counts if they were asked for."""
    head = {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": now(),
        "model": made.loaded.name,
        "system_fingerprint": made.loaded.fingerprint,
    }
    begun, calls = [False] * n, [0] * n
    endings: list[Ended] = []
    tokenizer = made.loaded.model.tokenizer

    def document(
        index: int, delta: dict[str, Any], likely: Any = None, reason: str | None = None, **more: Any
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": likely, "finish_reason": reason}
        return {**head, "choices": [choice], **more}

    def chunk(*args: Any, **more: Any) -> bytes:
        return sse.data(document(*args, **more))

    def told(index: int, piece: Spoken) -> Iterator[bytes]:
        if any(token.logprob is not None for token in piece.tokens):
            likely: Any = {"content": logprobs.chat(tokenizer, piece.tokens), "refusal": None}
            for delta in [delta for each in piece.said for delta in _deltas(each, calls, index)] or [{}]:
                yield chunk(index, delta, likely)
                likely = None
            return
        for each in piece.said:
            if isinstance(each, Said) and not each.reasoning:
                yield plain[index](each.text)
            else:
                yield from (chunk(index, delta) for delta in _deltas(each, calls, index))

    def said(index: int, text: str) -> dict[str, Any]:
        return document(index, {"content": text})

    plain = [sse.Frame(partial(said, index)) for index in range(n)]
    async for pieces in made.spoken():
        chunks: list[bytes] = []
        for index, piece in pieces:
            if not isinstance(piece, Spoken | Ended):
                chunks.append(_progress(head, piece) if progress else sse.comment(_words(piece)))
                continue
            if not begun[index]:
                begun[index] = True
                chunks.append(chunk(index, {"role": "assistant", "content": ""}))
            if isinstance(piece, Ended):
                endings.append(piece)
                chunks.append(chunk(index, {}, reason=piece.reason, timings=timings(piece.generation)))
            else:
                chunks += told(index, piece)
        yield b"".join(chunks)
    if with_usage:
        generations = [each.generation for each in endings]
        counts = usage(len(made.plan.prompt.ids), generations, sum(each.reasoning for each in endings))
        yield sse.data({**head, "choices": [], "usage": counts, "timings": timings(endings[0].generation)})
    yield sse.DONE


def _deltas(said: Said | Called, calls: list[int], index: int) -> list[dict[str, Any]]:
    """What a piece adds to the message. A call's id and name stand in its first delta alone."""
    if isinstance(said, Said):
        return [{"reasoning_content" if said.reasoning else "content": said.text}]
    place = calls[index]
    calls[index] += 1
    begin = {"index": place, "id": said.id, "type": "function", "function": {"name": said.name, "arguments": ""}}
    return [
        {"tool_calls": [begin]},
        {"tool_calls": [{"index": place, "function": {"arguments": said.arguments}}]},
    ]


def _words(piece: Prefilled | Queued) -> str:
    return f"queued {piece.position}" if isinstance(piece, Queued) else f"prompt {piece.done}/{piece.total}"


def _progress(head: dict[str, Any], piece: Prefilled | Queued) -> bytes:
    """llama-server's ``prompt_progress``, in a chunk without a choice."""
    if isinstance(piece, Queued):
        return sse.comment(_words(piece))
    told = {"total": piece.total, "cache": piece.held, "processed": piece.done}
    return sse.data({**head, "choices": [], "prompt_progress": told})
