"""What is written of calls, read: text between the begin and the end of a format to names and arguments.

A function of ``SYNTAXES`` gives all calls of a text, or None where it is not whole or not right: a call is reported
whole or not at all.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from gguflike import jsontext
from gguflike.chat.formats import Calls


class Called(NamedTuple):
    """A call of a tool: ``arguments`` is an object as JSON. ``id`` is the model's own, or one that is made up."""

    id: str
    name: str
    arguments: str


class Call(NamedTuple):
    """A call as it was read."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


Schemas = Mapping[str, Mapping[str, Any]]  # tool -> schema of its arguments
Syntax = Callable[[str, Calls, Schemas], "list[Call] | None"]

_SPACE = " \t\r\n"
_NAMES = ("name", "tool_name", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args")
_IDS = ("id", "tool_call_id", "call_id")


def json_end(text: str, start: int) -> int | None:
    """The place behind the object or array that begins at ``start``; None where it does not end."""
    depth, in_string, place = 0, False, start
    for match in _STRUCTURE.finditer(text, start):
        token, place = match[0], match.end()
        if in_string:
            in_string = token != '"'
        elif token == '"':
            in_string = True
        elif token in "{[":
            depth += 1
        elif token in "}]":
            depth -= 1
            if depth == 0:
                return place
    return None


_STRUCTURE = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


def _skip(text: str, place: int, form: Calls) -> int:
    """The place behind what stands between values in JSON: white space, separators, and the fences of ``words``."""
    fences = form.words if form.syntax == "json" else ()
    while place < len(text):
        fence = next((word for word in fences if text.startswith(word, place)), "")
        if not fence and text[place] not in _SPACE + ",;":
            break
        place += len(fence) or 1
    return place


def json_region(text: str, form: Calls) -> int | None:
    """Where calls in JSON end, their ``end`` included; None where more is to come."""
    place = 0
    if form.syntax == "named":
        found = text.find(form.words[0])
        if found < 0:
            return None if not form.end or form.end not in text else text.index(form.end) + len(form.end)
        place = found + len(form.words[0])
        brace = text.find("{", place)  # behind a fence, say
        if brace < 0:
            return None
        place = brace
    begin = _skip(text, place, form)
    while True:
        place = _skip(text, place, form)
        if place >= len(text):
            return None
        if text[place] not in "{[":
            if place == begin and form.syntax == "json" and form.words:
                # Words that often begin no calls, which need not be held back.
                return None if any(word.startswith(text[place:]) for word in form.words) else place
            break
        end = json_end(text, place)
        if end is None:
            return None
        place = end
        if not form.end:
            return place
    at = text.find(form.end, place) if form.end else place
    if at < 0:
        return None
    return at + len(form.end)


def read_json(text: str, form: Calls) -> list[Call] | None:
    """{"name": ..., "arguments": {...}}, one, several, or in an array; other names for both are known."""
    place, values = 0, []
    while True:
        place = _skip(text, place, form)
        if place >= len(text):
            break
        try:
            value, place = jsontext.first(text, place)
        except ValueError:
            return None
        values += value if isinstance(value, list) else [value]
    calls = [_json_call(value) for value in values]
    return None if None in calls or not calls else [call for call in calls if call is not None]


def _json_call(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        value = {**value, **inner}
    elif isinstance(inner, str):
        value = {"name": inner, **value}
    name = next((value[key] for key in _NAMES if key in value), None)
    if name is None and len(value) == 1 and isinstance(next(iter(value.values())), dict):  # {name: arguments}
        ((name, arguments),) = value.items()
    else:
        arguments = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return Call(name, arguments, str(next((value[key] for key in _IDS if value.get(key)), "")))


def _parsed(text: str) -> Any:
    try:
        return jsontext.parsed(text)
    except ValueError:
        return None


def read_named(text: str, form: Calls) -> list[Call] | None:
    """name, ``words[0]``, arguments as JSON, which may be in a fence; ``words[1]`` parts an id from the name."""
    head, found, rest = text.partition(form.words[0])
    if not found:
        return None
    name, identity = head.strip(), ""
    brace = rest.find("{")
    if brace < 0:
        return None
    before, rest = rest[:brace].strip(), rest[brace:]
    if before:  # "function", then the name, then ```json
        name = before.split("\n", 1)[0].strip()
    if len(form.words) > 1 and form.words[1] in name:
        first, second = (part.strip() for part in name.split(form.words[1], 1))
        name, identity = (second, first) if form.ways[0].startswith("{id}") else (first, second)
    if match := _NUMBERED.fullmatch(name):
        name, identity = match[1], name
    end = json_end(rest, 0)
    arguments = None if end is None else _parsed(rest[:end])
    if not isinstance(arguments, dict) or not name or rest[end:].strip(" \t\r\n`"):
        return None
    return [Call(name, arguments, identity)]


_NUMBERED = re.compile(r"(?:functions\.)?([^:\s]+):\d+")


def read_elements(text: str, form: Calls, schemas: Schemas) -> list[Call] | None:
    """<function=name><parameter=key>value</parameter>...</function>; ``words`` are the two tags up to the names."""
    (function, parameter), tags = map(re.escape, form.words), [*map(re.escape, form.tags)]
    if form.begins_tag:
        text = form.begin + text + form.end
    outer = re.compile(rf"\s*<{function}\"?([^\">]+)\"?[^>]*>(.*?)</{tags[0]}>\s*", re.DOTALL)
    each = re.compile(rf"\s*<{parameter}\"?([^\">]+)\"?([^>]*)>(.*?)</{tags[1]}>\s*", re.DOTALL)
    calls, place = [], 0
    while place < len(text):
        match = outer.match(text, place)
        if match is None:
            return None
        name, arguments, at = match[1].strip(), {}, 0
        body = match[2]
        while at < len(body) and body[at:].strip():
            found = each.match(body, at)
            if found is None:
                return None
            key = found[1].strip()
            kind = {' string="true"': "string", ' string="false"': "json"}.get(found[2].rstrip(), "")
            arguments[key] = typed(found[3], schemas.get(name, {}), key, kind)
            at = found.end()
        calls.append(Call(name, arguments))
        place = match.end()
    return calls or None


def read_pairs(text: str, form: Calls, schemas: Schemas) -> list[Call] | None:
    """name, then <arg_key>key</arg_key><arg_value>value</arg_value>...; ``words`` are both tags and a separator."""
    key, value, separator = form.words
    pair = re.compile(rf"\s*<{key}>(.*?)</{key}>\s*<{value}>(.*?)</{value}>\s*", re.DOTALL)
    head, found, rest = text.partition(f"<{key}>")
    name, rest = head.replace(separator, "").strip() if separator else head.strip(), found + rest
    arguments, place = {}, 0
    while place < len(rest):
        match = pair.match(rest, place)
        if match is None:
            return None
        arguments[match[1].strip()] = typed(match[2], schemas.get(name, {}), match[1].strip(), "")
        place = match.end()
    return [Call(name, arguments)] if name and not set(name) & set(" \n<>") else None


def typed(text: str, schema: Mapping[str, Any], key: str, kind: str) -> Any:
    """An argument that is written without quotes, by its type in the ``schema`` of all arguments.

    ``kind`` is "string" or "json" where the format says it. What is not said is JSON if it can be, else a string.
    """
    properties = schema.get("properties")
    wanted = properties.get(key) if isinstance(properties, Mapping) else None
    types = wanted.get("type") if isinstance(wanted, Mapping) else None
    names = {types} if isinstance(types, str) else set(types) if isinstance(types, Sequence) else set()
    bare = text.removeprefix("\n").removesuffix("\n")
    if kind == "string" or (not kind and names == {"string"}):
        return bare.removeprefix("<![CDATA[").removesuffix("]]>")
    bare = bare.removeprefix("<![CDATA[").removesuffix("]]>")
    value = _parsed(bare.strip())
    if value is None and bare.strip() != "null":
        return _in_python_notation(bare, names)
    return bare if isinstance(value, int | float) and not kind and "string" in names else value


def _in_python_notation(text: str, names: Collection[str]) -> Any:
    """The value of what is no JSON, where the schema wants no text and it is as Python writes it; else the text."""
    if not names or "string" in names:
        return text
    try:
        return _literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


def read_python(text: str) -> list[Call] | None:
    """[name(key='value', ...), ...] as Python writes it, with literals alone."""
    try:
        tree: Any = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    calls = []
    for node in tree.elts if isinstance(tree, ast.List) else [tree]:
        if not isinstance(node, ast.Call) or node.args:
            return None
        name = ast.unparse(node.func)
        try:
            arguments = {word.arg: _literal(word.value) for word in node.keywords if word.arg is not None}
        except ValueError:
            return None
        if len(arguments) < len(node.keywords):
            return None
        calls.append(Call(name, arguments))
    return calls or None


def _literal(node: ast.expr) -> Any:
    """The value of a literal of Python, or of JSON. ValueError where it is none."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value) if value != math.inf:
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {str(_literal(key)): _literal(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value != math.inf:
            return -value
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
    raise ValueError(ast.dump(node)[:60])


_CONSTANTS = {"true": True, "false": False, "null": None}


def read_gemma(text: str, form: Calls) -> list[Call] | None:
    """call:name{key:value,...}; strings are between two of ``words[0]``, objects and arrays as in JSON."""
    match = re.fullmatch(r"\s*call:([^{\s]+)\s*(\{.*\})\s*", text, re.DOTALL)
    if match is None:
        return None
    # Strings become JSON's, and bare keys too.
    parts = match[2].split(form.words[0])
    if len(parts) % 2 == 0:
        return None
    made = [
        json.dumps(part) if number % 2 else re.sub(r"([{,]\s*)([A-Za-z_][^\s:{},\[\]\"]*)\s*:", r'\1"\2":', part)
        for number, part in enumerate(parts)
    ]
    arguments = _parsed("".join(made))
    return [Call(match[1], arguments)] if isinstance(arguments, dict) else None


SYNTAXES: dict[str, Syntax] = {
    "json": lambda text, form, schemas: read_json(text, form),  # noqa: ARG005
    "named": lambda text, form, schemas: read_named(text, form),  # noqa: ARG005
    "elements": read_elements,
    "pairs": read_pairs,
    "python": lambda text, form, schemas: read_python(text),  # noqa: ARG005
    "gemma": lambda text, form, schemas: read_gemma(text, form),  # noqa: ARG005
}


def written(calls: Sequence[Mapping[str, Any]], form: Calls) -> str:
    """Calls (as of ``messages.normalized``) as a model with this format writes them; as JSON in tags where it has a
    syntax that only templates write."""
    functions = [call["function"] for call in calls]
    if form.syntax == "python":
        return f"{form.begin}[{', '.join(map(_in_python, functions))}]{form.end}"
    if form.syntax == "json" and form.listed:
        return f"{form.begin}[{', '.join(_in_json(each, form.keys) for each in functions)}]{form.end}"
    return "\n".join(f"<tool_call>\n{_in_json(each, ('name', 'arguments'))}\n</tool_call>" for each in functions)


def _in_json(function: Mapping[str, Any], keys: Sequence[str]) -> str:
    name, arguments = function["name"], function["arguments"]
    value = {keys[0]: name, keys[1]: arguments} if keys else {name: arguments}
    return json.dumps(value, ensure_ascii=False)


def _in_python(function: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in function["arguments"].items())
    return f"{function['name']}({arguments})"
