"""WordPiece vocabularies (BERT), as tokenizer.json and as GGUF have them.

tokenizer.json marks what continues a word ("##ing"), GGUF what begins one (U+2581 before it), as llama.cpp's converter
writes it. Words are split and normalized in one way, of which GGUF says whether letters lose their case and accents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gguflike.checkpoint.vocabulary import CONTINUES, LOWERCASE, PRE, SPACE, STRIP_ACCENTS, TokenType, Vocabulary
from gguflike.errors import UnsupportedError

if TYPE_CHECKING:
    from gguflike.checkpoint.tokenizer.files import TokenizerFiles

_LONGEST = 100  # characters of a word; longer ones are unknown, as in every published tokenizer.json


def to_gguf(tokens: Sequence[str], types: Sequence[int]) -> list[str]:
    """Tokens as GGUF writes them. `Vocabulary.written` is its inverse."""
    return [
        token
        if kind == TokenType.CONTROL
        else token.removeprefix(CONTINUES)
        if token.startswith(CONTINUES)
        else SPACE + token
        for token, kind in zip(tokens, types, strict=True)
    ]


def fields(source: TokenizerFiles) -> dict[str, Any]:
    """What the normalizer does, as GGUF keys. UnsupportedError for what GGUF cannot say."""
    normalizer = source.node("normalizer") or {}
    model = source.model
    for place, got, expected in (
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), CONTINUES),
        ("model.max_input_chars_per_word", model.get("max_input_chars_per_word", _LONGEST), _LONGEST),
        ("normalizer", normalizer.get("type"), "BertNormalizer"),
        ("normalizer.clean_text", normalizer.get("clean_text"), True),
        ("normalizer.handle_chinese_chars", normalizer.get("handle_chinese_chars"), True),
        ("pre_tokenizer", (source.node("pre_tokenizer") or {}).get("type"), "BertPreTokenizer"),
    ):
        if got != expected:
            raise UnsupportedError(
                "WordPiece tokenizer is not handled", path=source.path, field=place, expected=expected, got=repr(got)
            )
    found = {LOWERCASE: normalizer.get("lowercase"), STRIP_ACCENTS: normalizer.get("strip_accents")}
    # llama.cpp takes any name here and does the same for all; this is what its converter writes for BERT's vocabulary.
    return {PRE: "jina-v2-en", **{key: value for key, value in found.items() if isinstance(value, bool)}}


def parts(vocabulary: Vocabulary, vocab: Mapping[str, int]) -> dict[str, Any]:
    """The parts of tokenizer.json that are WordPiece's own, with ``vocab`` as it writes it."""
    unknown = vocabulary.special.get("unk")
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None if vocabulary.strip_accents is vocabulary.lowercase else vocabulary.strip_accents,
            "lowercase": vocabulary.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": CONTINUES, "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]" if unknown is None else vocabulary.written(unknown),
            "continuing_subword_prefix": CONTINUES,
            "max_input_chars_per_word": _LONGEST,
            "vocab": vocab,
        },
    }
