"""/v1/responses, without state: who asks sends all of the conversation each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguflike.serve import sse
from gguflike.serve.context import Call
from gguflike.serve.conversation import CONTENT, Talk, allowed_of, schema_of, text_of, tool_choice_of
from gguflike.serve.errors import refused
from gguflike.serve.openai import response_events
from gguflike.serve.parameters import (
    BOOLEAN,
    COMMON,
    ELSEWHERE,
    HARMLESS,
    OBJECT,
    STOP,
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
from gguflike.serve.speaking import answer
from gguflike.serve.validation import Schema

_ITEM: Schema = {
    "type": "object",
    "properties": {
        "type": STRING,
        "role": choice("system", "developer", "user", "assistant"),
        "content": CONTENT,
        "arguments": STRING,
        "name": STRING,
        "call_id": STRING,
        "output": CONTENT,
    },
}
_TOOL: Schema = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": STRING,
        "name": STRING,
        "parameters": OBJECT,
        "strict": BOOLEAN,
    },
}

TABLE = unique(
    (
        Parameter(
            "input",
            either(STRING, {"type": "array", "minItems": 1, "items": _ITEM}),
            "A text, or what was said",
            required=True,
        ),
        Parameter("instructions", STRING, "The system prompt"),
        Parameter("max_output_tokens", integer(1, 1 << 31), "Tokens at most", to="max_tokens"),
        Parameter("tools", {"type": "array", "items": _TOOL, "maxItems": 512}, "Functions that the model may call"),
        Parameter(
            "tool_choice",
            either(
                choice("none", "auto", "required"),
                {"type": "object", "required": ["type"], "properties": {"type": choice("function"), "name": STRING}},
                {
                    "type": "object",
                    "required": ["type", "mode", "tools"],
                    "properties": {
                        "type": choice("allowed_tools"),
                        "mode": choice("auto", "required"),
                        "tools": {"type": "array", "minItems": 1, "items": _TOOL},
                    },
                },
            ),
            "none, auto, required, a function, or allowed_tools",
        ),
        Parameter("parallel_tool_calls", BOOLEAN, "Whether several calls may be made at once"),
        Parameter("text", OBJECT, "format: text, json_object or json_schema; what is asked for is enforced"),
        Parameter("reasoning", OBJECT, "effort: for templates that know it"),
        Parameter("top_logprobs", integer(0, 20), "Tell how likely each token was, and so many others"),
        Parameter("include", STRINGS, "message.output_text.logprobs: tell how likely each token was"),
        Parameter("metadata", OBJECT, "Comes back with the answer"),
        Parameter("chat_template_kwargs", OBJECT, "Variables for the template"),
        STOP,
    ),
    not_done(
        {
            "previous_response_id": "nothing is kept; send the whole conversation",
            "conversation": "nothing is kept; send the whole conversation",
            "background": "answers are not kept; use stream",
            "prompt": "there are no stored prompts",
            "max_tool_calls": "tools are called by you",
        }
    ),
    not_done({"truncation": "a prompt is never cut"}, "disabled"),
    ignored("stream_options"),
    COMMON,
    ELSEWHERE,
    HARMLESS,
)


async def handle(call: Call) -> Any:
    values = call.values
    likely = values.get("top_logprobs")
    if likely is None and "message.output_text.logprobs" in values.get("include", ()):
        likely = 0
    making = answer(call, _talk(values), logprobs=likely, param="input")
    if not values.get("stream", False):
        return await sse.while_connected(call.receive, response_events.whole(making, values))
    made = await making
    events = response_events.Events(made, values)
    return sse.EventStream(events.all(), events.failed, made.close)


def _talk(values: Mapping[str, Any]) -> Talk:
    messages: list[dict[str, Any]] = []
    if "instructions" in values:
        messages.append({"role": "system", "content": values["instructions"]})
    given = values["input"]
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    else:
        for place, item in enumerate(given):
            _add(messages, item, f"input[{place}]")
    tools = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(values.get("tools", ()))]
    wanted = values.get("tool_choice")
    if isinstance(wanted, dict) and wanted["type"] == "allowed_tools":
        listed = {"mode": wanted["mode"], "tools": [_named(tool) for tool in wanted["tools"]]}
        wanted, tools = allowed_of({"type": "allowed_tools", "allowed_tools": listed}, tools)
    elif isinstance(wanted, dict):
        wanted = _named(wanted)
    template = dict(values.get("chat_template_kwargs", {}))
    effort = values.get("reasoning", {}).get("effort")
    if isinstance(effort, str):
        template.setdefault("reasoning_effort", effort)
        if effort == "none":
            template.setdefault("enable_thinking", False)
    form = values.get("text", {}).get("format")
    if form is not None and not isinstance(form, dict):
        raise refused("text.format", "expected an object")
    return Talk(
        messages=messages,
        tools=tools,
        tool_choice=tool_choice_of(wanted, tools),
        parallel_calls=values.get("parallel_tool_calls", True),
        template=template,
        schema=schema_of(form, "text.format"),
    )


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    """An item of the input as a message, or as part of the last one."""
    kind = item.get("type", "message")
    if kind == "message":
        if "role" not in item:
            raise refused(f"{where}.role", "required, but missing")
        said = {"role": item["role"], "content": text_of(item.get("content"), f"{where}.content")}
        if item["role"] == "assistant" and messages and _only_reasons(messages[-1]):
            messages[-1] |= said  # what it reasoned before it said this
        else:
            messages.append(said)
    elif kind == "function_call":
        function = {"name": item.get("name", ""), "arguments": item.get("arguments", "{}")}
        call = {"id": item.get("call_id", ""), "type": "function", "function": function}
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant":
            last.setdefault("tool_calls", []).append(call)
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif kind == "function_call_output":
        text = text_of(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": item.get("call_id", ""), "content": text})
    elif kind == "reasoning":
        texts = [part.get("text", "") for part in item.get("content", ()) if isinstance(part, dict)]
        if any(texts):
            messages.append({"role": "assistant", "content": "", "reasoning_content": "\n".join(texts)})
    else:
        raise refused(f"{where}.type", f"not supported: {str(kind)[:60]!r}", code="unsupported_parameter")


def _only_reasons(message: Mapping[str, Any]) -> bool:
    return "reasoning_content" in message and not message["content"] and "tool_calls" not in message


def _named(value: Mapping[str, Any]) -> dict[str, Any]:
    """A function by its name, as chat completions say it."""
    return {"type": "function", "function": {"name": value.get("name", "")}}


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool["type"] != "function":
        raise refused(
            f"{where}.type", f"only functions can be called, not {tool['type'][:60]!r}", code="unsupported_parameter"
        )
    if not tool.get("name"):
        raise refused(f"{where}.name", "required, but missing")
    function = {
        "name": tool["name"],
        "description": tool.get("description") or "",
        "parameters": tool.get("parameters") or {"type": "object", "properties": {}},
        **({"strict": True} if tool.get("strict") else {}),
    }
    return {"type": "function", "function": function}
