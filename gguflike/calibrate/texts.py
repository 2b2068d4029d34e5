"""Calibration texts: what is bundled, files of several kinds, and how they become sequences of tokens.

How a text is tokenized and a conversation becomes text is the model's matter: callers pass functions for both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from gguflike.errors import ArgumentError, TemplateError
from gguflike.frozen import frozen

StrPath = str | os.PathLike[str]
Render = Callable[[list[dict[str, Any]]], str]
"""The text that a chat template makes of messages."""
Encode = Callable[[str, bool], Sequence[int]]
"""Token ids of a text as a model reads it; where the flag is set, it is a template's, whose markup is markup and which
has its own first token."""

LINES = (".jsonl", ".ndjson")
_FOLDER = "calibration"


@frozen
class Text:
    """A text of the calibration set, or what all lines of a file came to. ``rendered``: by a chat template."""

    name: str
    documents: tuple[str, ...]
    rendered: tuple[bool, ...]


def read(paths: Iterable[StrPath], render: Render | None = None) -> list[Text]:
    """Files of text: UTF-8, or lines of JSON (``.jsonl``, ``.ndjson``), each ``{"text": ...}`` or, a conversation for
    ``render``, ``{"messages": [{"role": ..., "content": ...}, ...]}``.

    ArgumentError for a file that is none of these, has no text, or has conversations where there is no template.
    """
    return [_read(Path(path), render) for path in paths]


def bundled(render: Render | None = None) -> list[Text]:
    """The texts that the package has: prose, code, markup, many languages, and conversations.

    A conversation whose system message a template refuses has it in front of what the user says first. Without a
    template, or with one that refuses this as well, it is written as a dialogue in plain text.
    """
    folder = resources.files("gguflike").joinpath("data").joinpath(_FOLDER)
    files = sorted((each for each in folder.iterdir() if each.name != "README.md"), key=lambda each: each.name)
    made = []
    for file in files:
        with resources.as_file(file) as path:
            if path.suffix not in LINES:
                made.append(_read(path, None))
                continue
            lines = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
        documents = [_as_it_takes(messages, render) for messages in lines]
        made.append(Text(path.name, tuple(text for text, _ in documents), tuple(flag for _, flag in documents)))
    return made


def _as_it_takes(messages: list[dict[str, Any]], render: Render | None) -> tuple[str, bool]:
    """A conversation as a template writes it, if it does, and whether it did."""
    first, *others = messages
    merged = messages
    if first["role"] == "system" and others:
        merged = [{**others[0], "content": f"{first['content']}\n\n{others[0]['content']}"}, *others[1:]]
    if render is not None:
        for form in (messages, merged):
            try:
                return render(form), True
            except TemplateError:
                continue
    return "".join(f"{each['role'].capitalize()}: {each['content']}\n\n" for each in messages), False


def sequences(
    texts: Sequence[Text], encode: Encode, length: int, begin: Sequence[int] = (), most: int | None = None
) -> list[list[int]]:
    """Token ids of ``texts`` in sequences of ``length``, each beginning with the ids ``begin`` (BOS, for most models).

    The documents of a text are joined and cut; its last sequence may be shorter. Where there are more than ``most``
    tokens, each text gives its first sequences, as many as the others where it has so many. Sequences of several texts
    alternate. ArgumentError where there is no token.
    """
    begin = list(begin)
    if length <= len(begin):
        raise ArgumentError("sequences are too short", field="context", expected=f"more than {len(begin)}", got=length)
    cut = [_cut(text, encode, length, begin) for text in texts]
    rounds = max(map(len, cut), default=0)
    turns = [each[i] for i in range(rounds) for each in cut if i < len(each)]
    if not turns:
        raise ArgumentError("no text to calibrate on", field="calibration", got=[text.name for text in texts])
    if most is None:
        return turns
    kept: list[list[int]] = []
    for each in turns:
        left = most - sum(map(len, kept))
        if left <= len(begin):
            break
        kept.append(each[:left])
    return kept


def _cut(text: Text, encode: Encode, length: int, begin: list[int]) -> list[list[int]]:
    ids: list[int] = []
    for document, rendered in zip(text.documents, text.rendered, strict=True):
        ids += encode(document, rendered)
    size = length - len(begin)
    ids = ids[len(begin) :] if begin and ids[: len(begin)] == begin else ids
    return [begin + ids[at : at + size] for at in range(0, len(ids), size)]


def _read(path: Path, render: Render | None) -> Text:
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ArgumentError(
            "the text is not UTF-8", path=path, field="calibration", got=f"byte {error.start}"
        ) from None
    if path.suffix.lower() not in LINES:
        documents, rendered = [text], [False]
    else:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        made = [_document(path, number, line, render) for number, line in lines]
        documents, rendered = [each for each, _ in made], [by_template for _, by_template in made]
    if not any(document.strip() for document in documents):
        raise ArgumentError("the file has no text", path=path, field="calibration")
    return Text(path.name, tuple(documents), tuple(rendered))


def _document(path: Path, number: int, line: str, render: Render | None) -> tuple[str, bool]:
    """The text of a line of JSON, and whether a template has written it."""
    expected = '{"text": "..."} or {"messages": [{"role": ..., "content": ...}, ...]}'

    def wrong(what: str, got: object) -> ArgumentError:
        return ArgumentError(f"line {number}: {what}", path=path, field="calibration", expected=expected, got=got)

    try:
        said = json.loads(line)
    except ValueError as error:
        raise wrong("not JSON", str(error)) from None
    if isinstance(said, Mapping) and isinstance(said.get("text"), str):
        return said["text"], False
    if not (isinstance(said, Mapping) and isinstance(said.get("messages"), list)):
        raise wrong("neither a text nor a conversation", line[:60])
    messages = said["messages"]
    if not messages or not all(isinstance(each, Mapping) and isinstance(each.get("role"), str) for each in messages):
        raise wrong("messages without roles", repr(messages)[:60])
    if render is None:
        raise ArgumentError(
            f"line {number} is a conversation, and the model has no template for those",
            path=path,
            field="calibration",
            remedy="give its text as plain text",
        )
    return render(messages), True
