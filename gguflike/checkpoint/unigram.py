"""Unigram vocabularies of SentencePiece (T5, XLM-R), as tokenizer.json and as GGUF have them.

Each token has a score, the logarithm of its probability; a text becomes the tokens whose sum is highest. A map from
characters to their normal forms (``precompiled_charsmap``) goes from one to the other byte for byte.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.pretokenizers import PREPEND_SPACE, REPLACE_SPACES
from gguflike.checkpoint.vocabulary import (
    ADD_SPACE,
    CHARSMAP,
    PRE,
    REMOVE_SPACES,
    SCORES,
    SPACE,
    TokenType,
    Vocabulary,
)
from gguflike.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from gguflike.checkpoint.tokenizer.files import TokenizerFiles
    from gguflike.checkpoint.tokenizer.losses import Losses

_MARKUP = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)
_HIGHEST = 3e38  # magnitude of a score, which is a float32
_UNUSED = -10000.0  # the score of ids without a token, as llama.cpp's converter writes it
_TRIMS = [{"type": "Replace", "pattern": {"Regex": end}, "content": ""} for end in (r"\A +", r" +\z")]
#: What Unicode calls white space, beside the space.
_WHITE_SPACE = (*range(0x09, 0x0E), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_SPACES = [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": one} for one in (" ", SPACE)]
#: What leaves out spaces at the ends of a text, and makes one of a run of them.
MERGE_SPACES = [*_TRIMS, _SPACES[0]]


def entries(source: TokenizerFiles) -> list[tuple[str, int]]:
    """(token, id) of tokenizer.json. CheckpointError for a malformed vocabulary."""
    return [(text, index) for index, (text, _) in enumerate(_scored(source))]


def _scored(source: TokenizerFiles) -> list[tuple[str, float]]:
    vocab: Any = source.model.get("vocab")
    pairs: list[tuple[str, float]] = []
    entry: Any
    for entry in vocab if isinstance(vocab, list) else [vocab]:
        pair = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        if not pair or not isinstance(entry[1], int | float) or not abs(entry[1]) < _HIGHEST:
            raise CheckpointError(
                "malformed vocabulary entry",
                path=source.path,
                field="model.vocab",
                expected="[token, score]",
                got=repr(entry)[:200],
            )
        pairs.append((entry[0], float(entry[1])))
    return pairs


def fields(source: TokenizerFiles, count: int, losses: Losses) -> dict[str, Any]:
    """Scores of ``count`` tokens, and what happens to spaces and characters. UnsupportedError where GGUF cannot say."""
    if source.model.get("byte_fallback"):
        losses.differs(
            UnsupportedError(
                "unknown characters become bytes, which readers of GGUF do not do with a Unigram vocabulary",
                path=source.path,
                field="model.byte_fallback",
                got=True,
            )
        )
        losses.reference["model"] = {**source.model, "byte_fallback": False}
    scores = np.full(count, _UNUSED, np.float32)
    for index, (_, score) in enumerate(_scored(source)):
        scores[index] = score
    charsmap, merged, prepended = _normalizer(source)
    prefix, split = _spaces(source, charsmap, losses)
    if prefix and not split:
        _tell_ends(source, merged, losses)
    if (merged or split) and not (prefix or prepended):
        losses.differs(
            UnsupportedError(
                "no space is put before a text; readers of GGUF put one where runs of spaces become one",
                path=source.path,
                field="pre_tokenizer",
            )
        )
    found: dict[str, Any] = {PRE: "default", SCORES: scores, ADD_SPACE: prefix or prepended}
    found[REMOVE_SPACES] = merged or split
    if charsmap:
        found[CHARSMAP] = np.frombuffer(charsmap, np.uint8)
    return found


def _normalizer(source: TokenizerFiles) -> tuple[bytes, bool, bool]:
    """(the map of characters, whether runs of spaces become one, whether a space is put before the text)."""
    charsmap, merged, prefix = b"", False, False
    for step in pretokenizers.flatten(source.node("normalizer"), "normalizers"):
        if step.get("type") == "Precompiled" and not charsmap:
            try:
                charsmap = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
            except (binascii.Error, TypeError, ValueError) as error:
                raise CheckpointError(
                    "malformed tokenizer.json", path=source.path, field="precompiled_charsmap", got=str(error)
                ) from None
        elif step in _SPACES:
            merged = True  # into a space or into U+2581, which is what spaces become
        elif step == PREPEND_SPACE:
            prefix = True
        # Strips of spaces at the ends, which do not count where runs become one.
        elif step not in (*_TRIMS, REPLACE_SPACES) and step.get("type") != "Strip":
            got = repr(dict(step))[:200]
            raise UnsupportedError("normalizer is not handled", path=source.path, field="normalizer", got=got)
    return charsmap, merged, prefix


def _spaces(source: TokenizerFiles, charsmap: bytes, losses: Losses) -> tuple[bool, bool]:
    """(whether a space is put before the text, whether runs of white space separate words)."""
    prefix = split = False
    kept: list[Mapping[str, Any]] = []
    for step in pretokenizers.flatten(source.node("pre_tokenizer")):
        if step.get("type") == "WhitespaceSplit":
            split = True
            _tell_white_space(charsmap, losses)
            kept.append({"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False})
        elif step.get("type") == "Metaspace" and step.get("replacement") == SPACE:
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            prefix = scheme != "never"
            if scheme == "first":
                losses.say(
                    "Metaspace ('first') puts a space before a text; readers of GGUF put one also behind every special "
                    "token"
                )
            kept.append({**step, "prepend_scheme": "always" if prefix else "never"})
        else:
            raise UnsupportedError(
                "pre_tokenizer step is not handled",
                path=source.path,
                field="pre_tokenizer",
                got=repr(dict(step))[:200],
            )
    if kept:
        losses.reference["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": kept}
    return prefix, split


def _tell_ends(source: TokenizerFiles, merged: bool, losses: Losses) -> None:
    """Tell what readers of GGUF do with spaces at the ends of a text, and let the reference do so too."""
    steps = list(pretokenizers.flatten(source.node("normalizer"), "normalizers"))
    if not merged:
        losses.say(
            "Metaspace puts no space before a text that begins with one; readers of GGUF do: such texts get other ids"
        )
    elif not any(step == _TRIMS[1] or (step.get("type") == "Strip" and step.get("strip_right")) for step in steps):
        losses.say("readers of GGUF leave out spaces at the end of a text, where runs of them become one")
    steps += [*(_TRIMS if merged else ()), PREPEND_SPACE]
    losses.reference["normalizer"] = {"type": "Sequence", "normalizers": steps}
    never = [{**step, "prepend_scheme": "never"} for step in losses.reference["pre_tokenizer"]["pretokenizers"]]
    losses.reference["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": never}


def _tell_white_space(charsmap: bytes, losses: Losses) -> None:
    """Tell of white space that separates words, though the map of characters does not make a space of it."""
    from tokenizers.normalizers import Precompiled

    normalized = Precompiled(charsmap).normalize_str if charsmap else str
    try:
        others = [code for code in _WHITE_SPACE if normalized(chr(code)).strip(" ")]
    except Exception:  # of a broken map, which the proof tells of
        return
    if others:
        shown = ", ".join(f"U+{code:04X}" for code in others[:4]) + (" and others" if others[4:] else "")
        losses.say(f"white space that is no space ({shown}) separates words; readers of GGUF take it for characters")


def parts(vocabulary: Vocabulary, markup: bool, ids: Sequence[int] | None = None) -> dict[str, Any]:
    """The parts of tokenizer.json that are Unigram's own, with all tokens or those of ``ids`` in their order.

    Unless ``markup``, no text becomes a control token.
    """
    types, scores = vocabulary.types, vocabulary.scores
    if ids is None:
        used = np.flatnonzero(types != TokenType.UNUSED)
        count = int(used[-1]) + 1 if len(used) else 0  # the rest only fills up the embedding
        types = types[:count]
        pairs = [list(pair) for pair in zip(vocabulary.texts.tolist()[:count], scores[:count].tolist(), strict=True)]
    else:
        types = types[ids]
        pairs = [[vocabulary.tokens[index], float(scores[index])] for index in ids]
    hidden = [TokenType.UNUSED] if markup else [TokenType.UNUSED, *_MARKUP]
    for place in np.flatnonzero(np.isin(types, hidden)).tolist():
        # A space cannot occur in what is looked up, so that a token with one is never found.
        pairs[place][0] = f" {pairs[place][0]}"
    for place in np.flatnonzero(types == TokenType.UNUSED).tolist():
        pairs[place][1] = 0.0  # the lowest score of all tells what an unknown character costs
    steps: list[dict[str, Any]] = []
    if vocabulary.charsmap:
        text = base64.b64encode(vocabulary.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": text})
    if vocabulary.removes_spaces:
        steps += MERGE_SPACES
    if vocabulary.add_space_prefix or vocabulary.removes_spaces:
        steps.append(PREPEND_SPACE)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*steps, REPLACE_SPACES]},
        "pre_tokenizer": None,
        "decoder": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
        "model": {
            "type": "Unigram",
            "unk_id": vocabulary.special.get("unk"),
            "vocab": pairs,
            "byte_fallback": False,
        },
    }
