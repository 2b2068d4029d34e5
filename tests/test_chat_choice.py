"""Answers that must be calls, or JSON: whatever the masks allow is read as what was asked for, in every format."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gguflike.chat import Called, Prompt, Said
from gguflike.chat.choice import bound
from gguflike.chat.formats import CALLS, REASONING, TOLD, Format, Reasoning
from gguflike.errors import ArgumentError
from gguflike.grammar import Grammars
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import byte_vocabulary

FORMATS = {row.name: row for row in reversed(CALLS)}
THINK = next(row for row in REASONING if row.name == "think")
#: Some of the formats' markup as control tokens, the rest as text.
CONTROL = ("<end>", "<|tool_call>", "[TOOL_CALLS]", "<|channel|>", "<|message|>", "</think>", "<|start|>", "<|end|>")
ENDS = ("<|return|>", "<|call|>")  # with which <|end|> is none
TOKENS = Tokenizer(byte_vocabulary("<|end of text|>", *CONTROL, *ENDS) | {"tokenizer.ggml.eos_token_id": 1})
GRAMMARS = Grammars(TOKENS, TOKENS.vocab_size)


def tool(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}


TOOLS = (
    tool(
        "weather",
        ["city"],
        city={"type": "string", "enum": ["Paris", "Rome"]},
        days={"type": "integer", "minimum": 1, "maximum": 9},
        dry={"type": "boolean"},
    ),
    tool("clock", []),
)


def prompt(form: Format, text: str = "", tools: Any = TOOLS) -> Prompt:
    return Prompt((), text, form, tuple(tools), frozenset(range(2, 9)))


def answers(made: Prompt, count: int = 12, **settings: Any) -> list[tuple[str, list[Said | Called]]]:
    """Random texts that the grammar allows, and what is read in them."""
    source = bound(made, GRAMMARS, **settings)
    assert source is not None
    return [one(made, source.start(), seed) for seed in range(count)]


def one(made: Prompt, grammar: Any, seed: int) -> tuple[str, list[Said | Called]]:
    random, text, reader = np.random.default_rng(seed), "", made.reader()
    decoder, parts = TOKENS.stream(shown=made.shown), []
    for count in range(4000):
        if grammar.finished:
            break
        mask = grammar.mask()
        choices = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        if count > 60 and 1 in choices:  # time to end
            choices = [1]
        token = choices[int(random.integers(len(choices)))]
        grammar.accept(token)
        if token not in TOKENS.eos_ids:
            piece = decoder.push(token)
            text += piece
            parts += reader.push(piece)
    assert grammar.finished
    return text, parts + reader.end()


def check(part: Called, names: tuple[str, ...] = ("weather", "clock")) -> None:
    arguments = json.loads(part.arguments)
    assert part.name in names
    if part.name == "clock":
        assert arguments == {}
        return
    assert arguments["city"] in ("Paris", "Rome")
    assert type(arguments.get("days", 3)) is int
    assert 1 <= arguments.get("days", 3) <= 9
    assert type(arguments.get("dry", True)) is bool
    assert set(arguments) <= {"city", "days", "dry"}


@pytest.mark.parametrize("name", [*FORMATS, "channels"])
def test_calls_are_made(name: str) -> None:
    form = Format(True, None, None) if name == "channels" else Format(False, None, FORMATS[name])
    counts = set()
    for text, parts in answers(prompt(form), 10, choice="required"):
        calls = [part for part in parts if isinstance(part, Called)]
        assert calls, text
        for part in calls:
            check(part)
        if name != "channels":
            assert not "".join(part.text for part in parts if isinstance(part, Said)).strip(), text
        counts.add(len(calls))
    for text, parts in answers(prompt(form), 4, choice=("clock",), parallel=False):
        calls = [part for part in parts if isinstance(part, Called)]
        assert [part.name for part in calls] == ["clock"], text


@pytest.mark.parametrize("name", ["hermes", "mistral list", "glm"])
def test_several_calls(name: str) -> None:
    made = prompt(Format(False, None, FORMATS[name]))
    most = [sum(isinstance(part, Called) for part in parts) for _, parts in answers(made, 20, choice="required")]
    assert max(most) > 1
    single = answers(made, 20, choice="required", parallel=False)
    assert {sum(isinstance(part, Called) for part in parts) for _, parts in single} == {1}


STRICT = tuple({**each, "function": {**each["function"], "strict": True}} for each in TOOLS)


def follow(grammar: Any, ids: list[int]) -> int:
    """How many of ``ids`` the grammar allows, which follows them."""
    for count, token in enumerate(ids):
        if not int(grammar.mask()[token >> 5]) >> (token & 31) & 1:
            return count
        grammar.accept(token)
    return len(ids)


@pytest.mark.parametrize("name", [*FORMATS, "channels"])
@pytest.mark.parametrize("seed", [1, 2])
def test_strict_tools_are_bound_where_the_model_calls_them(name: str, seed: int) -> None:
    form = Format(True, None, None) if name == "channels" else Format(False, None, FORMATS[name])
    made = prompt(form, tools=STRICT)
    source = bound(made, GRAMMARS)
    assert source is not None
    call = next(text for text, _ in answers(made, 99, choice=("weather",), parallel=False) if "Paris" in text)
    first = "" if name == "channels" or (form.calls and form.calls.bare) else "Well: {} [1] "
    # What is right is allowed to its end, and read as a call behind the text.
    grammar, ids = source.start(), TOKENS.encode(first + call, False, True)
    assert follow(grammar, ids) == len(ids), call[follow(source.start(), ids) :]
    text, _ = one(made, grammar, seed)
    reader = made.reader()
    parts = [*reader.push(first + call + text), *reader.end()]
    called = [part for part in parts if isinstance(part, Called)]
    assert called, text
    for part in called:
        check(part)
    assert "".join(part.text for part in parts if isinstance(part, Said)).startswith(first.strip())
    # What is wrong is not: no further than to where it is.
    for right, wrong in (("Paris", "Parix"), ("weather", "weathex")):
        broken = TOKENS.encode((first + call).replace(right, wrong, 1), False, True)
        good = (first + call).partition(right)[0] + right[:-1]
        assert follow(source.start(), broken) <= len(TOKENS.encode(good, False, True))


@pytest.mark.parametrize("name", [*FORMATS, "channels"])
def test_strict_tools_leave_answers_free(name: str) -> None:
    form = Format(True, None, None) if name == "channels" else Format(False, THINK, FORMATS[name])
    made = prompt(form, tools=STRICT)
    source = bound(made, GRAMMARS)
    assert source is not None
    head = "<|channel|>final<|message|>" if name == "channels" else "<think>Action: [</think>\n"
    for text in ("Plain.", "import functools; <b>Action: now</b>\n{}", '[{"name": "x"}] < <|tool ', ""):
        grammar, ids = source.start(), TOKENS.encode(head + text, False, True)
        assert follow(grammar, ids) == len(ids), text
        assert follow(grammar, [1]) == 1
        assert grammar.finished
    for _, parts in (one(made, source.start(), seed) for seed in range(4)):
        for part in parts:
            if isinstance(part, Called):
                check(part)


def test_only_strict_tools_are_bound() -> None:
    made = prompt(Format(False, None, FORMATS["hermes"]), tools=(TOOLS[0], STRICT[1]))
    assert bound(prompt(made.form), GRAMMARS) is None
    assert bound(made, GRAMMARS, choice="none") is None
    source = bound(made, GRAMMARS)
    assert source is not None
    ids = TOKENS.encode('<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn', False, True)
    assert follow(source.start(), ids) < len(ids)  # a call begins before it says of which tool
    broken = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": broken, "strict": True}}
    with pytest.raises(ArgumentError, match="tools"):
        bound(prompt(made.form, tools=(tool,)), GRAMMARS)


SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(("reasoning", "text"), [(None, ""), (THINK, "<think>\n")])
def test_answers_of_a_schema(reasoning: Reasoning | None, text: str) -> None:
    made = prompt(Format(False, reasoning, None), text, ())
    assert made.in_reasoning == bool(text)
    source = bound(made, GRAMMARS, schema=SCHEMA)
    assert source is not None
    grammar = source.start()
    for token in [*TOKENS.encode("Well, <x>.", False, False), 6] if text else []:
        grammar.accept(token)
    whole, parts = one(prompt(Format(False, None, None), "", ()), grammar, 1)
    assert set(json.loads(whole)) == {"a"}
    assert parts


def test_a_schema_or_calls() -> None:
    made = prompt(Format(False, None, FORMATS["hermes"]))
    kinds = set()
    for text, parts in answers(made, 20, schema=SCHEMA):
        if any(isinstance(part, Called) for part in parts):
            kinds.add("call")
        else:
            assert set(json.loads(text)) == {"a"}
            kinds.add("json")
    assert kinds == {"call", "json"}
    assert all(json.loads(text) for text, _ in answers(made, 5, schema=SCHEMA, choice="none"))


def test_what_is_free() -> None:
    made = prompt(Format(False, THINK, FORMATS["hermes"]))
    assert bound(made, GRAMMARS) is None
    assert bound(made, GRAMMARS, choice="none") is None


def test_tools_that_there_are_not() -> None:
    made = prompt(Format(False, None, FORMATS["hermes"]))
    with pytest.raises(ArgumentError, match=r"tool_choice: a call of 'sum' is asked for.*got weather, clock"):
        bound(made, GRAMMARS, choice=("sum",))
    with pytest.raises(ArgumentError, match=r"tool_choice: a call is asked for.*got no tools"):
        bound(prompt(Format(False, None, None), "", ()), GRAMMARS, choice="required")
    for name in ("hermes", "qwen3-coder", "glm", "lfm2", "gemma4", "channels"):
        form = Format(True, None, TOLD) if name == "channels" else Format(False, None, FORMATS[name])
        for schema in ({"$ref": "#"}, {"properties": "x"}, {"required": 5}, {"properties": {"x": {"enum": 5}}}):
            none = {"type": "function", "function": {"name": "f", "description": "", "parameters": schema}}
            with pytest.raises(ArgumentError, match="tools: cannot be enforced"):
                bound(prompt(form, "", [none]), GRAMMARS, choice="required")
    wrong = tool("f", [], x={"type": "array", "uniqueItems": True})
    with pytest.raises(ArgumentError, match=r"tools: cannot be enforced.*uniqueItems"):
        bound(prompt(Format(False, None, FORMATS["hermes"]), "", [wrong]), GRAMMARS, choice="required")
    with pytest.raises(ArgumentError, match=r"schema: cannot be enforced.*uniqueItems"):
        bound(prompt(Format(False, None, None), "", ()), GRAMMARS, schema={"type": "array", "uniqueItems": True})
