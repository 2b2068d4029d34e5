"""Files of tiktoken: a token on each line, its bytes in base64 and its rank, which is its id (Qwen, Kimi, Llama 3).

How texts are split, and which special tokens there are, stands in the code of each model and is told here by its name.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import NamedTuple

from gguflike.checkpoint import files
from gguflike.checkpoint.pretokenizers import KIMI, LLAMA3, QWEN2
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
from gguflike.errors import CheckpointError, UnsupportedError

_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,18})")


class _Kind(NamedTuple):
    """How a model uses its file: words of its name, how it splits, its special tokens from the first free id on."""

    words: tuple[str, ...]
    split: str
    ignore_merges: bool = False
    special: tuple[str, ...] = ()
    ends: str = ""  # the token that ends a text, where the files name none


_KINDS = (
    _Kind(
        ("qwen",),
        QWEN2,
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205))),
        ends="<|endoftext|>",
    ),
    _Kind(("kimi", "tiktokentokenizer"), KIMI),
    _Kind(("glm", "llama", "pretrainedtokenizer"), LLAMA3, ignore_merges=True),
)


def is_one(data: bytes) -> bool:
    """Whether a file begins as tiktoken's do."""
    return _LINE.fullmatch(data[:4096].split(b"\n", 1)[0].rstrip(b"\r")) is not None


def read(path: Path, asked: Asked) -> Source:
    """``path`` is a file of tiktoken's."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(files.read(path).split(b"\n"), 1):
        line = line.rstrip(b"\r")
        if not line:
            continue
        found = _LINE.fullmatch(line)
        try:
            token = base64.b64decode(found[1], validate=True) if found else b""
        except binascii.Error:
            token = b""
        if not found or not token or token in ranks:
            expected = "bytes in base64 and a rank, each token once"
            raise CheckpointError(
                "malformed line", path=path, field=f"line {number}", expected=expected, got=repr(line[:80])
            )
        ranks[token] = int(found[2])
    if not ranks:
        raise CheckpointError("the vocabulary is empty", path=path)
    check_bytes(ranks, path)
    kind = next((kind for kind in _KINDS if any(word in asked.kind for word in kind.words)), None)
    if kind is None:
        raise UnsupportedError(
            "a tiktoken file does not say how it splits texts, and this model is not known",
            path=path,
            expected="a model of " + ", ".join(word for each in _KINDS for word in each.words[:1]),
            got=asked.kind.strip() or "no tokenizer_class",
        )
    vocab, merges = from_ranks(ranks, 0)
    free = max(ranks.values()) + 1
    special = {text: free + place for place, text in enumerate(kind.special)}
    named = {role: asked.text(role, "") for role in ("bos", "eos")}
    before, behind = (named[role] if asked.flag(f"add_{role}_token", False) else None for role in ("bos", "eos"))
    made = document(
        bpe(vocab, merges, ignore_merges=kind.ignore_merges),
        [added(index, text) for text, index in special.items()],
        [],
        split_bytes(kind.split),
        around(before, behind, {**_decoder(asked), **special}),
    )
    names = {"eos_token": kind.ends} if kind.ends else {}
    return Source(path, made, names=names)


def _decoder(asked: Asked) -> dict[str, int]:
    """Text -> id of the tokens that tokenizer_config.json adds."""
    decoder = asked.settings.get("added_tokens_decoder")
    entries = decoder.items() if isinstance(decoder, dict) else ()
    return {
        entry["content"]: int(index)
        for index, entry in entries
        if index.isdigit() and isinstance(entry, dict) and isinstance(entry.get("content"), str)
    }
