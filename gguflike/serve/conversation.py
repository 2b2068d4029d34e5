"""From messages, as either interface has them, to a prompt; from a schema to a grammar; from text to what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gguflike.errors import ArgumentError, TemplateError
from gguflike.frozen import frozen
from gguflike.serve.constraints import constraint
from gguflike.serve.errors import ApiError, refused
from gguflike.serve.parameters import BOOLEAN, OBJECT, STRING, choice, either
from gguflike.serve.validation import Schema, shown

if TYPE_CHECKING:
    from gguflike.chat import Prompt
    from gguflike.grammar import Source
    from gguflike.runner import Model

    Message = dict[str, Any]

#: Roles of older interfaces, and what they are called now.
ROLES: Mapping[str, str] = {"function": "tool"}
#: What is said, as all interfaces have it: a text, or parts of which each has a type; `text_of` takes it.
CONTENT = either(
    STRING,
    {
        "type": "array",
        "items": {"type": "object", "required": ["type"], "properties": {"type": STRING, "text": STRING}},
    },
)
_CALL: Schema = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": STRING, "arguments": either(STRING, OBJECT)},
        },
    },
}
MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": choice("system", "developer", "user", "assistant", "tool", "function"),
        "content": CONTENT,
        "tool_calls": {"type": "array", "items": _CALL},
    },
}
MESSAGES: Schema = {"type": "array", "minItems": 1, "items": MESSAGE}
TOOL: Schema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": choice("function"),
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "description": STRING,
                "parameters": OBJECT,
                "strict": BOOLEAN,
            },
        },
    },
}
TOOLS: Schema = {"type": "array", "items": TOOL, "maxItems": 512}
NAMED: Schema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": choice("function"),
        "function": {"type": "object", "required": ["name"], "properties": {"name": STRING}},
    },
}
ALLOWED: Schema = {
    "type": "object",
    "required": ["type", "allowed_tools"],
    "properties": {
        "type": choice("allowed_tools"),
        "allowed_tools": {
            "type": "object",
            "required": ["mode", "tools"],
            "properties": {
                "mode": choice("auto", "required"),
                "tools": {"type": "array", "minItems": 1, "items": NAMED},
            },
        },
    },
}
TOOL_CHOICE = either(choice("none", "auto", "required"), NAMED, ALLOWED)
#: Parts of a message that hold text, by the names of all interfaces.
_TEXTS = ("text", "input_text", "output_text", "refusal")


@frozen
class Talk:
    """What a conversation asks for, by whichever interface it came.

    ``messages`` are OpenAI's. ``continued``: the last is the assistant's and is gone on with.
    ``tool_choice`` is "auto", "none", "required" or the name of a tool as (name,). ``schema`` is what the answer must
    be: None for text, {} for any object; ``grammar`` the same as GBNF or Lark.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | tuple[str] = "auto"
    parallel_calls: bool = True
    template: Mapping[str, Any] = {}
    continued: bool = False
    schema: Mapping[str, Any] | None = None
    grammar: str | None = None


def text_of(content: Any, where: str) -> str:
    """The text of a message's content. 400 for a part that is none."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for place, part in enumerate(content):
        kind = part["type"]
        if kind not in _TEXTS:
            raise refused(f"{where}[{place}]", f"a part of type {kind!r}; this server understands text only")
        texts.append(str(part.get(kind if kind == "refusal" else "text") or ""))
    return "\n".join(texts)


def allowed_of(value: Any, tools: Sequence[Any]) -> tuple[Any, list[Any]]:
    """OpenAI's tool_choice and the tools that it leaves: of "allowed_tools", its mode and those that it names."""
    if not isinstance(value, dict) or value["type"] != "allowed_tools":
        return value, list(tools)
    wanted = [each["function"]["name"] for each in value["allowed_tools"]["tools"]]
    for name in wanted:
        _check_there(name, tools)
    return value["allowed_tools"]["mode"], [tool for tool in tools if tool["function"]["name"] in wanted]


def _check_there(name: str, tools: Sequence[Mapping[str, Any]]) -> None:
    names = [tool["function"]["name"] for tool in tools]
    if name not in names:
        there = ", ".join(names)[:200] or "none"
        raise refused("tool_choice", f"no tool is called {name!r}; there are {there}")


def tool_choice_of(value: Any, tools: Sequence[Mapping[str, Any]]) -> str | tuple[str]:
    """OpenAI's tool_choice. 400 where it asks for a tool that is not there."""
    if value in (None, "auto"):
        return "auto"
    if value == "none":
        return "none"
    if not tools:
        raise refused("tool_choice", "no tools are given")
    if value == "required":
        return "required"
    wanted = value["function"]["name"]
    _check_there(wanted, tools)
    return (wanted,)


def schema_of(response_format: Any, param: str = "response_format") -> Mapping[str, Any] | None:
    """The schema that OpenAI's response_format asks for, nested or not; {} for any object, None for text."""
    if response_format is None:
        return None
    kind = response_format.get("type")
    if kind is None:
        raise refused(f"{param}.type", "required, but missing", code="missing_required_parameter")
    if kind == "text":
        return None
    inner = response_format.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) and "schema" in inner else response_format.get("schema")
    if schema is not None and not isinstance(schema, dict):
        raise refused(f"{param}.schema", f"expected an object, got {shown(schema)}")
    if kind == "json_object":
        return schema or {}
    if kind != "json_schema":
        raise refused(f"{param}.type", f"expected text, json_object or json_schema; got {str(kind)[:60]!r}")
    if not isinstance(schema, dict):
        raise refused(f"{param}.json_schema.schema", "required, an object")
    return schema


class Prepared(NamedTuple):
    """A prompt, whether several calls may answer it, and the grammar of an answer, if one constrains it."""

    prompt: Prompt
    parallel_calls: bool
    constraint: Source | None


def prepared(model: Model, talk: Talk) -> Prepared:
    """Render and tokenize a conversation. Blocks, for a child process renders. 400 where it cannot be done."""
    if talk.continued and talk.messages[-1]["role"] != "assistant":
        raise refused("continue_final_message", "the last message must be the assistant's")
    try:
        prompt = model.conversations.prompt(
            [{**message, "role": ROLES.get(message["role"], message["role"])} for message in talk.messages],
            tools=None if talk.tool_choice == "none" else list(talk.tools) or None,
            variables=talk.template,
            continue_last=talk.continued,
        )
    except TemplateError as error:
        raise ApiError(400, f"messages: {error}", code="template_error", param="messages") from None
    except ArgumentError as error:
        if error.field != "variables":
            raise
        raise refused("chat_template_kwargs", error.what) from None
    return Prepared(prompt, talk.parallel_calls, constraint(model, prompt, talk))
