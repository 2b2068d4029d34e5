"""Calibration texts: what is bundled, files of several kinds, and how they become sequences of tokens.

How a text is tokenized and a conversation becomes text is the model's matter: callers pass functions for both.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from gguflike import foreign, jsontext
from gguflike.errors import ArgumentError, ArgumentTypeError, TemplateError
from gguflike.frozen import frozen

StrPath = str | os.PathLike[str]
Render = Callable[..., str]
"""Messages -> the text that a chat template makes of them, with ``tools=`` where it is told of some."""
Encode = Callable[[str, bool], Sequence[int]]
"""Token ids of a text as a model reads it; where the flag is set, it is a template's, whose markup is markup and which
has its own first token."""

LINES = (".jsonl", ".ndjson")
ARRAY = ".json"
_KEYS = ("text", "messages", "conversations")
_EXPECTED = '{"text": "..."} or {"messages": [{"role": ..., "content": ...}, ...]}'
_SPEAKERS = {"human": "user", "gpt": "assistant"}  # in what is shared of conversations -> as templates call them
_FOLDER = "calibration"


@frozen
class Text:
    """A text of the calibration set, or what all lines of a file came to. ``rendered``: by a chat template."""

    name: str
    documents: tuple[str, ...]
    rendered: tuple[bool, ...]


def read(paths: Iterable[StrPath], render: Render | None = None, field: str = "calibration") -> list[Text]:
    """Files of text: UTF-8, or lines of JSON (``.jsonl``, ``.ndjson``), each ``{"text": ...}`` or, a conversation for
    ``render``, ``{"messages": [{"role": ..., "content": ...}, ...]}`` with the tools that it may use as ``tools``; or
    ``{"conversations": [{"from": "human" or "gpt", "value": ...}, ...]}``, which says the same; or an array of such
    (``.json``; any other JSON is a text like others).

    ArgumentError, which speaks of the argument ``field``, for a file that is none of these, has no text, or has
    conversations where there is no template, or that the template refuses.
    """
    return [_read(Path(path), render, field) for path in paths]


def text_of(path: Path, field: str) -> str:
    """A file of UTF-8, without a byte order mark. ArgumentError where it is no text."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what, got, remedy = "the text is not UTF-8", f"byte {error.start}", None
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            what, remedy = "the text is UTF-16, not UTF-8", "convert it, as `iconv -f UTF-16 -t UTF-8` does"
    else:
        if "\0" not in text:
            return text
        what, got, remedy = "the file is no text: it holds zeros", f"byte {data.index(0)}", None
    if known := foreign.describe(data[: foreign.SAMPLE], "text"):
        what, remedy = known.what, known.remedy
    raise ArgumentError(what, path=path, field=field, expected="text in UTF-8", got=got, remedy=remedy)


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers. Only line ends end one: what else Python takes for an
    end, such as U+2028, may stand in a string of JSON."""
    for number, line in enumerate(StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line.strip()


def check_unicode(text: str) -> None:
    """ValueError for half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair, U+{ord(text[error.start]):X}, is no text") from None


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
                made.append(_read(path, None, "calibration"))
                continue
            lines = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
        documents = [_as_it_takes(messages, render) for messages in lines]
        made.append(Text(path.name, tuple(text for text, _ in documents), tuple(flag for _, flag in documents)))
    return made


def _as_it_takes(messages: list[dict[str, Any]], render: Render | None) -> tuple[str, bool]:
    """A conversation as a template writes it, if it does, and whether it did."""
    if render is not None:
        try:
            return _rendered(messages, render), True
        except TemplateError:
            pass
    return "".join(f"{each['role'].capitalize()}: {each['content']}\n\n" for each in messages), False


def _rendered(messages: list[dict[str, Any]], render: Render, **variables: Any) -> str:
    """A conversation as a template writes it, with the system message in front of what the user says first if it
    refuses one. TemplateError where it refuses this as well."""
    try:
        return render(messages, **variables)
    except TemplateError:
        system, *others = messages
        texts = [each.get("content") for each in messages[:2]]
        if system["role"] != "system" or not others or not all(isinstance(text, str) for text in texts):
            raise
        return render([{**others[0], "content": "\n\n".join(map(str, texts))}, *others[1:]], **variables)


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


def _read(path: Path, render: Render | None, field: str) -> Text:
    text = text_of(path, field)
    return of_records(path, text, render, field) or _checked(path, [(text, False)], field)


def of_records(path: Path, text: str, render: Render | None, field: str) -> Text | None:
    """What the ``text`` of a file comes to that is records of JSON, lines of them or an array; None for any other.
    Errors as of `read`."""
    ending = path.suffix.lower()
    if ending in LINES:
        lines = ((f"line {number}", line) for number, line in lines_of(text))
        records = ((where, _parsed(path, where, line, field)) for where, line in lines)
    elif ending == ARRAY and (items := _items(text)):
        records = ((f"item {number}", item) for number, item in enumerate(items, 1))
    else:
        return None
    return _checked(path, [_document(path, where, said, render, field) for where, said in records], field)


def _checked(path: Path, made: Sequence[tuple[str, bool]], field: str) -> Text:
    if not any(document.strip() for document, _ in made):
        raise ArgumentError("the file has no text but white space", path=path, field=field, remedy="leave it out")
    return Text(path.name, tuple(document for document, _ in made), tuple(by_template for _, by_template in made))


def _items(text: str) -> list[Any]:
    """The records of an array of JSON, as conversations are often shared; none where it is any other text."""
    try:
        said: Any = jsontext.parsed(text) if text.lstrip().startswith("[") else None
    except ValueError:
        return []
    first = said[0] if isinstance(said, list) and said else None
    return list(said) if isinstance(first, Mapping) and any(key in first for key in _KEYS) else []


def _parsed(path: Path, where: str, line: str, field: str) -> Any:
    try:
        return jsontext.parsed(line)
    except ValueError as error:
        got = str(error)[:80]
        raise ArgumentError(f"{where}: not JSON", path=path, field=field, expected=_EXPECTED, got=got) from None


def _document(path: Path, where: str, said: Any, render: Render | None, field: str) -> tuple[str, bool]:
    """The text of a record of JSON, and whether a template has written it."""

    def wrong(what: str, got: object, remedy: str | None = None) -> ArgumentError:
        expected = None if remedy else _EXPECTED
        return ArgumentError(f"{where}: {what}", path=path, field=field, expected=expected, got=got, remedy=remedy)

    record: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    messages = record.get("messages", record.get("conversations"))
    if isinstance(record.get("text"), str):
        text, rendered = record["text"], False
    elif not isinstance(messages, list):
        raise wrong("neither a text nor a conversation", json.dumps(said)[:60])
    elif not messages or not all(isinstance(each, Mapping) and _role(each) for each in messages):
        raise wrong("messages without roles", repr(messages)[:60])
    elif render is None:
        what = f"{where} is a conversation, and there is no chat template for it"
        raise ArgumentError(what, path=path, field=field, remedy="give its text as plain text")
    else:
        tools = {"tools": record["tools"]} if record.get("tools") else {}
        try:
            text, rendered = _rendered([_message(each) for each in messages], render, **tools), True
        except (TemplateError, ArgumentError, ArgumentTypeError) as error:
            remedy = f"leave the {where.split()[0]} out, or give its text as plain text"
            raise wrong(error.what, error.got, remedy) from error
    try:
        check_unicode(text)
    except ValueError as error:
        raise wrong(str(error), json.dumps(said)[:60], "leave it out") from None
    return text, rendered


def _role(message: Mapping[str, Any]) -> str | None:
    """Who says a message, in either spelling; None where it does not tell."""
    role = message.get("role", _SPEAKERS.get(message.get("from", ""), message.get("from")))
    return role if isinstance(role, str) else None


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates read it."""
    others = {key: value for key, value in said.items() if key not in ("from", "value")}
    return {"role": _role(said), **({"content": said["value"]} if "value" in said else {}), **others}
