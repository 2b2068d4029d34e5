"""Texts and types of tokens by id: those of the model, and those found in a text before all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gguflike.checkpoint import pretokenizers, unigram
from gguflike.checkpoint.tokenizer.files import TokenizerFiles
from gguflike.checkpoint.tokenizer.losses import Losses, listed
from gguflike.checkpoint.vocabulary import BYTE_TOKEN, ENDS, SPACE, TokenType, stripping
from gguflike.errors import CheckpointError, counted


def token_texts(source: TokenizerFiles, vocab: Mapping[str, int], size: int | None, losses: Losses) -> list[str]:
    """Token texts by id; ids without a token become "[PAD<id>]". ``vocab`` are the model's tokens and their ids as they
    stand there (`vocabulary`), ``size`` is the number of rows of the embedding.

    CheckpointError where two tokens share an id, a named token does not exist, or there are more tokens than rows.
    """
    by_id = dict(zip(vocab.values(), vocab.keys(), strict=True)) if _is_plain(vocab) else {}
    further = _added_entries(source, vocab, losses)
    for text, index in further if by_id else [*vocab.items(), *further]:
        if not isinstance(text, str) or not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise CheckpointError("malformed vocabulary entry", path=source.path, got=f"{text!r}: {index!r}"[:200])
        if by_id.setdefault(index, text) != text:
            raise CheckpointError(
                "two tokens share an id", path=source.path, got=f"{by_id[index]!r} and {text!r} at {index}"
            )
    if not by_id:
        remedy = "get the tokenizer's files again"
        raise CheckpointError("the vocabulary is empty", path=source.path, remedy=remedy)
    count = max(by_id) + 1
    if size is None:
        size = count
    # One id per token and few gaps: anything else is a broken file, or an attempt to make the list huge.
    if count > size or size > 16 * len(by_id) + 65536:
        beyond = [text for index, text in sorted(by_id.items()) if index >= size]
        raise CheckpointError(
            f"{source.path.name} does not fit config.json",
            path=source.path,
            expected=f"ids below vocab_size {size}",
            got=f"{counted(len(by_id), 'token')} up to id {count - 1}",
            remedy=f"give the embedding a row for each (resize_token_embeddings), or remove {listed(beyond)}"
            if beyond
            else None,
        )
    if size == len(by_id):  # no gaps, since none is beyond
        tokens = list(map(by_id.__getitem__, range(size)))
    else:
        tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    if len(set(tokens)) != size:
        ((repeated, _),) = Counter(tokens).most_common(1)
        raise CheckpointError("two ids share a token", path=source.path, got=repr(repeated))
    _check_named(source, by_id)
    return tokens


def vocabulary(source: TokenizerFiles) -> dict[str, int]:
    """The model's tokens and their ids, as they stand there. CheckpointError where they are no such table."""
    vocab: Any = dict(unigram.entries(source)) if source.model.get("type") == "Unigram" else source.model.get("vocab")
    if not isinstance(vocab, dict):
        raise CheckpointError(
            "malformed tokenizer.json", path=source.path, field="model.vocab", got=type(vocab).__name__
        )
    return vocab


def _is_plain(vocab: Mapping[Any, Any]) -> bool:
    """Whether all of a vocabulary is as it should be; looking at each entry takes ten times as long."""
    if set(map(type, vocab.values())) != {int}:
        return False
    ids = set(vocab.values())
    return len(ids) == len(vocab) and min(ids) >= 0


def _added_entries(source: TokenizerFiles, vocab: Mapping[str, int], losses: Losses) -> list[tuple[Any, Any]]:
    """(text, id) of added tokens. The vocabulary's own id goes before the one of an entry, as in ``tokenizers``."""
    found: list[tuple[Any, Any]] = []
    for entry in source.added:
        text, index = entry["content"], entry.get("id")
        own = vocab.get(text, index)
        if text in vocab and (type(index) is not int or own != index):  # -0.0 and true equal ids, and are none
            losses.say(f"{text!r} has id {own} in the vocabulary, and {index} among the added tokens: {own} is used")
            entry["id"] = own
        found.append((text, own))
    return found


def _check_named(source: TokenizerFiles, by_id: Mapping[int, str]) -> None:
    known = set(by_id.values())
    for path, key, text in source.named():
        if text not in known:
            raise CheckpointError(
                "names a token that does not exist",
                path=path,
                field=key,
                expected=f"one of {counted(len(known), 'token')} of {source.path.name}",
                got=repr(text),
                remedy="add the token (and a row of the embedding for it), or remove the name",
            )


def token_types(source: TokenizerFiles, vocab: Mapping[str, int], tokens: list[str], unknown: int | None) -> list[int]:
    """Token types; SentencePiece vocabularies (which have ``unknown``) also have byte tokens."""
    known = vocab.keys() | {entry["content"] for entry in source.added}
    normal, unused = int(TokenType.NORMAL), int(TokenType.UNUSED)
    types = [normal if text in known else unused for text in tokens]
    if source.model.get("byte_fallback"):
        for index, text in enumerate(tokens):
            if BYTE_TOKEN.fullmatch(text):
                types[index] = TokenType.BYTE
    for entry in source.added:
        types[entry["id"]] = TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED
    # Transformers adds what has a role to the special tokens, wherever the vocabulary has it.
    named = {text for _, _, text in source.named()}
    for index in [index for index, text in enumerate(tokens) if text in named]:
        types[index] = TokenType.CONTROL
    if unknown is not None:
        types[unknown] = TokenType.UNKNOWN
    return types


def complete(source: TokenizerFiles, tokens: list[str], general: Mapping[str, Any], losses: Losses) -> None:
    """Give the reference all added tokens, without the flags that the file cannot keep, and tell of these flags."""
    by_text = dict(zip(tokens, range(len(tokens)), strict=True))
    entries = {entry["content"]: entry for entry in source.added}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for _, _, text in source.named():
        known = entries.get(text, {"content": text, "id": by_text[text], **plain})
        entries[text] = {**known, "special": True}
    by_text_only = [text for text in tokens if text in ENDS and text not in entries and text != "</s>"]
    if by_text_only:
        losses.say(f"readers of GGUF know {listed(by_text_only)} by the text, and take it for markup: it is none here")
    entries |= {text: {"content": text, "id": by_text[text], **plain} for text in by_text_only}
    strips = stripping(general)
    changed = _normalizes(source)
    lost: dict[str, list[str]] = {}
    kept = []
    for text, entry in sorted(entries.items(), key=lambda item: item[1]["id"]):
        wanted = {
            "lstrip": strips.takes(text, "lstrip"),
            "rstrip": strips.takes(text, "rstrip"),
            "single_word": False,
            "normalized": bool(entry.get("normalized", False)) and not changed,
        }
        for flag, value in wanted.items():
            if bool(entry.get(flag, False)) != value:
                lost.setdefault(flag if not value else f"no {flag}", []).append(text)
        special = bool(entry.get("special")) or text in ENDS  # which every reader takes for markup
        kept.append({**plain, **entry, **wanted, "special": special})
    losses.reference["added_tokens"] = kept
    model = losses.reference["model"]
    if not source.is_json and isinstance(
        model["vocab"], dict
    ):  # the library numbers anew what is not in the vocabulary
        losses.reference["model"] = {**model, "vocab": {**model["vocab"], **{e["content"]: e["id"] for e in kept}}}
    for flag, texts in lost.items():
        losses.say(f"{_MEANING[flag].format(listed(texts))}: such texts get other ids")


_MEANING = {
    "lstrip": "GGUF cannot say that {} takes the white space before it along (lstrip)",
    "rstrip": "GGUF cannot say that {} takes the white space behind it along (rstrip)",
    "single_word": "GGUF cannot say that {} is found between other words only, not within one (single_word)",
    "normalized": "{} is found in the normalized text (normalized), where a space belongs to it; readers of GGUF find "
    "it before",
    "no lstrip": "going by the model's name, readers of GGUF let {} take the white space before it along",
    "no rstrip": "going by the model's name, readers of GGUF let {} take the white space behind it along",
}


def _normalizes(source: TokenizerFiles) -> bool:
    """Whether the normalizer changes markup itself, so that it matters when markup is looked for."""
    steps = pretokenizers.flatten(source.node("normalizer"), "normalizers")
    return any(
        (step.get("type") == "Prepend" and step.get("prepend") == SPACE)
        or step.get("type") == "Lowercase"
        or (step.get("type") == "BertNormalizer" and step.get("lowercase", True))
        for step in steps
    )
