"""tokenizer.model: SentencePiece's own file, a protocol buffer. Read by its fields, strictly, without the library.

1 pieces: 1 text, 2 score (float), 3 type         2 training: 3 kind, 24 space as suffix, 35 bytes for unknown,
3 normalizer: 2 map of characters,                  40 to 43 ids of unk, bos, eos, pad
  3 space before a text, 4 runs of spaces are one, 5 spaces are U+2581
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gguflike.checkpoint import files
from gguflike.checkpoint.pretokenizers import PREPEND_SPACE, REPLACE_SPACES
from gguflike.checkpoint.tokenizer.sources.source import Asked, Source, added, around, bpe, document
from gguflike.checkpoint.tokenizer_json import spm_merges
from gguflike.checkpoint.unigram import MERGE_SPACES
from gguflike.checkpoint.vocabulary import TokenType
from gguflike.errors import CheckpointError, UnsupportedError

_KINDS = {1: "Unigram", 2: "BPE", 3: "WORD", 4: "CHAR"}
_ROLES = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
_DEFAULTS = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}

#: Words in the names of classes that put other tokens before SentencePiece's, which they count from the fourth on.
_FAIRSEQ = {
    "xlmroberta": (("<s>", "<pad>", "</s>", "<unk>"), 3),
    "xlm-roberta": (("<s>", "<pad>", "</s>", "<unk>"), 3),
    "camembert": (("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), 1),
}


class Piece(NamedTuple):
    """A token: its text, its score (a log probability, or of BPE the less the later its merge), and its kind."""

    text: str
    score: float
    kind: int


class Model(NamedTuple):
    """What the file says."""

    pieces: list[Piece]
    kind: str
    byte_fallback: bool
    ids: dict[str, int]  # role -> id, negative where there is none
    charsmap: bytes
    prefix: bool
    merges_spaces: bool


def read(path: Path, asked: Asked) -> Source:
    """``path`` is a SentencePiece model."""
    model = parse(files.read(path), path)
    texts = [piece.text for piece in model.pieces]
    if len(set(texts)) != len(texts):
        twice = next(text for number, text in enumerate(texts) if text in texts[:number])
        raise CheckpointError("two pieces have the same text", path=path, got=repr(twice[:80]))
    return _unigram(path, model, asked) if model.kind == "Unigram" else _bpe(path, model, asked)


def _bpe(path: Path, model: Model, asked: Asked) -> Source:
    texts = [piece.text for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    ids = {text: index for index, text in enumerate(texts)}
    names = _names(model)
    prefix = asked.flag("add_prefix_space", model.prefix)
    begin, end = (asked.text(role, names.get(f"{role}_token", "")) for role in ("bos", "eos"))
    made = document(
        bpe(
            ids,
            spm_merges(texts, [piece.kind for piece in model.pieces], scores),
            unk_token=names.get("unk_token"),
            byte_fallback=model.byte_fallback,
            fuse_unk=True,
        ),
        _added(model),
        [*_charsmap(model), *_spaces(model), *([PREPEND_SPACE] if prefix else []), REPLACE_SPACES],
        None,
        around(
            begin if asked.flag("add_bos_token", True) else None,
            end if asked.flag("add_eos_token", False) else None,
            ids,
        ),
    )
    return Source(path, made, scores, names)


def _unigram(path: Path, model: Model, asked: Asked) -> Source:
    pairs: list[list[Any]] = [[piece.text, piece.score] for piece in model.pieces]
    names, tokens, unknown = _names(model), _added(model), model.ids["unk"]
    fairseq = next((row for word, row in _FAIRSEQ.items() if word in asked.kind), None)
    if fairseq is not None:
        first, skipped = fairseq
        pairs = [*([text, 0.0] for text in first), *pairs[skipped:], ["<mask>", 0.0]]
        unknown = first.index("<unk>")
        tokens = [added(index, pairs[index][0]) for index in (*range(len(first)), len(pairs) - 1)]
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        names |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    ids = {text: index for index, (text, _) in enumerate(pairs)}
    encodes = fairseq is not None or "t5" in asked.kind
    begin, end = (asked.text(role, names.get(f"{role}_token", "")) for role in ("bos", "eos"))
    adds_bos, adds_eos = asked.flag("add_bos_token", "t5" not in asked.kind), asked.flag("add_eos_token", encodes)
    prefix = [PREPEND_SPACE] if asked.flag("add_prefix_space", model.prefix) else []
    made = document(
        {"type": "Unigram", "unk_id": unknown, "vocab": pairs, "byte_fallback": model.byte_fallback},
        tokens,
        [*_charsmap(model), *_spaces(model), *prefix, REPLACE_SPACES],
        None,
        around(begin if adds_bos else None, end if adds_eos else None, ids, double=fairseq is not None),
    )
    return Source(path, made, names=names)


def _names(model: Model) -> dict[str, str]:
    known = {role: index for role, index in model.ids.items() if 0 <= index < len(model.pieces)}
    return {f"{role}_token": model.pieces[index].text for role, index in known.items()}


def _added(model: Model) -> list[dict[str, Any]]:
    kinds = {TokenType.UNKNOWN: True, TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    entries = ((index, piece) for index, piece in enumerate(model.pieces) if piece.kind in kinds)
    return [added(index, piece.text, kinds[TokenType(piece.kind)]) for index, piece in entries]


def _charsmap(model: Model) -> list[dict[str, Any]]:
    text = base64.b64encode(model.charsmap).decode()
    return [{"type": "Precompiled", "precompiled_charsmap": text}] if model.charsmap else []


def _spaces(model: Model) -> list[dict[str, Any]]:
    return MERGE_SPACES if model.merges_spaces else []


def parse(data: bytes, path: Path) -> Model:
    """The model in a file. CheckpointError where it is broken, UnsupportedError where it is of a kind not handled."""
    pieces: list[Piece] = []
    kind, byte_fallback, suffix, escaped = 1, False, False, True
    ids, charsmap, prefix, merges_spaces = dict(_DEFAULTS), b"", True, True
    for number, value in _fields(data, path):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value, path, len(pieces)))
        elif number == 2 and isinstance(value, bytes):
            for inner, setting in _fields(value, path):
                if inner in _ROLES and isinstance(setting, int):
                    ids[_ROLES[inner]] = setting - (1 << 64) if setting >> 63 else setting
                elif inner == 3 and isinstance(setting, int):
                    kind = setting
                elif inner == 24:
                    suffix = bool(setting)
                elif inner == 35:
                    byte_fallback = bool(setting)
        elif number == 3 and isinstance(value, bytes):
            for inner, setting in _fields(value, path):
                if inner == 2 and isinstance(setting, bytes):
                    charsmap = setting
                elif inner == 3:
                    prefix = bool(setting)
                elif inner == 4:
                    merges_spaces = bool(setting)
                elif inner == 5:
                    escaped = bool(setting)
    if not pieces:
        raise CheckpointError("the vocabulary is empty, or this is no SentencePiece model", path=path)
    for place, got, expected in (
        ("model_type", _KINDS.get(kind, str(kind)), ("Unigram", "BPE")),
        ("treat_whitespace_as_suffix", suffix, (False,)),
        ("escape_whitespaces", escaped, (True,)),
    ):
        if got not in expected:
            wanted = " or ".join(map(str, expected))
            raise UnsupportedError(
                "SentencePiece model is not handled", path=path, field=place, expected=wanted, got=got
            )
    return Model(pieces, _KINDS[kind], byte_fallback, ids, charsmap, prefix, merges_spaces)


def _piece(data: bytes, path: Path, index: int) -> Piece:
    text, score, kind = b"", 0.0, int(TokenType.NORMAL)
    for number, value in _fields(data, path):
        if number == 1 and isinstance(value, bytes):
            text = value
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    try:
        piece = Piece(text.decode(), score, TokenType(kind))
    except ValueError:  # not UTF-8, or no such type
        piece = Piece("", score, 0)
    if not piece.text or not abs(score) < 3e38:
        got = f"{text[:60]!r}, score {score}, type {kind}"
        raise CheckpointError("malformed piece", path=path, field=f"pieces[{index}]", got=got)
    return piece


def _fields(data: bytes, path: Path) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of the fields of a message: an integer, a float of four bytes, or bytes. Doubles are left out."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, path)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at, path)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise CheckpointError("no SentencePiece model, or a damaged one", path=path, got=f"wire type {wire}")
        size, at = _varint(data, at, path) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if size > len(data) - at:
            raise CheckpointError(
                "a field does not fit; the file is truncated or damaged",
                path=path,
                expected=f"at most {len(data) - at} bytes",
                got=size,
                remedy="download it again",
            )
        part, at = data[at : at + size], at + size
        if wire == 2:
            yield number, part
        elif wire == 5:
            yield number, float(struct.unpack("<f", part)[0])


def _varint(data: bytes, at: int, path: Path) -> tuple[int, int]:
    """The number at a place of at most ten bytes of seven bits, and the place behind it."""
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise CheckpointError("a number does not end; the file is truncated or damaged", path=path)
