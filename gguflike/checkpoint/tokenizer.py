"""The tokenizer of a Hugging Face folder -> the ``tokenizer.*`` metadata of a GGUF file.

Everything is read from the JSON files a folder publishes, chiefly tokenizer.json; nothing is tokenized to find out.
The way back is in tokenizer_json.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.tokenizer_files import TokenizerFiles
from gguflike.checkpoint.tokenizer_json import (
    spm_merges,
    tokenizer_config_from_metadata,
    tokenizer_json_from_metadata,
)
from gguflike.checkpoint.vocabulary import (
    ADD_BOS,
    ADD_EOS,
    ADD_SPACE,
    BYTE_TOKEN,
    CHAT_TEMPLATE,
    CHAT_TEMPLATES,
    MERGES,
    MODEL,
    PRE,
    SCORES,
    SPACE,
    SPECIAL_KEYS,
    TOKENS,
    TYPES,
    TokenType,
)
from gguflike.errors import CheckpointError, UnsupportedError

__all__ = ["metadata_from_folder", "tokenizer_config_from_metadata", "tokenizer_json_from_metadata"]

#: Texts of tokens that end a turn, in the order in which one is chosen as ``eot``.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>")
_MESSAGE_END = "<|eom_id|>"

#: Score of tokens that no merge makes: below every merged token.
_UNMERGED = -1e6


def metadata_from_folder(
    folder: Path, config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All ``tokenizer.*`` keys for the checkpoint in ``folder``, ready for the container's writer.

    Token types are int32 and scores float32 arrays, tokens and merges lists of str. The vocabulary is padded with
    unused tokens "[PAD<id>]" to the ``vocab_size`` of ``config``, the rows of the embedding.

    Raises CheckpointError where files are missing or contradict each other, UnsupportedError where the tokenizer does
    something that GGUF has no way to say.
    """
    source = TokenizerFiles(folder)
    spm = _is_sentencepiece(source)
    tokens = _vocabulary(source, _vocab_size(config))
    special = _special_ids(source, tokens, config, generation_config)
    types = _types(source, tokens, special.get("unk") if spm else None)
    metadata: dict[str, Any] = {MODEL: "llama" if spm else "gpt2"}
    if spm:
        metadata |= _spm_fields(source, tokens, types)
    else:
        metadata |= _byte_level_fields(source)
    metadata[TOKENS] = tokens
    metadata[TYPES] = np.array(types, np.int32)
    for role, index in special.items():
        metadata[SPECIAL_KEYS[role]] = index
    for key, role in ((ADD_BOS, "bos"), (ADD_EOS, "eos")):
        metadata[key] = role in special and _adds(source, role, tokens[special[role]])
    return metadata | _template_fields(source)


def _is_sentencepiece(source: TokenizerFiles) -> bool:
    """True for SentencePiece-style BPE, False for byte-level BPE; other models are not handled."""
    kind = source.model.get("type")
    if kind not in (None, "BPE"):
        raise UnsupportedError(
            "tokenizer model is not handled", path=source.path, field="model.type", expected="BPE", got=kind
        )
    steps = pretokenizers.flatten(source.node("pre_tokenizer"))
    if any(step.get("type") == "ByteLevel" for step in steps):
        return False
    if source.model.get("byte_fallback"):
        return True
    raise UnsupportedError(
        "BPE is neither byte-level nor has byte fallback",
        path=source.path,
        field="pre_tokenizer",
        got=", ".join(str(step.get("type")) for step in steps) or "nothing",
    )


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    size = config.get("vocab_size")
    if size is None and isinstance(config.get("text_config"), dict):
        size = config["text_config"].get("vocab_size")
    return size if isinstance(size, int) else None


def _vocabulary(source: TokenizerFiles, size: int | None) -> list[str]:
    """Token texts by id. Ids without a token become "[PAD<id>]"."""
    by_id: dict[int, str] = {}
    entries = list(_entries(source))
    for text, index in entries:
        if not isinstance(text, str) or not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise CheckpointError("malformed vocabulary entry", path=source.path, got=f"{text!r}: {index!r}"[:200])
        if by_id.setdefault(index, text) != text:
            raise CheckpointError(
                "two tokens share an id", path=source.path, got=f"{by_id[index]!r} and {text!r} at {index}"
            )
    if not by_id:
        raise CheckpointError("the vocabulary is empty", path=source.path)
    count = max(by_id) + 1
    if size is None:
        size = count
    # One id per token and few gaps: anything else is a broken file, or an attempt to make the list huge.
    if count > size or size > 16 * len(by_id) + 65536:
        raise CheckpointError(
            "tokenizer.json does not fit config.json",
            path=source.path,
            expected=f"ids below vocab_size {size}",
            got=f"{len(by_id)} tokens up to id {count - 1}",
        )
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    if len(set(tokens)) != size:
        repeated = next(text for text in tokens if tokens.count(text) > 1)
        raise CheckpointError("two ids share a token", path=source.path, got=repr(repeated))
    return tokens


def _entries(source: TokenizerFiles) -> Iterator[tuple[Any, Any]]:
    vocab = source.model.get("vocab")
    if not isinstance(vocab, dict):
        raise CheckpointError(
            "malformed tokenizer.json", path=source.path, field="model.vocab", got=type(vocab).__name__
        )
    yield from vocab.items()
    for entry in source.added:
        yield entry["content"], entry.get("id")


def _types(source: TokenizerFiles, tokens: list[str], unknown: int | None) -> list[int]:
    """Token types; SentencePiece vocabularies (which have ``unknown``) also have byte tokens."""
    known = set(source.model["vocab"]) | {entry["content"] for entry in source.added}
    types = [int(TokenType.NORMAL if text in known else TokenType.UNUSED) for text in tokens]
    if source.model.get("byte_fallback"):
        for index, text in enumerate(tokens):
            if BYTE_TOKEN.fullmatch(text):
                types[index] = TokenType.BYTE
    for entry in source.added:
        types[entry["id"]] = TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED
    if unknown is not None:
        types[unknown] = TokenType.UNKNOWN
    return types


def _special_ids(
    source: TokenizerFiles, tokens: list[str], config: Mapping[str, Any], generation_config: Mapping[str, Any] | None
) -> dict[str, int]:
    """Role -> id: by the text that the tokenizer's files name, else the id in config.json or generation_config.json."""
    by_text = {text: index for index, text in enumerate(tokens)}
    numbers = [
        mapping for mapping in (config, config.get("text_config"), generation_config) if isinstance(mapping, Mapping)
    ]
    ids: dict[str, int] = {}
    for role in ("bos", "eos", "unk", "sep", "pad", "mask"):
        text = source.token_text(role)
        if text in by_text:
            ids[role] = by_text[text]
            continue
        for mapping in numbers:
            found = _id_list(mapping.get(f"{role}_token_id"), len(tokens))
            if found:
                ids[role] = found[0]
                break
    ends = [index for mapping in numbers for index in _id_list(mapping.get("eos_token_id"), len(tokens))]
    _add_turn_ends(ids, ends, tokens)
    return ids


def _id_list(value: Any, count: int) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < count]


def _add_turn_ends(ids: dict[str, int], ends: list[int], tokens: list[str]) -> None:
    """Name further end-of-generation ids that config files list beside eos: the end of a turn, the end of a message."""
    rest = [index for index in dict.fromkeys(ends) if index != ids.get("eos")]
    for index in rest:
        if tokens[index] == _MESSAGE_END:
            ids["eom"] = index
    rest = sorted(
        (index for index in rest if tokens[index] != _MESSAGE_END),
        key=lambda index: _TURN_ENDS.index(tokens[index]) if tokens[index] in _TURN_ENDS else len(_TURN_ENDS),
    )
    for role, index in zip([role for role in ("eot", "eom") if role not in ids], rest, strict=False):
        ids[role] = index


def _adds(source: TokenizerFiles, role: str, text: str) -> bool:
    """Whether encoding adds the token: tokenizer_config.json says so, or else the post-processor does it."""
    stated = source.config.get(f"add_{role}_token")
    if isinstance(stated, bool):
        return stated
    for step in pretokenizers.flatten(source.node("post_processor"), "processors"):
        if step.get("type") == "TemplateProcessing":
            single = step.get("single")
            piece = single[0 if role == "bos" else -1] if isinstance(single, list) and len(single) > 1 else None
            token = piece.get("SpecialToken") if isinstance(piece, dict) else None
            if isinstance(token, dict) and token.get("id") == text:
                return True
    return False


def _byte_level_fields(source: TokenizerFiles) -> dict[str, Any]:
    for step in pretokenizers.flatten(source.node("normalizer"), "normalizers"):
        if step.get("type") != "NFC":
            raise UnsupportedError("normalizer is not handled", path=source.path, field="normalizer", got=dict(step))
    pre_tokenizer = source.node("pre_tokenizer")
    scheme = pretokenizers.recognize(pre_tokenizer, bool(source.model.get("ignore_merges")))
    prefix = any(
        step.get("type") == "ByteLevel" and step.get("add_prefix_space")
        for step in pretokenizers.flatten(pre_tokenizer)
    )
    # A space inside a part cannot be written in "left right"; byte-level vocabularies write spaces as U+0120 anyway.
    merges = [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in _merge_pairs(source)]
    return {PRE: scheme.name, MERGES: merges, ADD_SPACE: prefix}


def _merge_pairs(source: TokenizerFiles) -> list[tuple[str, str]]:
    """Merges of tokenizer.json in either spelling: "left right", or ["left", "right"] since tokenizers 0.20."""
    merges = source.model.get("merges")
    pairs: list[tuple[str, str]] = []
    for merge in merges if isinstance(merges, list) else ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise CheckpointError("malformed merge", path=source.path, field="model.merges", got=repr(merge)[:200])
        pairs.append((parts[0], parts[1]))
    return pairs


def _spm_fields(source: TokenizerFiles, tokens: list[str], types: list[int]) -> dict[str, Any]:
    """Scores such that joining by highest score does what the merges do, best merge first."""
    pairs = _merge_pairs(source)
    rank: dict[str, int] = {}
    for left, right in pairs:
        rank.setdefault(left + right, len(rank))
    scores = [float(-rank[text]) if text in rank else _UNMERGED for text in tokens]
    missing = {tuple(pair) for pair in spm_merges(tokens, types, scores)}.difference(pairs)
    if missing:
        left, right = min(missing)
        raise UnsupportedError(
            "the merges are not those of a SentencePiece vocabulary; GGUF keeps only one score per token",
            path=source.path,
            field="model.merges",
            expected=f"a merge of {left!r} and {right!r}, as {left + right!r} is a token",
            got=f"{len(pairs)} merges without it, {len(missing)} missing in all",
        )
    return {PRE: "default", SCORES: np.array(scores, np.float32), ADD_SPACE: _spm_prefix(source)}


def _spm_prefix(source: TokenizerFiles) -> bool:
    """Whether a space is put before the text; every space is written as U+2581. Other normalization is not handled."""
    prefix = False
    for step in pretokenizers.flatten(source.node("normalizer"), "normalizers"):
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif not (
            step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE
        ):
            raise UnsupportedError("normalizer is not handled", path=source.path, field="normalizer", got=dict(step))
    for step in pretokenizers.flatten(source.node("pre_tokenizer")):
        if step.get("type") == "Metaspace" and step.get("replacement") == SPACE and step.get("split") is False:
            prefix = prefix or step.get("prepend_scheme", "always") != "never"
        elif not (step.get("type") == "Split" and step.get("pattern") == {"String": " "}):  # finds none: all are U+2581
            raise UnsupportedError(
                "pre_tokenizer step is not handled", path=source.path, field="pre_tokenizer", got=dict(step)
            )
    return prefix


def _template_fields(source: TokenizerFiles) -> dict[str, Any]:
    """Chat templates: the default under tokenizer.chat_template, others under tokenizer.chat_template.<name>."""
    templates = source.templates()
    fields: dict[str, Any] = {}
    if "default" in templates:
        fields[CHAT_TEMPLATE] = templates.pop("default")
    for name, text in templates.items():
        fields[f"{CHAT_TEMPLATE}.{name}"] = text
    if templates:
        fields[CHAT_TEMPLATES] = list(templates)
    return fields
