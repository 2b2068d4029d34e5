"""What an answer is bound to: calls of tools that must be made, in the model's own format, or JSON of a schema.

Where calls may be made, and a tool is *strict*, the answer is free up to what begins a call in the model's format, and
bound from there to the end of the call. Reasoning before it stays free. The grammar is Lark as llguidance has it:
control tokens by number, texts in quotes, arguments as ``%json`` of their schemas.
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
ANY = r"(.|\n)*"


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
    object or JSON, is that of an answer without calls. ``parallel``: several calls may be made. Where one of the
    tools has ``strict``, calls of all of them are bound, since a call begins before it says of which. ArgumentError for
    a tool that the prompt does not have, and for a schema that cannot be enforced, ArgumentTypeError for one of another
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
    strict = choice == "auto" and any(tool["function"].get("strict") is True for tool in tools)
    if not must and schema is None and not strict:
        return None
    field = "tools" if schema is None else "schema"
    rules = _Rules(grammars, field)
    if not must and schema is None:
        return grammars.lark(rules.text(prompt, [rules.free_with_calls(prompt, tools, parallel)]), "tools")
    bodies = []
    if schema is not None and not must:
        bodies.append(rules.answer(prompt, checked_schema(schema)))
    if tools and choice != "none":
        bodies.append(rules.calls(prompt, tools, parallel))
    return grammars.lark(rules.text(prompt, bodies), field)


class _Rules:
    """Rules of one grammar, as they are made."""

    def __init__(self, grammars: Grammars, field: str) -> None:
        self._grammars, self._field = grammars, field
        self._token, self._control = grammars.token, grammars.control
        self._lines: list[str] = []
        self._without: dict[tuple[str, ...], str] = {}

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
            return f"{self.without(end)} {said}"
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name}[lazy]: TEXT {said}")
        return name

    def without(self, *marks: str, begin: str = "") -> str:
        """Any text in which none of ``marks`` stands, spelled out in letters, and which fits ``begin`` (a regular
        expression of all of it)."""
        key = (begin, *marks)
        if key not in self._without:
            name = self._without[key] = f"WITHOUT{len(self._without)}"
            inside = "|".join(map(_escaped, marks))
            self._lines.append(f"{name}: /{begin or ANY}/ & ~/{ANY}({inside}){ANY}/")
        return self._without[key]

    def value(self, schema: Any) -> str:
        """JSON of a schema."""
        made = dict(schema) if isinstance(schema, Mapping) else {}
        made["x-guidance"] = {"whitespace_pattern": WHITE_SPACE}
        if '"$ref"' in json.dumps(made):  # one that goes round in circles would be found out where a text reaches it
            self._check(made)
        return self.add(f"%json {json.dumps(made)}")

    def _check(self, schema: Mapping[str, Any]) -> None:
        """ArgumentError where a schema by itself cannot be enforced."""
        self._grammars.lark(f"start: %json {json.dumps(schema)}", self._field)

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
        one = self._begun("" if form.bare else f"{self.said(form.begin)} {_opened(form)}", form, tools, parallel)
        if form.listed:
            return one
        first, last = map(self.said, form.quiet) if len(form.quiet) == 2 else ("", "")
        several = f"{one} (GAP {one})*" if parallel and not form.bare else one
        return self.add(f"{first} GAP {several} GAP {last}" if first else several)

    def _begun(self, begin: str, form: Calls, tools: Sequence[Tool], parallel: bool) -> str:
        """A call behind ``begin``, or a list of them behind its bracket."""
        write = _WRITERS[form.syntax]
        if form.syntax not in ("json", "named"):  # the others look into schemas, which have to be right for that
            for tool in tools:
                self._check(_schema(tool))
        if form.listed:
            one = self.add(" | ".join(write(self, tool, form) for tool in tools))
            more = f'(", " {one})*' if parallel else ""
            return self.add(f'{begin} {one} {more} "]" {self.said(form.end)}')
        gap = "GAP" if form.syntax == "json" and form.end else ""
        return self.add(
            " | ".join(f"{begin} {gap} {write(self, tool, form)} {gap} {self.said(form.end)}" for tool in tools)
        )

    # Calls where the model makes them

    def free_with_calls(self, prompt: Prompt, tools: Sequence[Tool], parallel: bool) -> str:
        """Text, and calls wherever it has what begins one. It holds no reasoning, in which calls would be none."""
        form, reasoning = prompt.form.calls, prompt.form.reasoning
        if prompt.form.channels:
            return self._messages(prompt, self.calls(prompt, tools, parallel))
        assert form is not None  # a prompt with tools has one
        thought = () if reasoning is None else (reasoning.begin,)
        # An object that begins an answer is a call where calls may be bare.
        start = rf"[\s\x1c-\x1f]*([^\s\x1c-\x1f{{]{ANY})?" if form.bare else ""
        free = self.without(form.begin, *thought, begin=start)
        markup = [] if form.bare else self._markup_beside(prompt, (form.begin, *thought))
        said = self.add(f"({free} ({' | '.join(markup)}))* {free}") if markup else free
        control = next((token for token in self._control if token in form.begin), None)
        if control is not None:
            # What is written before the control token is text until the token comes.
            begin = f"{said} {self._token(control)} {self.said(form.begin.partition(control)[2])} {_opened(form)}"
        else:
            before = self.without(*thought, begin=start) if thought or start else "TEXT"
            bracket = form.listed and form.syntax == "json"  # without which it may be a word as any other
            name = f"r{len(self._lines)}"
            self._lines.append(f"{name}[lazy]: {before} {json.dumps(form.begin)} {_opened(form) if bracket else ''}")
            begin = f"{name} {'' if bracket else _opened(form)}"
            if markup:
                begin = f"({free} ({' | '.join(markup)}))* {begin}"
            if bracket:
                free = self._words_without_bracket(form, thought)
                said = self.add(f"({free} ({' | '.join(markup)}))* {free}") if markup else free
        call = self._begun(begin, form, tools, parallel)
        bare = f" | GAP {self._begun('', form, tools, parallel=False)} GAP" if form.bare else ""
        return self.add((f"{call}* {said}" if parallel else f"{call} GAP | {said}") + bare)

    def _words_without_bracket(self, form: Calls, thought: Sequence[str]) -> str:
        """Text in which no bracket or brace follows ``begin`` of a form, be there white space and fences between."""
        between = "|".join([r"[ \t\r\n,;]", *map(_escaped, form.words)])
        name = f"WITHOUT{len(self._without)}"
        self._without[form.begin, "["] = name
        marks = "|".join([f"{_escaped(form.begin)}({between})*[\\[{{]", *map(_escaped, thought)])
        self._lines.append(f"{name}: /{ANY}/ & ~/{ANY}({marks}){ANY}/")
        return name

    def _markup_beside(self, prompt: Prompt, marks: Sequence[str]) -> list[str]:
        """The control tokens that may stand in an answer's text, but for those in ``marks``."""
        ends = "" if prompt.form.reasoning is None else prompt.form.reasoning.end
        shown = (
            (text, self._token(text)) for text in self._control if not any(text in mark for mark in (*marks, ends))
        )
        return [token for _, token in shown if int(token[2:-2]) in prompt.shown]

    def _messages(self, prompt: Prompt, call: str) -> str:
        """Messages in channels, the last of which may be a call."""
        ends = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
        if not self.said("<|end|>").startswith("<["):
            raise ArgumentError("cannot be bound: <|end|> is no token of the vocabulary", field="tools")
        text = self.without(*ends)
        next_one = f'{self.said("<|end|>")} {self.said("<|start|>")} "assistant"'
        head = f'{self.said("<|channel|>")} ("analysis" | "commentary" | "final") {self.said("<|message|>")}'
        message = self.add(f"{head} {text}")
        opened = "<|message|>" in prompt.text.rpartition("<|start|>assistant")[2]
        all_of = self.add(f"({message} {next_one})* ({message} | {call})")
        return self.add(f"{text} ({next_one} {all_of})?") if opened else all_of

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


def _opened(form: Calls) -> str:
    """What stands between the begin of a format and the first of its calls."""
    return "".join(f" GAP {json.dumps(word)} GAP" for word in form.words) + ' "["' if form.listed else ""


def _escaped(text: str) -> str:
    """A text as a regular expression of llguidance."""
    letters = {"\n": r"\n", "<": "<", ">": ">", "_": "_"}
    return "".join(letters.get(c, c if c.isalnum() or not c.isascii() else f"\\{c}") for c in text)


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
