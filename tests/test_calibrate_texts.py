"""Calibration texts: files of several kinds, what is bundled, and sequences of tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gguflike.calibrate.texts import Text, bundled, read, sequences
from gguflike.errors import ArgumentError, TemplateError
from gguflike.evaluate import texts as evaluate


def text(name: str, *documents: str) -> Text:
    return Text(name, documents, (False,) * len(documents))


def letters(document: str, rendered: bool) -> list[int]:
    """Tokens of a toy: 0 begins a text, then a number for each letter."""
    return [] if rendered and not document else [*([] if rendered else [0]), *(ord(c) - 96 for c in document)]


def test_sequences_have_a_length_and_begin_as_the_model_wants() -> None:
    made = sequences([text("t", "abcde", "fg")], letters, 4, [0])
    assert made == [[0, 1, 2, 3], [0, 4, 5, 0], [0, 6, 7]]
    assert sequences([text("t", "abcde")], lambda d, r: letters(d, r)[1:], 3) == [[1, 2, 3], [4, 5]]


def test_texts_alternate_and_a_limit_takes_as_much_of_each() -> None:
    texts = [text("a", "aaaaaaaaa"), text("b", "bbb"), text("c", "ccccccccc")]
    made = sequences(texts, letters, 4, [0])
    assert [each[1] for each in made] == [1, 2, 3, 1, 3, 1, 3]
    assert [each[1] for each in sequences(texts, letters, 4, [0], most=16)] == [1, 2, 3, 1]
    assert sum(map(len, sequences(texts, letters, 4, [0], most=10))) == 10
    assert sum(map(len, sequences(texts, letters, 4, [0], most=9))) == 8  # no sequence of BOS alone


def test_texts_without_tokens_and_sequences_without_room() -> None:
    with pytest.raises(ArgumentError, match="no text"):
        sequences([text("a", "")], lambda *_: [], 4)
    with pytest.raises(ArgumentError, match="too short"):
        sequences([text("a", "abc")], letters, 1, [0])


def test_one_letter_is_a_text() -> None:
    assert sequences([text("a", "a")], letters, 512, [0]) == [[0, 1]]


def test_files_of_lines(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    (tmp_path / "a.txt").write_text("plain {}")
    lines = [{"text": "one"}, {"messages": messages}, {"text": "two", "messages": messages}]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    seen: list[Any] = []

    def render(said: list[dict[str, Any]]) -> str:
        seen.append(said)
        return "<|user|>hi"

    made = read([tmp_path / "a.txt", tmp_path / "b.jsonl"], render)
    assert made == [
        Text("a.txt", ("plain {}",), (False,)),
        Text("b.jsonl", ("one", "<|user|>hi", "two"), (False, True, False)),
    ]
    assert seen == [messages]
    with pytest.raises(ArgumentError, match=r"b\.jsonl.*line 2 is a conversation.*no chat template"):
        read([tmp_path / "b.jsonl"])


def test_arrays_of_records(tmp_path: Path) -> None:
    """As conversations are often shared. Any other JSON is a text."""
    path = tmp_path / "a.json"
    conversation = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    path.write_text(json.dumps([{"id": 1, "conversations": conversation}, {"text": "two"}], indent=2))
    [made] = read([path], lambda messages: " ".join(f"{each['role']}: {each['content']}" for each in messages))
    assert made == Text("a.json", ("user: hi assistant: ho", "two"), (True, False))
    with pytest.raises(ArgumentError, match="item 1 is a conversation, and there is no chat template"):
        read([path])
    for plain in ('[{"name": "x"}]', '{"text": "x"}', "[1, 2]", "[1, 2", '["text"]'):
        path.write_text(plain)
        assert read([path]) == [Text("a.json", (plain,), (False,))]
        assert evaluate.read([path]) == {"a": plain}
    path.write_text(json.dumps([{"text": "one"}, {"text": 2}]))
    with pytest.raises(ArgumentError, match="item 2: neither a text nor a conversation"):
        read([path])
    path.write_text(json.dumps([{"text": "one"}, {"text": "two"}]))
    assert evaluate.read([path]) == {"a": "one\ntwo\n"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"ab\xe9", "not UTF-8.*byte 2"),
        ("a.txt", "a b".encode("utf-16"), "UTF-16, not UTF-8.*iconv"),
        ("a.txt", "a b".encode("utf-16-le"), "holds zeros.*byte 1"),
        ("a.gz", gzip.compress(b"a b", mtime=0), "gzip archive, not text.*unpack"),
        ("a.parquet", b"PAR1\x15\x00", "Parquet file, not text.*lines of JSON"),
        ("a.txt", b" \n", "no text"),
        ("a.jsonl", b"", "no text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
        ("a.jsonl", b'{"text": "x \\ud800"}', r"line 1: half of a surrogate pair, U\+D800"),
        ("a.jsonl", b'["x"]', "line 1: neither"),
        ("a.jsonl", b'{"content": "x"}', "line 1: neither"),
        ("a.jsonl", b'{"messages": []}', "line 1: messages without roles"),
        ("a.jsonl", b'{"messages": ["x"]}', "line 1: messages without roles"),
        ("a.jsonl", b'{"conversations": [{"value": "x"}]}', "line 1: messages without roles"),
    ],
)
def test_files_that_are_no_text(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ArgumentError, match=message):
        read([tmp_path / name], lambda _: "x")


def test_what_python_takes_for_a_line_end_ends_none(tmp_path: Path) -> None:
    said = ["a\u2028b\u2029\u0085c", "d"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in said]
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "a.jsonl").write_bytes(end.join(["", *lines]).encode())
        assert read([tmp_path / "a.jsonl"])[0].documents == tuple(said)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, data in (("a.txt", b"x"), ("a.jsonl", b'{"text": "x"}')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + data)
        assert read([tmp_path / name])[0].documents == ("x",)


def test_what_a_template_is_told_of_a_conversation(tmp_path: Path) -> None:
    """Its tools; and in the spelling of templates what is shared in another."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "system", "value": "c"}]
    lines = [{"messages": [called], "tools": tools}, {"conversations": shared}, {"conversations": [called]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    seen: list[Any] = []

    def render(messages: list[dict[str, Any]], **variables: Any) -> str:
        seen.append((messages, variables))
        return "x"

    read([tmp_path / "a.jsonl"], render)
    spelled = [("user", "a"), ("assistant", "b"), ("system", "c")]
    assert seen == [
        ([called], {"tools": tools}),
        ([{"role": role, "content": content} for role, content in spelled], {}),
        ([called], {}),
    ]


def test_conversations_that_a_template_refuses(tmp_path: Path) -> None:
    """It is said where; a system message that it refuses stands in front of what the user says."""

    def strict(messages: list[dict[str, Any]]) -> str:
        if any(each["role"] not in ("user", "assistant") for each in messages):
            raise TemplateError("only user and assistant")
        return messages[0]["content"]  # type: ignore[no-any-return]

    def said(*roles: str) -> str:
        return json.dumps({"messages": [{"role": role, "content": role[0]} for role in roles]})

    (tmp_path / "a.jsonl").write_text(said("system", "user", "assistant"))
    assert read([tmp_path / "a.jsonl"], strict)[0].documents == ("s\n\nu",)
    (tmp_path / "a.jsonl").write_text("\n".join([said("user"), said("user", "tool")]))
    with pytest.raises(
        ArgumentError, match=r"a\.jsonl, calibration: line 2: only user and assistant.*leave the line out"
    ):
        read([tmp_path / "a.jsonl"], strict)
    (tmp_path / "a.jsonl").write_text(said("system"))
    with pytest.raises(ArgumentError, match="line 1: only user"):
        read([tmp_path / "a.jsonl"], strict)


def test_what_is_bundled() -> None:
    texts = bundled()
    assert {"code.txt", "dialogue.jsonl", "languages.txt", "markup.txt"} <= {each.name for each in texts}
    size = sum(len(document.encode()) for each in texts for document in each.documents)
    assert 250_000 < size < 350_000
    assert not any(flag for each in texts for flag in each.rendered)
    rendered = bundled(lambda messages: f"<{len(messages)}>")
    [dialogue] = [each for each in rendered if each.name == "dialogue.jsonl"]
    assert all(dialogue.rendered)
    assert all(document.startswith("<") for document in dialogue.documents)


def test_templates_that_refuse_system_messages() -> None:
    def strict(messages: list[dict[str, Any]]) -> str:
        if messages[0]["role"] == "system":
            raise TemplateError("no system message")
        return f"<{messages[0]['content']}>"

    def never(messages: list[dict[str, Any]]) -> str:
        raise TemplateError("no")

    [merged], [plain] = (
        [each for each in bundled(render) if each.name == "dialogue.jsonl"] for render in (strict, never)
    )
    assert all(merged.rendered)
    assert any(
        document.startswith("<You are a patient tutor. Show the steps, then the result.\n\nA train")
        for document in merged.documents
    )
    assert not any(plain.rendered)
    assert plain.documents[0].startswith("User: What's the difference")
