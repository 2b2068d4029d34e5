"""The tokenizer of a Hugging Face folder -> the ``tokenizer.*`` metadata of a GGUF file.

Everything is read from the JSON files a folder publishes, chiefly tokenizer.json; nothing is tokenized to find out.
The way back is in tokenizer_json.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gguflike.checkpoint import pretokenizers, unigram, wordpiece
from gguflike.checkpoint.tokenizer_files import TokenizerFiles
from gguflike.checkpoint.tokenizer_json import (
    spm_merges,
    tokenizer_config_from_metadata,
    tokenizer_json_from_metadata,
)
from gguflike.checkpoint.vocabulary import (
    ADD_BOS,
    ADD_EOS,
    ADD_SEP,
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
from gguflike.errors import CheckpointError, UnsupportedError, counted

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
    model = _model(source, config)
    tokens = _vocabulary(source, _vocab_size(config), model)
    special = _special_ids(source, tokens, config, generation_config)
    types = _types(source, tokens, special.get("unk") if model in ("llama", "t5") else None)
    metadata: dict[str, Any] = {MODEL: model}
    if model == "llama":
        metadata |= _spm_fields(source, tokens, types)
    elif model == "gpt2":
        metadata |= _byte_level_fields(source)
    elif model == "gemma4":
        metadata |= _raw_fields(source, len(tokens))
    elif model == "t5":
        metadata |= unigram.fields(source, len(tokens))
    else:
        metadata |= wordpiece.fields(source)
    metadata[TOKENS] = wordpiece.to_gguf(tokens, types) if model == "bert" else tokens
    metadata[TYPES] = np.array(types, np.int32)
    for role, index in special.items():
        metadata[SPECIAL_KEYS[role]] = index
    for key, role in ((ADD_BOS, "bos"), (ADD_EOS, "eos")):
        metadata[key] = role in special and _adds(source, role, tokens[special[role]])
    separates = _separates(source, {tokens[special[role]] for role in ("sep", "eos") if role in special})
    if separates is not None:
        metadata[ADD_SEP] = separates and "sep" in special
    return metadata | _template_fields(source)


#: Beginnings of ``model_type`` of models whose merges llama.cpp takes as they are, though SentencePiece made them.
_RAW = ("gemma4",)


def _model(source: TokenizerFiles, config: Mapping[str, Any]) -> str:
    """GGUF's name for the kind of vocabulary. UnsupportedError where it has none."""
    kind = source.model.get("type")
    if kind in ("WordPiece", "Unigram"):
        return "bert" if kind == "WordPiece" else "t5"
    if not _is_sentencepiece(source):
        return "gpt2"
    return "gemma4" if str(config.get("model_type")).startswith(_RAW) else "llama"


def _is_sentencepiece(source: TokenizerFiles) -> bool:
    """True for SentencePiece-style BPE, False for byte-level BPE; other models are not handled."""
    kind = source.model.get("type")
    if kind not in (None, "BPE"):
        raise UnsupportedError(
            "tokenizer model is not handled",
            path=source.path,
            field="model.type",
            expected="BPE, WordPiece or Unigram",
            got=kind,
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


def _vocabulary(source: TokenizerFiles, size: int | None, model: str) -> list[str]:
    """Token texts by id. Ids without a token become "[PAD<id>]"."""
    by_id: dict[int, str] = {}
    entries = list(_entries(source, model))
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
            got=f"{counted(len(by_id), 'token')} up to id {count - 1}",
        )
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    if len(set(tokens)) != size:
        repeated = next(text for text in tokens if tokens.count(text) > 1)
        raise CheckpointError("two ids share a token", path=source.path, got=repr(repeated))
    return tokens


def _entries(source: TokenizerFiles, model: str) -> Iterator[tuple[Any, Any]]:
    vocab = dict(unigram.entries(source)) if model == "t5" else source.model.get("vocab")
    if not isinstance(vocab, dict):
        raise CheckpointError(
            "malformed tokenizer.json", path=source.path, field="model.vocab", got=type(vocab).__name__
        )
    yield from vocab.items()
    for entry in source.added:
        yield entry["content"], entry.get("id")


def _types(source: TokenizerFiles, tokens: list[str], unknown: int | None) -> list[int]:
    """Token types; SentencePiece vocabularies (which have ``unknown``) also have byte tokens."""
    vocab = source.model["vocab"]
    known = {entry if isinstance(entry, str) else entry[0] for entry in vocab}
    known |= {entry["content"] for entry in source.added}
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


#: What encoders call the tokens that begin and end a text.
_ENCODERS_WORDS = {"bos": "cls", "eos": "sep"}


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
        text = source.token_text(role) or source.token_text(_ENCODERS_WORDS.get(role, role))
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
        if step.get("type") in ("RobertaProcessing", "BertProcessing"):
            return True
        if step.get("type") == "TemplateProcessing":
            single = step.get("single")
            piece = single[0 if role == "bos" else -1] if isinstance(single, list) and len(single) > 1 else None
            token = piece.get("SpecialToken") if isinstance(piece, dict) else None
            if isinstance(token, dict) and token.get("id") == text:
                return True
    return False


def _separates(source: TokenizerFiles, separators: set[str]) -> bool | None:
    """Whether a separator of its own stands between two texts, beside what ends the first; None where nothing tells."""
    for step in pretokenizers.flatten(source.node("post_processor"), "processors"):
        if step.get("type") == "RobertaProcessing":
            return True
        pair = step.get("pair") if step.get("type") == "TemplateProcessing" else None
        if isinstance(pair, list):
            tokens = [None if "Sequence" in piece else piece.get("SpecialToken", {}).get("id") for piece in pair]
            places = [place for place, token in enumerate(tokens) if token is None]
            if len(places) == 2 and places[1] > places[0] + 1:
                between = tokens[places[0] + 1 : places[1]]
                ends = tokens[places[1] + 1 :]
                return (between[0] in separators and not ends) or (len(between) == 2 and between[1] in separators)
    return None


def _raw_fields(source: TokenizerFiles, count: int) -> dict[str, Any]:
    """Merges as they are; scores that nobody reads, as llama.cpp's converter writes them."""
    merges = [" ".join(pair) for pair in _merge_pairs(source)]
    _spm_prefix(source)  # refuses what is not handled
    return {SCORES: np.full(count, -1000.0, np.float32), MERGES: merges, ADD_SPACE: False}


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
            got=f"{counted(len(pairs), 'merge')} without it, {len(missing)} missing in all",
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
