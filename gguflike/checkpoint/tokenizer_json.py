"""GGUF metadata -> the tokenizer files of a Hugging Face folder: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.excerpt import MAX_SPLIT_WORK, Excerpt
from gguflike.checkpoint.vocabulary import CHAT_TEMPLATE, SPACE, TOKENS, TokenType, Vocabulary
from gguflike.errors import GGUFError


def tokenizer_json_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A complete tokenizer.json document for ``tokenizers.Tokenizer.from_str(json.dumps(...))``.

    Byte-level BPE gets the pre-tokenizer named by ``tokenizer.ggml.pre``, and the normalizer that models of that name
    were trained with, which readers of GGUF leave out. A SentencePiece vocabulary becomes BPE with byte fallback whose
    merges are rebuilt from the scores (``spm_merges``).
    """
    vocabulary = Vocabulary.from_metadata(metadata)
    found = document(vocabulary)
    if vocabulary.model == "gpt2" and pretokenizers.by_name(vocabulary.pre).nfc:
        found["normalizer"] = {"type": "NFC"}
    return found


def document(vocabulary: Vocabulary, excerpt: Excerpt | None = None, markup: bool = True) -> dict[str, Any]:
    """tokenizer.json that does what llama.cpp does with a checked vocabulary; or with an excerpt of it.

    Without ``markup`` it cannot find control tokens in a text, if it is a Unigram (the others need only be told so).
    """
    parts = _parts(vocabulary, excerpt, markup)
    hidden = vocabulary.model == "t5" and not markup
    added = [index for index in vocabulary.added_ids() if not (hidden and vocabulary.is_special(index))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(vocabulary, index) for index in added],
        "normalizer": parts["normalizer"],
        "pre_tokenizer": parts["pre_tokenizer"],
        "post_processor": _post_processor(vocabulary),
        "decoder": parts["decoder"],
        "model": parts["model"],
    }


def _parts(vocabulary: Vocabulary, excerpt: Excerpt | None, markup: bool) -> dict[str, Any]:
    """normalizer, pre_tokenizer, decoder and model."""
    if vocabulary.model == "t5":
        from gguflike.checkpoint import unigram

        return unigram.parts(vocabulary, markup, None if excerpt is None else excerpt.ids)
    if vocabulary.model == "bert":
        from gguflike.checkpoint import wordpiece

        padding = _padding(vocabulary)
        ids = [index for index in range(len(vocabulary.texts)) if index not in padding]
        return wordpiece.parts(vocabulary, {vocabulary.written(index): index for index in ids})
    return _bpe(vocabulary, excerpt)


def _bpe(vocabulary: Vocabulary, excerpt: Excerpt | None) -> dict[str, Any]:
    ids = range(len(vocabulary.texts)) if excerpt is None else excerpt.ids
    tokens = vocabulary.texts.tolist() if excerpt is None else [vocabulary.tokens[index] for index in ids]
    padding = _padding(vocabulary)
    vocab = {token: index for token, index in zip(tokens, ids, strict=True) if index not in padding}
    if vocabulary.model == "llama":
        merges = spm_merges(tokens, vocabulary.types[ids].tolist(), vocabulary.scores[ids].tolist())
    else:
        pairs = vocabulary.merges(None if excerpt is None else excerpt.merges)
        merges = [[a, b] for a, b in pairs if a in vocab and b in vocab and a + b in vocab]
    bytewise = vocabulary.model == "gpt2"
    parts = _byte_level(vocabulary) if bytewise else _sentencepiece(vocabulary)
    parts["model"] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": _unk(vocabulary),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": not bytewise,
        "byte_fallback": not bytewise,
        "ignore_merges": parts.pop("ignore_merges"),
        "vocab": vocab,
        "merges": merges,
    }
    return parts


def tokenizer_config_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: special tokens by text, flags, and the chat templates."""
    vocabulary = Vocabulary.from_metadata(metadata)
    config: dict[str, Any] = {
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "added_tokens_decoder": {
            str(index): {key: value for key, value in _added(vocabulary, index).items() if key != "id"}
            for index in vocabulary.added_ids()
        },
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for role in ("bos", "eos", "unk", "sep", "pad", "mask"):
        index = vocabulary.special.get(role)
        if index is not None:
            config[f"{role}_token"] = vocabulary.written(index)
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if isinstance(length, int):
        config["model_max_length"] = length
    templates = chat_templates(metadata)
    if set(templates) == {"default"}:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    return config


def chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Name -> Jinja source of every chat template in the file; the unnamed one is "default". GGUFError for one that is
    no text."""
    found: dict[str, str] = {}
    start = CHAT_TEMPLATE + "."
    for key in (CHAT_TEMPLATE, *(key for key in metadata if key.startswith(start))):
        text = metadata.get(key)
        if isinstance(text, str):
            found["default" if key == CHAT_TEMPLATE else key.removeprefix(start)] = text
        elif text is not None:
            got = "bytes that are no UTF-8" if isinstance(text, bytes) else type(text).__name__
            raise GGUFError("wrong type", field=key, expected="a text", got=got)
    return found


def _added(vocabulary: Vocabulary, index: int) -> dict[str, Any]:
    text = vocabulary.written(index)
    return {
        "id": index,
        "content": text,
        "single_word": False,
        "lstrip": vocabulary.strips.takes(text, "lstrip"),
        "rstrip": vocabulary.strips.takes(text, "rstrip"),
        "normalized": False,
        "special": vocabulary.is_special(index),
    }


def _padding(vocabulary: Vocabulary) -> set[int]:
    """Ids that only fill up the embedding: they have no place in tokenizer.json."""
    unused = np.flatnonzero(vocabulary.types == TokenType.UNUSED).tolist()
    return {index for index in unused if vocabulary.written(index) == f"[PAD{index}]"}


def _unk(vocabulary: Vocabulary) -> str | None:
    index = vocabulary.special.get("unk")
    return None if index is None or vocabulary.model == "gpt2" else vocabulary.tokens[index]


def _byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    scheme = pretokenizers.by_name(vocabulary.pre)
    return {
        "normalizer": None,
        "pre_tokenizer": pretokenizers.to_json(scheme, vocabulary.add_space_prefix),
        "decoder": pretokenizers.byte_level(True, True),
        "ignore_merges": scheme.ignore_merges,
    }


def _sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if vocabulary.add_space_prefix else []
    decoder: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.add_space_prefix:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoder},
        "ignore_merges": False,
    }


def spm_merges(tokens: list[str], types: list[int], scores: list[float]) -> list[list[str]]:
    """Merges that make BPE agree with SentencePiece: join the adjacent pair whose union has the highest score.

    Every way to split a token in two tokens becomes a merge of that token's rank. SentencePiece takes the leftmost of
    equal pairs; among the splits of one token, the one with the longer left part comes first, because runs of one
    character are joined from the left, so that the odd piece stands at their right end.
    """
    known = {token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.NORMAL}
    if sum(len(token) ** 2 for token in known) > MAX_SPLIT_WORK:
        raise GGUFError(
            "tokens are too long for a SentencePiece vocabulary", field=TOKENS, got=len(max(known, key=len))
        )
    ranked = sorted((-scores[index], index) for index, token in enumerate(tokens) if len(token) > 1 and token in known)
    merges: list[list[str]] = []
    for _, index in ranked:
        token = tokens[index]
        for at in range(len(token) - 1, 0, -1):
            left, right = token[:at], token[at:]
            if left in known and right in known:
                merges.append([left, right])
    return merges


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any]:
    """TemplateProcessing that adds BOS, EOS and separators where the file says so."""

    def special(role: str, type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token(role), "type_id": type_id}}

    def template(sequence: str, type_id: int, begins: bool = True) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": type_id}}]
        if vocabulary.add_bos and begins:
            parts.insert(0, special("bos", type_id))
        if vocabulary.add_eos:
            parts.append(special(vocabulary.ending, type_id))
        return parts

    def token(role: str) -> str:
        return vocabulary.written(vocabulary.special[role])

    wanted = (("bos", vocabulary.add_bos), (vocabulary.ending, vocabulary.add_eos), ("sep", vocabulary.add_sep))
    roles = dict.fromkeys(role for role, adds in wanted if adds)
    between = [special("sep", 0)] if vocabulary.add_sep else []
    # Encoders begin a pair of texts once; decoders, whose pairs nobody defines, begin each.
    begins = vocabulary.model in ("gpt2", "llama", "gemma4") and not vocabulary.add_sep
    return {
        "type": "TemplateProcessing",
        "single": template("A", 0),
        "pair": [*template("A", 0), *between, *template("B", 1, begins)],
        "special_tokens": {
            token(role): {"id": token(role), "ids": [vocabulary.special[role]], "tokens": [token(role)]}
            for role in roles
        },
    }
