"""Messages, as clients of OpenAI's API send them, in one shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gguflike import jsontext
from gguflike.errors import ArgumentError, ArgumentTypeError, check_text

_EXPECTED = 'a list of {"role": ..., "content": ...}'
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_REASONING = ("reasoning_content", "reasoning", "thinking")

Message = dict[str, Any]


def normalized(messages: Any) -> list[Message]:
    """The messages as templates read them, as dictionaries of their own.

    ``content`` is a string ("" for None, parts joined by line ends), ``tool_calls`` are {"id", "type", "function":
    {"name", "arguments"}} with the arguments as a dictionary, reasoning is ``reasoning_content``. What else a message
    says stays as it is.

    ArgumentTypeError where something is of another kind than it should be, ArgumentError where it is missing, is no
    JSON, or is an image or another thing that is no text. Both name the message.
    """
    return [_normalized(message, field) for field, message in _each(messages)]


def check_messages(messages: Any) -> None:
    """Raise ArgumentTypeError or ArgumentError unless ``messages`` is a list of messages with role and content."""
    for field, message in _each(messages):
        if message.get("content") is None and "tool_calls" not in message:
            raise _without_content(message, field)


def _each(messages: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The messages, each with a role, and what errors call them."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        got = f"{type(messages).__name__} {repr(messages)[:60]}"
        raise ArgumentTypeError("not a conversation", field="messages", expected=_EXPECTED, got=got)
    for number, message in enumerate(messages):
        field = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise ArgumentTypeError("not a message", field=field, expected=_EXPECTED, got=repr(message)[:60])
        check_text(f"{field}: role", message.get("role"))
        yield field, message


def _without_content(message: Mapping[str, Any], field: str) -> ArgumentError:
    return ArgumentError("a message without content", field=field, expected=_EXPECTED, got=repr(message)[:60])


def _normalized(message: Mapping[str, Any], field: str) -> Message:
    made = {str(key): value for key, value in message.items() if value is not None}
    calls = _calls(made, field)
    if "content" not in made and not calls and made["role"] != "assistant":
        raise _without_content(message, field)
    made["content"] = _text(made.get("content", ""), f"{field}: content")
    for name in ("tool_calls", "function_call", *_REASONING):
        made.pop(name, None)
    if calls:
        made["tool_calls"] = calls
    reasoning = next((text for name in _REASONING if (text := message.get(name))), None)
    if reasoning is not None:
        made["reasoning_content"] = _text(reasoning, f"{field}: reasoning_content")
    return made


def _text(content: Any, field: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, bytes | Mapping) or not isinstance(content, Sequence):
        raise ArgumentTypeError("not text", field=field, expected="str, or a list of parts", got=repr(content)[:60])
    return "\n".join(_part(part, f"{field}[{number}]") for number, part in enumerate(content))


def _part(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        expected = '{"type": "text", "text": ...}'
        raise ArgumentTypeError("not a part", field=field, expected=expected, got=repr(part)[:60])
    kind = part.get("type", "text")
    if kind not in _TEXT_PARTS:
        raise ArgumentError("only text can be read", field=field, expected='"type": "text"', got=repr(kind)[:60])
    text = part.get("refusal" if kind == "refusal" else "text")
    check_text(f"{field}: text", text)
    return str(text)


def _calls(message: Message, field: str) -> list[dict[str, Any]]:
    """The calls of a message in the shape of OpenAI's, their arguments as a dictionary."""
    calls = message.get("tool_calls", [])
    if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Sequence):
        raise ArgumentTypeError("not a list of calls", field=f"{field}: tool_calls", got=repr(calls)[:60])
    if "function_call" in message:  # of the API before tools
        calls = [*calls, {"function": message["function_call"]}]
    return [_call(call, f"{field}: tool_calls[{number}]", number) for number, call in enumerate(calls)]


def _call(call: Any, field: str, number: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        expected = '{"function": {"name": ..., "arguments": ...}}'
        raise ArgumentTypeError("not a call", field=field, expected=expected, got=repr(call)[:60])
    check_text(f"{field}: name", function.get("name"))
    made = {"name": function["name"], "arguments": _arguments(function.get("arguments"), field)}
    return {"id": str(call.get("id") or f"call_{number}"), "type": "function", "function": made}


def _arguments(arguments: Any, field: str) -> dict[str, Any]:
    field = f"{field}: arguments"
    if isinstance(arguments, str):
        try:
            arguments = jsontext.parsed(arguments or "{}")
        except ValueError as error:
            raise ArgumentError("not JSON", field=field, expected="an object as JSON", got=str(error)) from error
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise ArgumentTypeError("not an object", field=field, expected="an object", got=repr(arguments)[:60])
    return dict(arguments)


def normalized_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tools as {"type": "function", "function": {"name", "description", "parameters"}}, or None where there are none.

    A description that is missing or null is "", parameters an object without properties. Errors as of ``normalized``.
    """
    if tools is None:
        return None
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise ArgumentTypeError("not a list of tools", field="tools", got=repr(tools)[:60])
    made = []
    for number, tool in enumerate(tools):
        field = f"tools[{number}]"
        if isinstance(tool, Mapping) and tool.get("type", "function") != "function":
            got = repr(tool.get("type"))[:60]
            raise ArgumentError("only functions can be called", field=field, expected='"type": "function"', got=got)
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping):
            expected = '{"type": "function", "function": {"name": ..., "parameters": ...}}'
            raise ArgumentTypeError("not a tool", field=field, expected=expected, got=repr(tool)[:60])
        check_text(f"{field}: name", function.get("name"))
        parameters = function.get("parameters")
        if parameters is None:
            parameters = {"type": "object", "properties": {}}
        if not isinstance(parameters, Mapping):
            expected = "a JSON schema"
            raise ArgumentTypeError("not a schema", field=f"{field}: parameters", expected=expected, got=parameters)
        known = {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
        others = {key: value for key, value in function.items() if function is not tool or key != "type"}
        made.append({"type": "function", "function": {**others, **known}})
    return made or None
