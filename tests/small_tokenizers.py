"""Small hand-made tokenizers for tests, and the plainest possible SentencePiece to compare with."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS

SPACE = "\u2581"


def byte_level(**changes: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json: 256 byte tokens, a few merges, markers; ``changes`` replace top-level parts."""
    alphabet = sorted(BYTE_CHARACTERS)
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["Ġ", "w"], ["o", "r"], ["Ġw", "or"], ["1", "2"]]
    tokens = ["<|end|>", "<s>", "</s>", *alphabet, *(a + b for a, b in merges)]
    return {
        "version": "1.0",
        "added_tokens": [added(i, text) for i, text in enumerate(tokens[:3])] + [added(len(tokens), "<tool>", False)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    } | changes


def added(index: int, content: str, special: bool = True) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": index, "content": content, **flags}


def spm_metadata(words: list[str], scores: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    """GGUF metadata of a SentencePiece vocabulary: <unk> <s> </s>, 256 byte tokens, then ``words``."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [2, 3, 3, *[6] * 256, *[1] * len(words)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + (scores or [float(-i) for i in range(len(words))]),
        "tokenizer.ggml.token_type": types,
    } | changes


def byte_vocabulary(*control: str, user_defined: tuple[str, ...] = ()) -> dict[str, Any]:
    """GGUF metadata of a byte-level BPE: control tokens, user-defined tokens, then the bytes, and two merges."""
    tokens = [*control, *user_defined, *sorted(BYTE_CHARACTERS), "hi", "<|"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(control) + [4] * len(user_defined) + [1] * 258,
        "tokenizer.ggml.merges": ["h i", "< |"],
        "tokenizer.ggml.eos_token_id": 1,
    }


def write_folder(folder: Path, document: dict[str, Any], **files: dict[str, Any]) -> Path:
    """A folder with tokenizer.json and, say, ``tokenizer_config={...}``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def naive_sentencepiece(text: str, scores: dict[str, float]) -> list[str]:
    """Join the adjacent pair whose union scores highest, the leftmost of equals, until none is a word."""
    parts = list(text)
    while True:
        unions = [(scores.get(a + b), -at) for at, (a, b) in enumerate(pairwise(parts))]
        possible = [union for union in unions if union[0] is not None]
        if not possible:
            return parts
        at = -max(possible)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
