"""What the post-processor of tokenizer.json puts before and behind a text, as ids of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.tokenizer.files import TokenizerFiles
from gguflike.errors import CheckpointError, UnsupportedError


class Surrounding(NamedTuple):
    """Ids of the tokens that encoding puts around a text."""

    prefix: list[int]
    suffix: list[int]


def surrounding(source: TokenizerFiles, ids: Mapping[str, int]) -> Surrounding:
    """What encoding puts around one text. ``ids`` are those of the vocabulary.

    CheckpointError where the post-processor names a token that does not exist.
    """
    prefix: list[int] = []
    suffix: list[int] = []
    for step in pretokenizers.flatten(source.node("post_processor"), "processors"):
        kind = step.get("type")
        if kind in ("RobertaProcessing", "BertProcessing"):
            before, behind = ([_pair(source, step, key, ids)] for key in ("cls", "sep"))
        elif kind == "TemplateProcessing":
            before, behind = _template(source, step, ids)
        elif kind == "ByteLevel":  # about offsets, not tokens
            continue
        else:
            raise UnsupportedError("post_processor is not handled", path=source.path, got=repr(dict(step))[:200])
        prefix, suffix = before + prefix, suffix + behind
    return Surrounding(prefix, suffix)


def separates(source: TokenizerFiles, separators: set[str]) -> bool | None:
    """Whether a separator of its own stands between two texts, beside what ends the first; None where nothing tells."""
    for step in pretokenizers.flatten(source.node("post_processor"), "processors"):
        if step.get("type") == "RobertaProcessing":
            return True
        pair = step.get("pair") if step.get("type") == "TemplateProcessing" else None
        if isinstance(pair, list):
            tokens = [_special(source, piece) for piece in pair]
            places = [place for place, token in enumerate(tokens) if token is None]
            if len(places) == 2 and places[1] > places[0] + 1:
                between = tokens[places[0] + 1 : places[1]]
                ends = tokens[places[1] + 1 :]
                return (between[0] in separators and not ends) or (len(between) == 2 and between[1] in separators)
    return None


def _pair(source: TokenizerFiles, step: Mapping[str, Any], key: str, ids: Mapping[str, int]) -> int:
    """The token of a processor that writes it as [text, id]."""
    pair = step.get(key)
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
        raise _malformed(source, f"{key}: {pair!r}")
    return _id(source, pair[0], pair[1], ids)


def _template(source: TokenizerFiles, step: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[list[int], list[int]]:
    pieces, table = step.get("single"), step.get("special_tokens") or {}
    if not isinstance(pieces, list) or not isinstance(table, dict):
        raise _malformed(source, repr(pieces))
    sides: tuple[list[int], list[int]] = ([], [])
    texts = 0
    for piece in pieces:
        name = _special(source, piece)
        if name is not None:
            entry = table.get(name)
            listed = entry.get("ids") if isinstance(entry, dict) else None
            found = [_id(source, name, index, ids) for index in (listed if isinstance(listed, list) else [None])]
            sides[min(texts, 1)].extend(found)
        else:
            texts += 1
    return sides


def _special(source: TokenizerFiles, piece: Any) -> str | None:
    """The special token that a piece of a template is, or None for the text."""
    if isinstance(piece, dict) and "Sequence" in piece:
        return None
    token = piece.get("SpecialToken") if isinstance(piece, dict) else None
    name = token.get("id") if isinstance(token, dict) else None
    if not isinstance(name, str):
        raise _malformed(source, repr(piece))
    return name


def _id(source: TokenizerFiles, text: str, index: Any, ids: Mapping[str, int]) -> int:
    """The id that a processor gives, or that of its text."""
    found = ids.get(text) if index is None else index
    if not isinstance(found, int) or isinstance(found, bool) or found not in ids.values():
        raise CheckpointError(
            "the post-processor adds a token that does not exist",
            path=source.path,
            field="post_processor",
            expected="a token of the vocabulary",
            got=repr(text) if index is None else f"{text!r}, id {index}",
        )
    return found


def _malformed(source: TokenizerFiles, got: str) -> CheckpointError:
    return CheckpointError("malformed tokenizer.json", path=source.path, field="post_processor", got=got[:200])
