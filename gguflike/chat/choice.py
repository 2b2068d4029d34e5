"""What an answer is bound to: calls of tools that must be made, in the model's own format, or JSON of a schema.

Reasoning before it stays free. The grammar is Lark as llguidance has it: control tokens by number, texts in quotes,
arguments as ``%json`` of their schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gguflike.chat.formats import Calls
from gguflike.errors import ArgumentError
from gguflike.grammar import WHITE_SPACE, checked_schema

if TYPE_CHECKING:
    from gguflike.chat.prompt import Prompt
    from gguflike.grammar import Grammars, Source

Tool = Mapping[str, Any]

EMPTY = '""'


def bound(
    prompt: Prompt,
    grammars: Grammars,
    *,
    choice: str | tuple[str] = "auto",
    schema: Any = None,
    parallel: bool = True,
) -> Source | None:
    """What answers to ``prompt`` must be, or None where they are free.

    ``choice`` is OpenAI's tool_choice: "auto", "none", "required", or the name of a tool in a tuple. ``schema``, an
    object or JSON, is that of an answer without calls. ``parallel``: several calls may be made. ArgumentError for a
    tool that the prompt does not have, and for a schema that cannot be enforced, ArgumentTypeError for one of another
    kind.
    """
    tools = list(prompt.tools)
    if choice not in ("auto", "none", "required"):
        tools = [tool for tool in tools if (tool["function"]["name"],) == choice]
    must = choice not in ("auto", "none")
    if must and not tools:
        names = ", ".join(tool["function"]["name"] for tool in prompt.tools) or "no tools"
        wanted = "a call" if choice == "required" else f"a call of {choice[0]!r}"
        raise ArgumentError(f"{wanted} is asked for, but there is no such tool", field="tool_choice", got=names)
    if not must and schema is None:
        return None
    rules = _Rules(grammars)
    bodies = []
    if schema is not None and not must:
        bodies.append(rules.answer(prompt, checked_schema(schema)))
    if tools and choice != "none":
        bodies.append(rules.calls(prompt, tools, parallel))
    field = "tools" if schema is None else "schema"
    return grammars.lark(rules.text(prompt, bodies), field)


class _Rules:
    """Rules of one grammar, as they are made."""

    def __init__(self, grammars: Grammars) -> None:
        self._token, self._control = grammars.token, grammars.control
        self._lines: list[str] = []

    def text(self, prompt: Prompt, bodies: Sequence[str]) -> str:
        before = self._channel_before() if prompt.form.channels else self._reasoning(prompt)
        start = f"start: {before} ({' | '.join(bodies)})"
        return "\n".join(["%llguidance {}", start, r"TEXT: /(.|\n)*/", r"GAP: /[ \n]{0,3}/", *self._lines])

    def add(self, rule: str) -> str:
        """A rule of its own, by its name."""
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name}: {rule}")
        return name

    def said(self, text: str) -> str:
        """A text that is to be written, with control tokens in it as such."""
        if not text:
            return ""
        whole = self._token(text)
        if whole.startswith("<["):
            return whole
        for token in self._control:  # longest first
            before, found, behind = text.partition(token)
            if found:
                return f"{self.said(before)} {self._token(token)} {self.said(behind)}"
        return whole

    def until(self, end: str) -> str:
        """Any text, and then ``end``."""
        said = self.said(end)
        if said.startswith("<["):
            return f"TEXT {said}"
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name}[lazy]: TEXT {said}")
        return name

    def value(self, schema: Any) -> str:
        """JSON of a schema."""
        made = dict(schema) if isinstance(schema, Mapping) else {}
        made["x-guidance"] = {"whitespace_pattern": WHITE_SPACE}
        return self.add(f"%json {json.dumps(made)}")

    # What comes before

    def _reasoning(self, prompt: Prompt) -> str:
        reasoning = prompt.form.reasoning
        if reasoning is None:
            return ""
        if prompt.in_reasoning:
            return f"{self.until(reasoning.end)} GAP"
        # Whether it reasons is the model's choice.
        return f"GAP ({self.said(reasoning.begin)} {self.until(reasoning.end)} GAP)?"

    def _channel_before(self) -> str:
        analysis = self.said("<|channel|>") + ' "analysis" ' + self.said("<|message|>")
        return f'({analysis} {self.until("<|end|>")} {self.said("<|start|>")} "assistant")?'

    def answer(self, prompt: Prompt, schema: Mapping[str, Any]) -> str:
        value = self.value(schema)
        if not prompt.form.channels:
            return value
        return f'({self.said("<|channel|>")} "final" {self.said("<|message|>")} {value})'

    # Calls

    def calls(self, prompt: Prompt, tools: Sequence[Tool], parallel: bool) -> str:
        form = prompt.form.calls
        if prompt.form.channels:
            header = f'{self.said("<|channel|>")} "commentary to=functions."'
            json_said = f'" " {self.said("<|constrain|>")} "json" {self.said("<|message|>")}'
            each = [f"{json.dumps(_name(tool))} {json_said} {self.value(_schema(tool))}" for tool in tools]
            return self.add(f"{header} ({' | '.join(each)})")
        assert form is not None  # a prompt with tools has one
        write = _WRITERS[form.syntax]
        if form.listed:
            one = self.add(" | ".join(write(self, tool, form) for tool in tools))
            more = f'(", " {one})*' if parallel else ""
            fence = "".join(f" GAP {json.dumps(word)} GAP" for word in form.words)
            return self.add(f'{self.said(form.begin)}{fence} "[" {one} {more} "]" {self.said(form.end)}')
        begin = "" if form.bare else self.said(form.begin)
        gap = "GAP" if form.syntax == "json" and form.end else ""
        one = self.add(
            " | ".join(f"{begin} {gap} {write(self, tool, form)} {gap} {self.said(form.end)}" for tool in tools)
        )
        first, last = map(self.said, form.quiet) if len(form.quiet) == 2 else ("", "")
        several = f"{one} (GAP {one})*" if parallel and not form.bare else one
        return self.add(f"{first} GAP {several} GAP {last}" if first else several)

    def _json_call(self, tool: Tool, form: Calls) -> str:
        name = json.dumps(_name(tool))
        head = f"{{{name}: "
        if form.keys:
            head = "{" + f"{json.dumps(form.keys[0])}: {name}, {json.dumps(form.keys[1])}: "
        return f'{json.dumps(head)} {self.value(_schema(tool))} "}}"'

    def _named_call(self, tool: Tool, form: Calls) -> str:
        pieces = {"{name}": json.dumps(_name(tool)), "{value}": self.value(_schema(tool)), **_MADE_UP}
        pieces |= {f"{{{place}}}": self.said(word) for place, word in enumerate(form.words)}
        ways = [
            " ".join(pieces.get(piece, json.dumps(piece)) for piece in re.split(r"(\{\w+\})", way) if piece)
            for way in form.ways
        ]
        return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"

    def _element_call(self, tool: Tool, form: Calls) -> str:
        function, parameter = form.words
        quote = '"' if function.endswith("name=") else ""
        rules = []
        for key, kind, required in _properties(tool):
            attribute = f' string="{"true" if _is_text(kind) else "false"}"' if form.tells_texts else ""
            opened = self.said(f"<{parameter}{quote}{key}{quote}{attribute}>{form.edge}")
            rule = f"{opened} {self._bare(kind, f'{form.edge}</{form.tags[1]}>')} GAP"
            rules.append(self.add(rule) + ("" if required else "?"))
        opened = self.said(f"<{function}{quote}{_name(tool)}{quote}>")
        if form.begins_tag:
            opened = json.dumps(f'{_name(tool)}">')
            return f"{opened} GAP {' '.join(rules)}"
        return f"GAP {opened} GAP {' '.join(rules)} {self.said(f'</{form.tags[0]}>')} GAP"

    def _pair_call(self, tool: Tool, form: Calls) -> str:
        key, value, separator = form.words
        rules = []
        for name, kind, required in _properties(tool):
            opened = self.said(f"<{key}>{name}</{key}>"), self.said(f"<{value}>")
            rule = f"{opened[0]} GAP {opened[1]} {self._bare(kind, f'</{value}>')} GAP"
            rules.append(self.add(rule) + ("" if required else "?"))
        return f"{json.dumps(_name(tool))} {self.said(separator)} GAP {' '.join(rules)}"

    def _bare(self, kind: Mapping[str, Any], end: str) -> str:
        """A value that is written without quotes, and ``end`` behind it."""
        if not _is_text(kind):
            return f"{self.value(kind)} {self.said(end)}"
        if (texts := _only(kind)) is not None:
            return f"({' | '.join(json.dumps(text) for text in texts)}) {self.said(end)}"
        return self.until(end)

    def _python_call(self, tool: Tool, _: Calls) -> str:
        return f'{json.dumps(_name(tool) + "(")} {self._listed(tool, "=", self.value)} ")"'

    def _gemma_call(self, tool: Tool, form: Calls) -> str:
        def value(kind: Mapping[str, Any]) -> str:
            if _is_text(kind):
                texts, quote = _only(kind), self.said(form.words[0])
                inside = f"({' | '.join(map(json.dumps, texts))}) {quote}" if texts else self.until(form.words[0])
                return f"{quote} {inside}"
            return self.value(kind)

        return f'"call:" {json.dumps(_name(tool) + "{")} {self._listed(tool, ":", value)} "}}"'

    def _listed(self, tool: Tool, sign: str, value: Callable[[Mapping[str, Any]], str]) -> str:
        """Arguments with commas between, in order; those that are not required may lack."""
        made = [
            (self.add(f"{json.dumps(key + sign)} {value(kind)}"), needed) for key, kind, needed in _properties(tool)
        ]
        # From the end: what may follow when something stands before, and when nothing does.
        after, first = "", ""
        for name, needed in reversed(made):
            comma = '", "' if sign == "=" else '","'
            then, alone = after, first
            after = self.add(f"{comma} {name} {then}" + ("" if needed else f" | {then or EMPTY}"))
            first = self.add(f"{name} {then}" + ("" if needed else f" | {alone or EMPTY}"))
        return first


def _name(tool: Tool) -> str:
    return str(tool["function"]["name"])


def _schema(tool: Tool) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = tool["function"]["parameters"]
    return schema


def _properties(tool: Tool) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Name, schema, and whether it is required, of each argument. References in schemas see those of the whole."""
    schema = _schema(tool)
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    required = schema.get("required") or ()
    properties = schema.get("properties") or {}
    return [
        (key, {**shared, **kind} if isinstance(kind, Mapping) else {}, key in required)
        for key, kind in properties.items()
    ]


def _only(kind: Mapping[str, Any]) -> list[Any] | None:
    """The values that there are, where a schema lists them."""
    values: list[Any] | None = kind.get("enum", [kind["const"]] if "const" in kind else None)
    return values


def _is_text(kind: Mapping[str, Any]) -> bool:
    texts = _only(kind)
    return kind.get("type") == "string" or (texts is not None and all(isinstance(text, str) for text in texts))


_MADE_UP = {"{id}": "/[a-z0-9]{1,10}/", "{number}": "/:[0-9]{1,3}/"}
_WRITERS: dict[str, Callable[[_Rules, Tool, Calls], str]] = {
    "json": _Rules._json_call,
    "named": _Rules._named_call,
    "elements": _Rules._element_call,
    "pairs": _Rules._pair_call,
    "python": _Rules._python_call,
    "gemma": _Rules._gemma_call,
}
