"""Small hand-made tokenizers for tests, and the plainest possible SentencePiece to compare with."""

from __future__ import annotations

import base64
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguflike.checkpoint import pretokenizers
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


SPACE = "\u2581"


def template(begin: str, end: str, middle: list[str]) -> dict[str, Any]:
    def piece(text: str, kind: int = 0) -> dict[str, Any]:
        return (
            {"Sequence": {"id": text, "type_id": kind}}
            if text in "AB"
            else {"SpecialToken": {"id": text, "type_id": kind}}
        )

    return {
        "type": "TemplateProcessing",
        "single": [piece(begin), piece("A"), piece(end)],
        "pair": [piece(begin), piece("A"), *map(piece, middle), piece("B", 1), piece(end, 1)],
        "special_tokens": {},
    }


def tokenizer_json(**parts: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": None,
        "post_processor": None,
    } | parts


def with_ids(processor: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    named = {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in ids.items()}
    return processor | {"special_tokens": named}


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##s", "world", "n", "##a", "##i", "##ive", "##hello"]
WORDS += ["cafe", "caf", "##é", "#", "x", ",", "H", "##ello", "z", "[", "]", "cls", "<", ">", "s", "/", "mask"]

BERT_NAMES = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}


def bert(**normalizer: Any) -> dict[str, Any]:
    ids = {word: index for index, word in enumerate(WORDS)}
    options = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    return tokenizer_json(
        added_tokens=[added(index, WORDS[index]) for index in range(5)],
        normalizer={"type": "BertNormalizer", **options, **normalizer},
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=with_ids(template("[CLS]", "[SEP]", ["[SEP]"]), {"[CLS]": 2, "[SEP]": 3}),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    )


PIECES: list[list[Any]] = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
PIECES += [[SPACE, -2.5], ["hello", -4.0], [SPACE + "hello", -3.0], ["s", -2.0], ["he", -3.5], ["llo", -3.75]]
PIECES += [["l", -5.0], ["o", -5.0], ["h", -5.25], ["e", -4.5], ["<", -6.0], [">", -6.0], ["/", -6.5], ["w", -5.5]]
PIECES += [["or", -4.0], ["ld", -4.25], [SPACE + "worlds", -6.0], ["n", -5.0], ["a", -5.0], ["<mask>", 0.0]]

XLMR_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
XLMR_NAMES |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}


def charsmap() -> bytes:
    """A map of one character: "é" becomes "e". A double array as Darts has it: states XOR bytes, then the results.

    An entry of state s for byte c stands at offset(s) ^ c: c in the low eight bits, bit 8 where a text may end here,
    its own offset from bit 10 on; the value of an end has bit 31.
    """
    cells = [0] * 2048
    first, second = "é".encode()
    cells[0] = 256 << 10
    at = 256 ^ first
    cells[at] = first | ((512 ^ at) << 10)
    end = 512 ^ second
    cells[end] = second | 1 << 8 | ((1024 ^ end) << 10)
    cells[1024] = 1 << 31
    blob = struct.pack(f"<{len(cells)}I", *cells)
    return struct.pack("<I", len(blob)) + blob + b"e\0"


def xlmr(**changes: Any) -> dict[str, Any]:
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    ids = {"<s>": 0, "</s>": 2}
    return (
        tokenizer_json(
            added_tokens=[*(added(index, PIECES[index][0]) for index in range(4)), added(len(PIECES) - 1, "<mask>")],
            normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap()).decode()},
            pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            post_processor=with_ids(template("<s>", "</s>", ["</s>", "</s>"]), ids),
            decoder=metaspace,
            model={"type": "Unigram", "unk_id": 3, "vocab": PIECES, "byte_fallback": False},
        )
        | changes
    )


MERGED = [b"he", b"ll", b"hell", b"lo", b"hello", b" w", b"or", b" wor", b"\xc3\xa9", b"12"]

RANKS = {token: rank for rank, token in enumerate([*(bytes([b]) for b in range(256)), *MERGED])}


def tekken(**changes: Any) -> dict[str, Any]:
    settings = {
        "pattern": pretokenizers.TEKKEN,
        "default_vocab_size": 30 + len(RANKS) - 1,
        "default_num_special_tokens": 30,
        "version": "v3",
    }
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for token, rank in RANKS.items()]
    return {"config": settings | changes.pop("config", {}), "vocab": vocab} | changes
