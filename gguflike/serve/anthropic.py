"""/v1/messages and /v1/messages/count_tokens: Anthropic's interface."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gguflike.chat.calls import Called
from gguflike.chat.reading import Said
from gguflike.serve import sse
from gguflike.serve.context import Call, new_id
from gguflike.serve.conversation import CONTENT, Talk, schema_of, text_of, tool_choice_of
from gguflike.serve.errors import refused
from gguflike.serve.parameters import (
    BOOLEAN,
    COMMON,
    ELSEWHERE,
    MODEL,
    OBJECT,
    STRING,
    STRINGS,
    Parameter,
    choice,
    either,
    ignored,
    integer,
    not_done,
    unique,
)
from gguflike.serve.replies import whole
from gguflike.serve.speaking import Answer, Ended, Spoken, answer, prompt_of
from gguflike.serve.validation import Schema

_BLOCK: Schema = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": STRING,
        "text": STRING,
        "thinking": STRING,
        "id": STRING,
        "name": STRING,
        "input": OBJECT,
        "tool_use_id": STRING,
        "content": CONTENT,
    },
}
_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": choice("user", "assistant", "system"),
            "content": either(STRING, {"type": "array", "items": _BLOCK}),
        },
    },
}
_TOOLS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "input_schema": OBJECT,
            "description": STRING,
            "strict": BOOLEAN,
            "type": choice("custom"),  # the others are executed by who answers
        },
    },
}
_CHOICE: Schema = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": choice("auto", "any", "tool", "none"), "name": STRING},
}
#: Our reasons to end, in Anthropic's words.
REASONS: Mapping[str, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

_SHARED = (
    Parameter("messages", _MESSAGES, "The conversation", required=True),
    Parameter("system", CONTENT, "The system prompt"),
    Parameter("tools", _TOOLS, "Functions that the model may call"),
    Parameter("tool_choice", _CHOICE, "auto, any, tool or none"),
    Parameter(
        "thinking",
        {"type": "object", "properties": {"type": choice("enabled", "adaptive", "disabled")}},
        "type: enabled, adaptive or disabled, for templates that know it",
    ),
)
TABLE = unique(
    _SHARED,
    (
        Parameter("max_tokens", integer(1, 1 << 31), "Tokens at most", required=True),
        Parameter("stop_sequences", {**STRINGS, "maxItems": 64}, "The text ends before any of these", to="stop"),
    ),
    not_done({"container": "nothing is executed", "mcp_servers": "no servers are called"}, []),
    (
        Parameter(
            "output_config", OBJECT, "format: json_schema, which is enforced; effort, for templates that know it"
        ),
        Parameter("output_format", OBJECT, "The format alone"),
    ),
    COMMON,
    ELSEWHERE,
    ignored("metadata", "service_tier", "betas", "context_management"),
)
COUNTED = (*_SHARED, MODEL)


def _talk(values: Mapping[str, Any]) -> Talk:
    messages: list[dict[str, Any]] = []
    if "system" in values:
        messages.append({"role": "system", "content": text_of(values["system"], "system")})
    for place, message in enumerate(values["messages"]):
        messages += _converted(message, f"messages[{place}].content")
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool.get("description", ""),
                "parameters": tool.get("input_schema", {"type": "object", "properties": {}}),
                **({"strict": True} if tool.get("strict") else {}),
            },
        }
        for tool in values.get("tools", ())
    ]
    wanted = values.get("tool_choice", {"type": "auto"})
    kind = {"any": "required", "tool": {"type": "function", "function": {"name": wanted.get("name", "")}}}
    choice_ = tool_choice_of(kind.get(wanted["type"], wanted["type"]), tools)
    thinking = values.get("thinking", {}).get("type")
    template: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking != "disabled"}
    asked = values.get("output_config", {})
    if isinstance(asked.get("effort"), str):
        template["reasoning_effort"] = asked["effort"]
    form = values.get("output_format", asked.get("format"))
    if form is not None and not isinstance(form, dict):
        raise refused("output_config.format", "expected an object")
    return Talk(
        messages=messages,
        tools=tools,
        tool_choice=choice_,
        parallel_calls=not wanted.get("disable_parallel_tool_use", False),
        template=template,
        schema=schema_of(form, "output_config.format"),
        continued=messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1],
    )


def _converted(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A message as OpenAI's interface has it: several, where it holds results of tools."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    made: list[dict[str, Any]] = []
    texts, calls, thoughts = [], [], []
    for place, block in enumerate(content):
        kind = block["type"]
        if kind == "text":
            texts.append(block.get("text", ""))
        elif kind == "thinking":
            thoughts.append(block.get("thinking", ""))
        elif kind == "redacted_thinking":
            continue
        elif kind == "tool_use" and role == "assistant":
            function = {"name": block.get("name", ""), "arguments": block.get("input", {})}
            calls.append({"id": block.get("id", ""), "type": "function", "function": function})
        elif kind == "tool_result":
            result = text_of(block.get("content"), f"{where}[{place}].content")
            made.append({"role": "tool", "tool_call_id": block.get("tool_use_id", ""), "content": result})
        else:
            raise refused(f"{where}[{place}]", f"a block of type {kind!r}; this server understands text and tools only")
    if texts or calls or thoughts or not made:
        each: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
        if thoughts:
            each["reasoning_content"] = "\n".join(thoughts)
        if calls:
            each["tool_calls"] = calls
        made.append(each)
    return made


async def count_tokens(call: Call) -> dict[str, int]:
    prompt = await prompt_of(call, _talk(call.values))
    return {"input_tokens": len(prompt.ids)}


async def messages(call: Call) -> Any:
    making = answer(call, _talk(call.values))
    if not call.values.get("stream", False):
        return await sse.while_connected(call.receive, _whole(making))
    made = await making
    return sse.EventStream(_events(made), lambda error: sse.event("error", error.anthropic()), made.close)


async def _whole(making: Any) -> dict[str, Any]:
    made, (reply,) = await whole(making)
    content: list[dict[str, Any]] = []
    if reply.reasoning:
        content.append({"type": "thinking", "thinking": reply.reasoning, "signature": ""})
    if reply.text or not reply.calls:
        content.append({"type": "text", "text": reply.text})
    content += [
        {"type": "tool_use", "id": each.id, "name": each.name, "input": json.loads(each.arguments)}
        for each in reply.calls
    ]
    generation = reply.generation
    return {
        **_head(made),
        "content": content,
        **_stop(reply.reason, generation.stop),
        "usage": _usage(len(made.plan.prompt.ids), generation.cached_tokens, len(generation.tokens)),
    }


def _head(made: Answer) -> dict[str, Any]:
    return {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": made.loaded.name}


def _stop(reason: str, stopped_by: str | None) -> dict[str, Any]:
    if reason == "stop" and stopped_by is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
    return {"stop_reason": REASONS[reason], "stop_sequence": None}


def _usage(prompt: int, cached: int, output: int) -> dict[str, int]:
    return {
        "input_tokens": prompt - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": output,
    }


async def _events(made: Answer) -> AsyncIterator[bytes]:
    """The answer as it comes: blocks one after the other, each begun, added to and ended."""
    prompt = len(made.plan.prompt.ids)
    start = {**_head(made), "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(prompt, 0, 0)}
    yield sse.event("message_start", {"type": "message_start", "message": start})
    blocks = _Blocks()
    async for pieces in made.spoken():
        events: list[bytes] = []
        for _, piece in pieces:
            if isinstance(piece, Spoken):
                for said in piece.said:
                    events += blocks.add(said)
            elif isinstance(piece, Ended):
                events += blocks.end()
                generation = piece.generation
                counts = _usage(prompt, generation.cached_tokens, len(generation.tokens))
                delta = _stop(piece.reason, generation.stop)
                events.append(sse.event("message_delta", {"type": "message_delta", "delta": delta, "usage": counts}))
            else:
                events.append(sse.event("ping", {"type": "ping"}))
        yield b"".join(events)
    yield sse.event("message_stop", {"type": "message_stop"})


class _Blocks:
    """Which block of a message is open."""

    def __init__(self) -> None:
        self._index, self._kind = -1, ""

    def add(self, said: Said | Called) -> list[bytes]:
        if isinstance(said, Called):
            block = {"type": "tool_use", "id": said.id, "name": said.name, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": said.arguments}
            return [*self._begin("tool_use", block), self._delta(delta), *self.end()]
        if said.reasoning:
            begun = self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            return [*begun, self._delta({"type": "thinking_delta", "thinking": said.text})]
        begun = self._begin("text", {"type": "text", "text": ""})
        return [*begun, self._delta({"type": "text_delta", "text": said.text})]

    def _begin(self, kind: str, block: dict[str, Any]) -> list[bytes]:
        if self._kind == kind:
            return []
        ended = self.end()
        self._index, self._kind = self._index + 1, kind
        begun = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*ended, sse.event("content_block_start", begun)]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return sse.event("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})

    def end(self) -> list[bytes]:
        if not self._kind:
            return []
        self._kind = ""
        return [sse.event("content_block_stop", {"type": "content_block_stop", "index": self._index})]
