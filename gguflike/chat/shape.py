"""What conversations a template takes, found out by trying, and conversations brought into that shape.

Templates do not say what they take. Some raise errors (system messages, two messages of one role in a row), some leave
out what they do not know (later system messages, tools, calls), some want the arguments of calls as text. What a try
does not show again in the prompt is not taken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gguflike.chat.calls import written
from gguflike.chat.template import render_each
from gguflike.errors import TemplateError
from gguflike.frozen import frozen

if TYPE_CHECKING:
    from gguflike.chat.formats import Calls
    from gguflike.chat.messages import Message

    Tools = list[dict[str, Any]]


@frozen
class Shape:
    """What a template takes."""

    system: bool  # a system message
    systems: bool  # several, also between others
    developer: bool  # messages of that role
    repeated: bool  # two messages of one role in a row
    parts: bool  # content as a list of parts only
    tools: bool
    calls: bool  # calls of the assistant
    results: bool  # of calls
    arguments_as_text: bool
    null_content: bool  # of a message with calls
    parallel: bool  # several calls in one message
    short_ids: bool  # of calls, of nine letters and digits


_USER = {"role": "user", "content": "zqUa"}
_AGAIN = {"role": "user", "content": "zqUb"}
_SAID = {"role": "assistant", "content": "zqAa"}
_SYSTEM = {"role": "system", "content": "zqSa"}
_OTHER = {"role": "system", "content": "zqSb"}
_ID = "zqId12345"
_TOOL = {
    "type": "function",
    "function": {
        "name": "zqTa",
        "description": "zqTd",
        "parameters": {
            "type": "object",
            "properties": {"zqKa": {"type": "string", "description": "zqKd"}},
            "required": ["zqKa"],
        },
    },
}


def _calling(arguments: Any, content: str | None, count: int = 1) -> list[dict[str, Any]]:
    call = {"id": _ID, "type": "function", "function": {"name": "zqTa", "arguments": arguments}}
    result = {"role": "tool", "name": "zqTa", "tool_call_id": _ID, "content": "zqRa"}
    return [_USER, {"role": "assistant", "content": content, "tool_calls": [call] * count}, *[result] * count]


_OBJECT, _TEXT = {"zqKa": "zqVa"}, '{"zqKa": "zqVa"}'
#: Name -> messages, tools, what must be in the prompt.
_TRIES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None, tuple[str, ...]]] = {
    "plain": ([_USER], None, ("zqUa",)),
    "system": ([_SYSTEM, _USER], None, ("zqSa", "zqUa")),
    "systems": ([_SYSTEM, _OTHER, _USER], None, ("zqSa", "zqSb")),
    "later system": ([_SYSTEM, _USER, _SAID, _OTHER, _AGAIN], None, ("zqSa", "zqSb", "zqUb")),
    "developer": ([{**_SYSTEM, "role": "developer"}, _USER], None, ("zqSa",)),
    "repeated": ([_USER, _AGAIN, _SAID, _SAID, _USER], None, ("zqUa", "zqUb")),
    "tools": ([_USER], [_TOOL], ("zqTa", "zqKa")),
    "object": (_calling(_OBJECT, ""), [_TOOL], ("zqTa", "zqVa", "zqRa")),
    "object, null": (_calling(_OBJECT, None), [_TOOL], ("zqTa", "zqVa", "zqRa")),
    "text": (_calling(_TEXT, ""), [_TOOL], ("zqTa", "zqVa", "zqRa")),
    "text, null": (_calling(_TEXT, None), [_TOOL], ("zqTa", "zqVa", "zqRa")),
    **{
        f"parallel {way}": (_calling(arguments, content, 2), [_TOOL], ("zqTa", "zqVa", "zqRa"))
        for way, arguments, content in (("object", _OBJECT, ""), ("text", _TEXT, ""), ("object, null", _OBJECT, None))
    },
}


@lru_cache(maxsize=16)
def shape_of(source: str, bos: str, eos: str) -> Shape:
    """What the template ``source`` takes, whose file has these texts for its special tokens.

    TemplateError where it is wrong, or misbehaves.
    """
    wrong = None
    for parts, needs_tools in ((False, False), (True, False), (False, True), (True, True)):
        texts = _tried(source, bos, eos, parts, needs_tools)
        if not isinstance(texts["plain"], TemplateError):
            break
        wrong = wrong or texts["plain"]
    else:
        raise wrong or AssertionError
    works = {name: _shown(texts[name], words) for name, (_, _, words) in _TRIES.items()}
    way = next((way for way in _WAYS if works[way] and not _misread(texts[way])), None)
    return Shape(
        system=works["system"],
        systems=works["systems"] and works["later system"],
        developer=works["developer"] and "developer" in source,
        repeated=works["repeated"],
        parts=parts,
        tools=works["tools"],
        calls=works["tools"] and way is not None,
        results=any("zqRa" in text for each in _WAYS if isinstance(text := texts[each], str)),
        arguments_as_text=way is not None and way.startswith("text"),
        null_content=way is not None and way.endswith("null"),
        parallel=way is not None and works.get(f"parallel {way}", False),
        short_ids="!= 9" in source,
    )


def _tried(source: str, bos: str, eos: str, parts: bool, needs_tools: bool) -> dict[str, str | TemplateError]:
    """What the template makes of each of ``_TRIES``, with content as ``parts``, or with tools in any case."""
    common = {"bos_token": bos, "eos_token": eos, "unk_token": "", "pad_token": "", "documents": None}
    variables = [
        {
            **common,
            "messages": _in_parts(messages) if parts else messages,
            "tools": [_TOOL] if needs_tools else tools,
            "add_generation_prompt": True,
        }
        for messages, tools, _ in _TRIES.values()
    ]
    return dict(zip(_TRIES, render_each(source, variables), strict=True))


def _in_parts(messages: Sequence[Message]) -> list[Message]:
    """The messages with texts as parts."""
    return [
        {
            **message,
            "content": [{"type": "text", "text": text}] if isinstance(text := message["content"], str) else text,
        }
        for message in messages
    ]


_WAYS = ("object", "object, null", "text", "text, null")


def _shown(text: str | TemplateError, words: Sequence[str]) -> bool:
    return isinstance(text, str) and all(word in text for word in words)


def _misread(text: str | TemplateError) -> bool:
    """Whether arguments stand there as Python writes an object, or as JSON of JSON."""
    return isinstance(text, str) and ("'zqKa': " in text or r"\"zqKa\"" in text)


def shaped(
    messages: Sequence[Message], tools: Tools | None, shape: Shape, form: Calls
) -> tuple[list[Message], Tools | None]:
    """Normalized messages and tools in the shape of a template, whose model writes calls as ``form`` says."""
    made = [dict(message) for message in messages]
    for message in made:
        if message["role"] == "developer" and not shape.developer:
            message["role"] = "system"
    if not shape.calls:
        made = [_with_calls_in_words(message, form) for message in made]
    if not (shape.results and shape.tools):
        made = _with_results_in_words(made)
    if tools and not shape.tools:
        lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        made, tools = [{"role": "system", "content": _INSTRUCTIONS.format(tools=lines)}, *made], None
    systems = [message for message in made if message["role"] == "system"]
    if systems and (not shape.system or (len(systems) > 1 and not shape.systems)):
        together = "\n\n".join(message["content"] for message in systems)
        made = [message for message in made if message["role"] != "system"]
        if shape.system:
            made.insert(0, {**systems[0], "content": together})
        else:
            made = _before_first(together, made)
    if not shape.repeated:
        made = _merged(made)
    if not shape.parallel:
        made = _one_by_one(made)
    _shape_calls(made, shape)
    return _in_parts(made) if shape.parts else made, tools


def _before_first(text: str, messages: list[Message]) -> list[Message]:
    """What a system message says, at the beginning of the first of a user."""
    for place, message in enumerate(messages):
        if message["role"] == "user":
            messages[place] = {**message, "content": f"{text}\n\n{message['content']}"}
            return messages
    return [{"role": "user", "content": text}, *messages]


def _merged(messages: list[Message]) -> list[Message]:
    """Messages of one role in a row as one."""
    made: list[Message] = []
    for message in messages:
        before = made[-1] if made else None
        plain = message["role"] in ("user", "assistant") and "tool_calls" not in message
        if before is not None and plain and before["role"] == message["role"] and "tool_calls" not in before:
            before["content"] = "\n\n".join(filter(None, (before["content"], message["content"])))
        else:
            made.append(message)
    return made


def _one_by_one(messages: list[Message]) -> list[Message]:
    """Several calls of one message in as many messages, each with its result."""
    made: list[Message] = []
    results = {message["tool_call_id"]: message for message in messages if "tool_call_id" in message}
    placed: set[str] = set()
    for message in messages:
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            if message.get("tool_call_id") not in placed:
                made.append(message)
            continue
        for number, call in enumerate(calls):
            made.append({**message, "tool_calls": [call], "content": "" if number else message["content"]})
            if call["id"] in results:
                made.append(results[call["id"]])
                placed.add(call["id"])
    return made


def _shape_calls(messages: list[Message], shape: Shape) -> None:
    ids: dict[str, str] = {}

    def short(name: str) -> str:
        if len(name) == 9 and name.isalnum():
            return name
        return ids.setdefault(name, f"call{len(ids):05d}")

    for message in messages:
        if "tool_calls" in message:
            calls = [{**call, "function": dict(call["function"])} for call in message["tool_calls"]]
            for call in calls:
                if shape.arguments_as_text:
                    call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                if shape.short_ids:
                    call["id"] = short(call["id"])
            message["tool_calls"] = calls
            if shape.null_content and not message["content"]:
                message["content"] = None
        elif "tool_call_id" in message and shape.short_ids:
            message["tool_call_id"] = short(str(message["tool_call_id"]))


# For templates that know no tools

_INSTRUCTIONS = """\
You may call the functions in <tools></tools> to answer:
<tools>
{tools}
</tools>
To call one, answer with nothing but a JSON object with its name and arguments, for each call, in such tags:
<tool_call>
{{"name": <name>, "arguments": <arguments as an object>}}
</tool_call>"""


def _with_calls_in_words(message: Message, form: Calls) -> Message:
    if "tool_calls" not in message:
        return message
    made = {key: value for key, value in message.items() if key != "tool_calls"}
    made["content"] = "\n".join(filter(None, (message["content"], written(message["tool_calls"], form))))
    return made


def _with_results_in_words(messages: Sequence[Message]) -> list[Message]:
    """Results as texts of the user, those of one message's calls together."""
    made: list[Message] = []
    results: list[str] = []
    for message in [*messages, None]:
        if message is not None and message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results:
            made.append({"role": "user", "content": "\n".join(results)})
            results = []
        if message is not None:
            made.append(message)
    return made
