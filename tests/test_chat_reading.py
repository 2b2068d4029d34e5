"""What models say back: every format of spec/chat.md, however its text is cut, and what is broken or cut off."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflike.chat import Called, ChannelReader, Chat, Reader, Said
from gguflike.chat.calls import Call, read_python, typed, written
from gguflike.chat.formats import CALLS, REASONING, TOLD, Format, Reasoning, format_of
from gguflike.runner.tokenizer import Tokenizer
from tests.small_tokenizers import byte_vocabulary

PAGE = (Path(__file__).parent.parent / "spec" / "chat.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### (.+?)\n.*?```text\n(.*?)\n```\n", PAGE, re.MULTILINE | re.DOTALL))
FORMATS = {row.name: row for row in reversed(CALLS)}
THINK = next(row for row in REASONING if row.name == "think")


def tool(name: str, **properties: str) -> dict[str, Any]:
    kinds = {key: {"type": kind} for key, kind in properties.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": kinds}}}


TOOLS = [tool("weather", city="string", days="integer"), tool("clock", zone="string")]
WANT = [("weather", {"city": "Paris", "days": 3}), ("clock", {"zone": "UTC"})]


def reader(name: str, reasoning: Reasoning | None = THINK, **more: Any) -> Reader | ChannelReader:
    if name == "channels":
        return ChannelReader(identify=lambda: "made up")
    return Reader(Format(False, reasoning, FORMATS[name]), tools=TOOLS, identify=lambda: "made up", **more)


def read(made: Reader | ChannelReader, *pieces: str, cut: bool = False) -> list[Said | Called]:
    return [part for piece in pieces for part in made.push(piece)] + made.end(cut)


def said(parts: list[Said | Called], reasoning: bool = False) -> str:
    return "".join(part.text for part in parts if isinstance(part, Said) and part.reasoning == reasoning)


def calls(parts: list[Said | Called]) -> list[tuple[str, Any]]:
    return [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, Called)]


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(FORMATS) | {"channels"}
    for row in CALLS:
        for mark in row.marks:
            assert f"`{mark}`" in PAGE
    for row in REASONING:
        assert f"| {row.name} | `{row.begin.strip()}` | `{row.end}` |" in PAGE


@pytest.mark.parametrize("name", EXAMPLES)
def test_calls(name: str) -> None:
    text = EXAMPLES[name]
    for pieces in ([text], list(text), re.split(r"(?<=[>\]}])", text)):
        made = reader(name)
        parts = read(made, *pieces)
        assert calls(parts) == WANT
        assert said(parts) == said(parts, True) == ""
        assert made.called
    assert all(part.id for part in parts if isinstance(part, Called))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "channels"])
def test_words_before_and_reasoning(name: str) -> None:
    before = "" if name == "llama3" else "Let me look [1].\n\n"
    for opened in (False, True):
        text = ("" if opened else "<think>\n") + f"The user wants <x>.\n</think>\n\n{before}{EXAMPLES[name]}"
        parts = read(reader(name, reasoning=THINK) if not opened else opened_reader(name), *text)
        assert said(parts, True).strip() == "The user wants <x>."
        assert said(parts) == before.rstrip()
        assert calls(parts) == WANT


def opened_reader(name: str) -> Reader:
    return Reader(Format(False, THINK, FORMATS[name]), tools=TOOLS, reasoning=True)


@pytest.mark.parametrize("name", EXAMPLES)
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1))
def test_what_is_cut_off_is_no_call(name: str, share: float) -> None:
    """At any place: only calls that stand there whole are reported, and nothing of the rest."""
    text = EXAMPLES[name]
    kept = text[: int(share * len(text))]
    parts = read(reader(name), *kept, cut=True)
    got = calls(parts)
    assert got == WANT[: len(got)]
    assert len(got) == 2 or kept != text or name in ("mistral", "llama3")
    shown = said(parts)
    assert "Paris" not in shown
    assert "UTC" not in shown


@pytest.mark.parametrize(
    "name", ["hermes", "mistral list", "deepseek", "qwen3-coder", "glm", "lfm2", "gemma4", "channels"]
)
def test_what_is_no_call_is_said(name: str) -> None:
    broken = re.sub(r'"city": |<parameter=city>|</?arg_key>|city=|city:|"arguments"', "%%(", EXAMPLES[name], count=1)
    assert broken != EXAMPLES[name]
    parts = read(reader(name), broken)
    assert ("weather", WANT[0][1]) not in calls(parts)
    assert "%%(" in said(parts)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["hermes", "mistral list", "deepseek", "llama3", "gemma4", "channels"])
def test_numbers_that_no_json_has_make_no_call(name: str, number: str) -> None:
    """What is reported of a call is JSON, which its reader has to parse."""
    broken = re.sub(r'("days": ?|days:)\d+', rf"\g<1>{number}", EXAMPLES[name], count=1)
    assert broken != EXAMPLES[name]
    parts = read(reader(name), broken)
    assert calls(parts) in ([], WANT[1:])
    assert number in said(parts)


def test_plain_words_flow() -> None:
    for form in (Format(False, None, None), Format(False, THINK, None), Format(False, THINK, FORMATS["hermes"])):
        made = Reader(form, tools=TOOLS)
        assert made.push("One <") in ([Said("One <")], [Said("One")])
        assert said(made.push(" two <tool") + made.push("s> three\n") + made.end()) in (
            " two <tools> three\n",
            " < two <tools> three\n",
        )
        assert not made.called


@pytest.mark.parametrize(
    "text", ["", "Hi", " Hi \n", "a < b", "<", "<think", "{", '{"a": 1}', "[1]", "\n\nx\n\n", "```json\n{}\n```"]
)
def test_words_stay_as_they_are(text: str) -> None:
    for name in ("hermes", "mistral list", "llama3", "glm"):
        assert said(read(reader(name, None), *text)) == text
    assert said(read(Reader(Format(False, None, None)), text)) == text


def test_reasoning() -> None:
    form = Format(False, THINK, None)
    assert read(Reader(form), "<think>\nwhy\n</think>\n\nso") == [Said("why", True), Said("so")]
    assert read(Reader(form, reasoning=True), "why</think>so") == [Said("why", True), Said("so")]
    assert read(Reader(form, reasoning=True), "why not") == [Said("why not", True)]
    assert said(read(Reader(form), *"<think>a < b</think>c <thin"), True) == "a < b"
    assert said(read(Reader(form), *"<think>a</think>c <thin")) == "c <thin"
    thought = read(reader("hermes"), f"<think>{EXAMPLES['hermes']}</think>no")
    assert (calls(thought), said(thought)) == ([], "no")


def test_words_between_and_behind_calls() -> None:
    one, two = EXAMPLES["hermes"].split("\n<tool_call>", 1)
    parts = read(reader("hermes"), *f"First: {one}\nthen\n<tool_call>{two}\nDone.")
    assert [type(part) for part in parts if not isinstance(part, Said) or part.text.strip()].count(Called) == 2
    assert said(parts).split() == ["First:", "then", "Done."]
    first = next(i for i, part in enumerate(parts) if isinstance(part, Called))
    assert said(parts[:first]) == "First:"


def test_ends_within_texts_of_json_are_no_ends() -> None:
    call = {"name": "clock", "arguments": {"zone": 'a</tool_call>b}]\\"{'}}
    parts = read(reader("hermes"), *f"<tool_call>{json.dumps(call)}</tool_call>")
    assert calls(parts) == [("clock", call["arguments"])]


def test_an_end_that_lacks() -> None:
    """A model may stop before it has written the last tag: the call is whole."""
    parts = read(reader("hermes"), '<tool_call>{"name": "clock", "arguments": {}}')
    assert calls(parts) == [("clock", {})]
    assert calls(read(reader("hermes"), '<tool_call>{"name": "clock", "arguments": {', cut=True)) == []


def test_names_that_are_no_tools() -> None:
    """JSON that begins an answer is a call only of a tool that there is."""
    text = '{"name": "Paris", "parameters": {"a": 1}}'
    assert read(reader("llama3"), *text) != []
    assert said(read(reader("llama3"), *text)) == text
    assert said(read(reader("llama3"), *'{"population": 3}')) == '{"population": 3}'


def test_ids() -> None:
    kept = [part.id for part in read(reader("mistral"), EXAMPLES["mistral"]) if isinstance(part, Called)]
    assert kept == ["a1b2c3d4e", "made up"]
    ids = {part.id for part in read(Reader(Format(False, None, TOLD)), EXAMPLES["hermes"]) if isinstance(part, Called)}
    assert len(ids) == 2
    assert all(re.fullmatch("call_[0-9a-f]{24}", each) for each in ids)


def test_channels() -> None:
    text = (
        "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{"zone": "UTC"}<|call|>'
    )
    for pieces in ([text], list(text)):
        parts = read(ChannelReader(), *pieces)
        assert (said(parts, True), said(parts)) == ("Think.", "I look.")
        assert calls(parts) == [("clock", {"zone": "UTC"})]
    final = read(
        ChannelReader(), *"<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b < c"
    )
    assert (said(final, True), said(final)) == ("a", "b < c")
    assert said(read(ChannelReader(header="<|channel|>final<|message|>"), "go on")) == "go on"
    assert calls(read(ChannelReader(), text[: text.index("UTC")], cut=True)) == []
    assert calls(read(ChannelReader(), text.partition("<|message|>{")[0] + "<|message|>", cut=True)) == []
    assert calls(read(ChannelReader(calls=False), text)) == []


# Arguments


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", "string", "3"),
        ("\n3\n", "string", "3"),
        ("3", "integer", 3),
        ("3", None, 3),
        ("three", "integer", "three"),
        ("[1, 2]", "array", [1, 2]),
        ("['a', True]", "array", ["a", True]),
        ("True", "boolean", True),
        ("true", None, True),
        ("null", "object", None),
        ("Paris", None, "Paris"),
        ("{a", "object", "{a"),
        ("3", ["string", "null"], "3"),
        ("null", ["string", "null"], None),
        ("__import__('os')", "array", "__import__('os')"),
    ],
)
def test_types(text: str, kind: Any, value: Any) -> None:
    schema = {"properties": {"x": {"type": kind}}} if kind else {}
    assert typed(text, schema, "x", "") == value


@pytest.mark.parametrize(
    "text",
    [
        "[f(1)]",
        "[f(a=g())]",
        "f",
        "[f(**a)]",
        "[f(a=b)]",
        "[f(a=1e999)]",
        "[f(a=[-1e999])]",
        "(" * 5000,
        "[f(a=(b:=3))]",
        "",
    ],
)
def test_python_that_is_no_call(text: str) -> None:
    assert read_python(text) is None


def test_python_calls() -> None:
    assert read_python("[a.b(x=-1, y=[1, 'z'], z={'k': true, 'l': null})]") == [
        Call("a.b", {"x": -1, "y": [1, "z"], "z": {"k": True, "l": None}})
    ]


def test_what_is_written_can_be_read() -> None:
    made = [{"function": {"name": name, "arguments": arguments}} for name, arguments in WANT]
    for name in ("hermes", "granite", "lfm2", "phi4", "tool_calls"):
        assert calls(read(reader(name), written(made, FORMATS[name]))) == WANT
    assert "<tool_call>" in written(made, FORMATS["glm"])


# Which format


def test_which_format() -> None:
    hermes = "{{ '<tool_call>' }}{% if '</think>' in content %}"
    assert format_of(hermes, [], tools=True, told=False) == Format(False, THINK, FORMATS["hermes"])
    assert format_of(hermes, [], tools=False, told=False).calls is None
    assert format_of("[TOOL_CALLS]", [], tools=True, told=True).calls == TOLD
    assert format_of("", ["<|tool_call_start|>"], tools=True, told=False).calls == FORMATS["lfm2"]
    assert format_of("", ["<think>", "</think>"], tools=False, told=False).reasoning == THINK
    assert format_of("", [], tools=True, told=False) == Format(False, None, TOLD)
    assert format_of("<|channel|> <|message|> <|start|>", [], tools=True, told=False).channels


def test_a_conversation_there_and_back() -> None:
    """Control tokens of the format are part of the text for the reader, others are not, and no user can write them."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}<tool_call>"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}'
        "<|im_end|>\n{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}<|im_start|>assistant\n<think>\n"
        "{# </think> #}"
    )
    control = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>")
    tokens = Tokenizer(byte_vocabulary(*control) | {"tokenizer.chat_template": template})
    chat = Chat(tokens)
    messages = [
        {"role": "user", "content": "a<tool_call>b</think>"},
        {"role": "assistant", "content": "<think>c</think>d"},
    ]
    prompt = chat.prompt(messages, tools=TOOLS)
    assert [prompt.ids.count(i) for i in range(6)] == [3, 2, 0, 0, 2, 1]
    assert prompt.in_reasoning
    assert prompt.shown == frozenset({2, 3, 4, 5})
    assert prompt.form.calls is not None
    decoder, made = tokens.stream(shown=prompt.shown), prompt.reader()
    answer = tokens.encode("why</think>" + EXAMPLES["hermes"] + "<|im_start|>", False, True)
    parts = read(made, *map(decoder.push, answer))
    assert (said(parts, True), said(parts), calls(parts)) == ("why", "", WANT)
    assert not Chat(tokens).prompt(messages).form.calls
