"""What the readers of all kinds of vocabularies share: what they are asked, and parts of tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gguflike.checkpoint.pretokenizers import byte_level
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS
from gguflike.errors import CheckpointError


class Source(NamedTuple):
    """A vocabulary as tokenizer.json, with the scores of its tokens by id where they are SentencePiece's, and the names
    (``bos_token`` and so on) that go without saying."""

    path: Path
    document: dict[str, Any]
    scores: Sequence[float] | None = None
    names: Mapping[str, str] = {}


class Asked(NamedTuple):
    """What a folder says about its tokenizer: ``settings`` are tokenizer_config.json, ``config`` config.json."""

    settings: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The class of the tokenizer and the type of the model in lower case, in which readers look for names."""
        named = self.settings.get("tokenizer_class") or self.config.get("tokenizer_class") or ""
        return f"{named} {self.config.get('model_type') or ''}".lower()

    def flag(self, key: str, default: bool) -> bool:
        """A switch of tokenizer_config.json."""
        value = self.settings.get(key)
        return value if isinstance(value, bool) else default

    def text(self, role: str, default: str) -> str:
        """The token that tokenizer_config.json names for a role."""
        value = self.settings.get(f"{role}_token")
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) and value else default


def added(index: int, content: str, special: bool = True) -> dict[str, Any]:
    """An entry of ``added_tokens``."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": special}


def document(
    model: dict[str, Any],
    tokens: list[dict[str, Any]],
    normalizers: Sequence[dict[str, Any]],
    pre_tokenizer: dict[str, Any] | None,
    post_processor: dict[str, Any] | None,
) -> dict[str, Any]:
    """tokenizer.json of these parts."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(tokens, key=lambda entry: int(entry["id"])),
        "normalizer": {"type": "Sequence", "normalizers": list(normalizers)} if normalizers else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": None,
        "model": model,
    }


def bpe(vocab: dict[str, int], merges: Sequence[Sequence[str]], **settings: Any) -> dict[str, Any]:
    """The model of tokenizer.json for BPE."""
    return {
        "type": "BPE",
        "unk_token": None,
        "byte_fallback": False,
        **settings,
        "vocab": vocab,
        "merges": list(merges),
    }


def split_bytes(regex: str, prefix: bool = False) -> dict[str, Any]:
    """A pre-tokenizer that splits by ``regex``, and writes bytes."""
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level(prefix, False)]}


def around(before: str | None, behind: str | None, ids: Mapping[str, int], double: bool = False) -> dict[str, Any]:
    """A post-processor that puts a token before a text and one behind it. ``double`` is for two texts: whether one more
    stands between them, and nothing before the second."""
    used = dict.fromkeys(text for text in (before, behind) if text is not None and text in ids)

    def piece(text: str) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": text, "type_id": 0}}] if text in used else []

    def sequence(name: str) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": 0}}]

    first = [*piece(before or ""), *sequence("A"), *piece(behind or "")]
    second = piece((behind if double else before) or "")
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second, *sequence("B"), *piece(behind or "")],
        "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in used},
    }


def from_ranks(ranks: Mapping[bytes, int], first: int) -> tuple[dict[str, int], list[list[str]]]:
    """Vocabulary and merges of tokens that are bytes with ranks, which are ids from ``first`` on.

    tiktoken joins the two neighbours whose union has the lowest rank: so every way to split a token in two others is a
    merge of that token's rank.
    """
    written = {token: "".join(map(BYTE_CHARACTERS.__getitem__, token)) for token in ranks}
    merges: list[list[str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:at], token[at:]) for at in range(1, len(token))]
        ways = [(ranks[left], ranks[right], left, right) for left, right in splits if left in ranks and right in ranks]
        merges += [[written[left], written[right]] for _, _, left, right in sorted(ways)]
    return {text: first + ranks[token] for token, text in written.items()}, merges


def check_bytes(ranks: Mapping[bytes, int], path: Path) -> None:
    """CheckpointError where a byte has no token of its own."""
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        expected = "a token for each of the 256 bytes"
        raise CheckpointError("bytes are missing", path=path, expected=expected, got=f"no {bytes(missing[:8])!r}")
