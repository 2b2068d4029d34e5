"""tekken.json: Mistral's vocabulary, special tokens first, then tokens that are bytes with ranks."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from gguflike.checkpoint import strictjson
from gguflike.checkpoint.tokenizer.sources.source import (
    Asked,
    Source,
    added,
    around,
    bpe,
    check_bytes,
    document,
    from_ranks,
    split_bytes,
)
from gguflike.errors import CheckpointError

#: The special tokens of versions that do not list them.
_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def read(path: Path, asked: Asked) -> Source:
    """``path`` is tekken.json."""
    content = strictjson.load_texts(path)
    settings = content.get("config")
    if not isinstance(settings, dict):
        raise _malformed(path, "config", "an object", settings)
    pattern = settings.get("pattern")
    if not isinstance(pattern, str):
        raise _malformed(path, "config.pattern", "an expression", pattern)
    count, size = (settings.get(key) for key in ("default_num_special_tokens", "default_vocab_size"))
    for key, number in (("default_num_special_tokens", count), ("default_vocab_size", size)):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 24:
            raise _malformed(path, f"config.{key}", "a count", number)
    assert isinstance(count, int)
    assert isinstance(size, int)
    special = _special(path, content, count)
    ranks = _ranks(path, content, size - count)
    vocab, merges = from_ranks(ranks, count)
    ids = {text: index for index, text in enumerate(special)}
    begin = asked.text("bos", "<s>")
    made = document(
        bpe(vocab, merges, ignore_merges=True),
        [added(index, text) for text, index in ids.items()],
        [],
        split_bytes(pattern),
        around(begin if asked.flag("add_bos_token", True) else None, None, ids),
    )
    return Source(path, made, names={role: text for role, text in _NAMES.items() if text in ids})


def _special(path: Path, content: dict[str, Any], count: int) -> list[str]:
    """Texts of the special tokens by id."""
    listed = content.get("special_tokens")
    named = list(_SPECIAL)
    if listed is not None:
        entries = listed if isinstance(listed, list) else [listed]
        for place, entry in enumerate(entries):
            text = entry.get("token_str") if isinstance(entry, dict) and entry.get("rank") == place else None
            if not isinstance(text, str) or not text:
                raise _malformed(path, f"special_tokens[{place}]", "token_str, and its place as rank", entry)
        named = [entry["token_str"] for entry in entries]
    if len(named) > count or len(set(named)) != len(named):
        raise _malformed(path, "special_tokens", f"up to {count} different tokens", f"{len(named)} tokens")
    return [*named, *(f"<SPECIAL_{index}>" for index in range(len(named), count))]


def _ranks(path: Path, content: dict[str, Any], count: int) -> dict[bytes, int]:
    vocab = content.get("vocab")
    if not isinstance(vocab, list) or len(vocab) < count:
        got = f"{len(vocab)} tokens" if isinstance(vocab, list) else vocab
        raise _malformed(path, "vocab", f"a list of at least {count} tokens", got)
    ranks: dict[bytes, int] = {}
    for place, entry in enumerate(vocab[:count]):
        text = entry.get("token_bytes") if isinstance(entry, dict) and entry.get("rank") == place else None
        try:
            token = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        except (binascii.Error, ValueError):
            token = b""
        if not token or token in ranks:
            raise _malformed(path, f"vocab[{place}]", "its place as rank, and bytes of its own in base64", entry)
        ranks[token] = place
    check_bytes(ranks, path)
    return ranks


def _malformed(path: Path, field: str, expected: str, got: object) -> CheckpointError:
    return CheckpointError("malformed tekken.json", path=path, field=field, expected=expected, got=repr(got)[:120])
