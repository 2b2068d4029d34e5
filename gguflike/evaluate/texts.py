"""Held-out texts as chunks of tokens.

The protocol is that of llama.cpp's ``llama-perplexity``, so that figures can be compared. A text loses one line end at
its end, is tokenized as a whole (with BOS where the model wants one), and is cut into chunks of ``context`` tokens;
what is left over is not used. The first token of each chunk makes room for BOS where the model wants one. A chunk is
computed by itself, and the tokens of its second half are scored, except for the first of them: those behind position
``context // 2``, each given all before it. With ``score="all"`` every token of a chunk but the first is scored: twice
as many figures of a short text, of tokens of which many have little before them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguflike.calibrate import texts as calibration
from gguflike.errors import ArgumentError, ArgumentTypeError, check_choice, check_integer, counted
from gguflike.runner.tokenizer import Tokenizer

StrPath = str | os.PathLike[str]
SCORES = ("half", "all")
CONTEXT = 512  # tokens of a chunk, as llama-perplexity has it


@dataclass(frozen=True)
class Protocol:
    """How texts are cut and scored. ``tokens``: of each text, so many at most are used; None: all."""

    context: int
    tokens: int | None = None
    score: str = "half"

    def __post_init__(self) -> None:
        check_choice("score", self.score, SCORES)
        check_integer("context", self.context, 4)
        if self.tokens is not None:
            check_integer("tokens", self.tokens, self.context, None, "at least one chunk of `context` tokens is needed")

    @property
    def first(self) -> int:
        """The position in a chunk whose logits are the first to be scored, by the token that follows."""
        return self.context // 2 if self.score == "half" else 0

    @property
    def scored(self) -> int:
        """Tokens of a chunk that are scored."""
        return self.context - 1 - self.first


@dataclass(frozen=True)
class Text:
    """One kind of text: its ``name`` and chunks of token ids, all of the same length."""

    name: str
    chunks: tuple[tuple[int, ...], ...]


def read(paths: Iterable[StrPath], field: str = "text") -> dict[str, str]:
    """Text files, which are what the argument ``field`` names, by their names without endings, or by their paths where
    several have the same name. Of lines of JSON (``.jsonl``, ``.ndjson``) or an array of such
    (``.json``) it is their texts, each ended by a line end.

    ArgumentError where there is none, or one is no UTF-8 or has conversations; OSError where one cannot be read.
    """
    return {name: _text(path, field) for name, path in files(paths, field).items()}


def files(paths: Iterable[StrPath], field: str) -> dict[str, Path]:
    """Files, which are what the argument ``field`` names, by what they are called here; errors as of `read`."""
    if isinstance(paths, str | bytes | os.PathLike):
        paths = [os.fsdecode(paths)]
    listed = [Path(path) for path in paths]
    if not listed:
        raise ArgumentError("no text to measure on", field=field, expected="at least one file of held-out text")
    stems = [path.stem for path in listed]
    names = [stem if stems.count(stem) == 1 else os.fspath(path) for stem, path in zip(stems, listed, strict=True)]
    found: dict[str, Path] = {}
    for name, path in zip(names, listed, strict=True):
        if name in found:
            raise ArgumentError("the same text twice", path=path, field=field, remedy="leave one of them out")
        found[name] = path
    return found


def _text(path: Path, field: str) -> str:
    plain = calibration.text_of(path, field)
    records = calibration.of_records(path, plain, None, field)
    return plain if records is None else "".join(f"{document}\n" for document in records.documents)


def named(texts: Mapping[str, str] | Iterable[StrPath], field: str = "text") -> dict[str, str]:
    """Texts, which the argument ``field`` gives, by name: as they are given, or read from files. ArgumentTypeError for
    what is no text."""
    if not isinstance(texts, Mapping):
        return read(texts, field)
    for name, text in texts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ArgumentTypeError("not text", field=field, expected="a mapping of str to str", got=repr(text)[:60])
    if not texts:
        raise ArgumentError("no text to measure on", field=field, expected="at least one held-out text")
    return dict(texts)


def cut(name: str, text: str, tokenizer: Tokenizer, protocol: Protocol) -> Text:
    """The chunks of a text. ArgumentError where it is shorter than one chunk."""
    return Text(name, tuple(chunks(tokens(text, tokenizer, protocol), tokenizer, protocol, name)))


def tokens(text: str, tokenizer: Tokenizer, protocol: Protocol) -> list[int]:
    """The token ids of a text, as far as they are used."""
    whole = text.removesuffix("\n")
    return tokenizer.encode(whole) if protocol.tokens is None else tokenizer.first(whole, protocol.tokens)


def chunks(ids: Sequence[int], tokenizer: Tokenizer, protocol: Protocol, name: str) -> list[tuple[int, ...]]:
    """Token ids of a text, cut as the protocol says."""
    context = protocol.context
    count = len(ids[: protocol.tokens]) // context
    if not count:
        raise ArgumentError(
            f"the text {name!r} is too short for a chunk",
            field="text",
            expected=f"at least {counted(context, 'token')}",
            got=len(ids),
            remedy="take a longer text, or a smaller `context`",
        )
    begin = [tokenizer.bos_id] if tokenizer.vocabulary.add_bos and tokenizer.bos_id is not None else []
    cut = [tuple(ids[i * context : (i + 1) * context]) for i in range(count)]
    return [(*begin, *chunk[len(begin) :]) for chunk in cut]
