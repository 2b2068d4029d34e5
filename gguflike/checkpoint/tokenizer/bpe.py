"""BPE as GGUF has it: with bytes for characters, with scores (SentencePiece), or with merges of plain characters."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, repeat
from typing import Any

import numpy as np

from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.pretokenizers import PREPEND_SPACE, REPLACE_SPACES
from gguflike.checkpoint.tokenizer.files import TokenizerFiles
from gguflike.checkpoint.tokenizer.losses import Losses, listed
from gguflike.checkpoint.tokenizer_json import spm_merges
from gguflike.checkpoint.vocabulary import ADD_SPACE, BYTE_CHARACTERS, MERGES, PRE, SCORES, SPACE
from gguflike.errors import CheckpointError, UnsupportedError, counted

#: Score of tokens that no merge makes: below every merged token.
_UNMERGED = -1e6

#: Classes that Transformers makes by themselves: tokenizer_config.json says whether a space is put before texts.
_OWN_PREFIX = ("GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer", "CodeGenTokenizer")

#: Texts made of merges whose order is doubtful: more would take seconds.
_MOST_WORDS = 20_000


def byte_level(source: TokenizerFiles, losses: Losses) -> dict[str, Any]:
    """The keys of a byte-level vocabulary."""
    _check_model(source, losses)
    _check_unknown(source, losses)
    _byte_level_normalizer(source, losses)
    _check_decoder(source, losses, ("ByteLevel", "Fuse"))
    scheme = pretokenizers.recognize(source.node("pre_tokenizer"), bool(source.model.get("ignore_merges")))
    prefix = _byte_level_prefix(source, losses)
    if prefix:
        losses.say(
            "a space is put before a text (add_prefix_space); llama.cpp does not do so with byte-level vocabularies: "
            "its texts begin with other ids"
        )
    merges = list(map(" ".join, merge_pairs(source)))
    if sum(map(str.count, merges, repeat(" "))) > len(merges):
        # A space in a part cannot be written in "left right"; byte-level vocabularies write spaces as U+0120 anyway.
        merges = [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in merge_pairs(source)]
    return {PRE: scheme.name, MERGES: merges, ADD_SPACE: prefix}


def raw(source: TokenizerFiles, count: int, losses: Losses) -> dict[str, Any]:
    """Merges as they are; scores that nobody reads, as llama.cpp's converter writes them."""
    _check_model(source, losses)
    _check_decoder(source, losses, _SPM_DECODERS)
    if _spm_prefix(source, losses):
        losses.differs(
            UnsupportedError("a space before texts is not handled with this kind of vocabulary", path=source.path)
        )
    merges = [" ".join(pair) for pair in merge_pairs(source)]
    return {SCORES: np.full(count, -1000.0, np.float32), MERGES: merges, ADD_SPACE: False}


def scored(source: TokenizerFiles, tokens: list[str], types: list[int], losses: Losses) -> dict[str, Any]:
    """Scores such that joining by highest score does what the merges do, best merge first; or SentencePiece's own."""
    _check_model(source, losses)
    _check_decoder(source, losses, _SPM_DECODERS)
    _check_bytes(source, tokens, losses)
    if source.scores is not None:
        scores = [*source.scores, *[0.0] * (len(tokens) - len(source.scores))]
    else:
        scores = _scores(source, tokens, types, losses)
    return {PRE: "default", SCORES: np.array(scores, np.float32), ADD_SPACE: _spm_prefix(source, losses)}


def merge_pairs(source: TokenizerFiles) -> list[tuple[str, str]]:
    """Merges of tokenizer.json in either spelling: "left right", or ["left", "right"] since tokenizers 0.20.

    Of a merge that is listed twice the second counts, as in ``tokenizers``.
    """
    merges = source.model.get("merges") or []
    split = [merge.split(" ") if isinstance(merge, str) else merge for merge in _items(merges)]
    pairs: list[tuple[str, str]] = list(map(tuple, split)) if _are_pairs(split) else []
    if not pairs and merges:
        wrong = (merge for merge, parts in zip(_items(merges), split, strict=True) if not _are_pairs([parts]))
        got = repr(next(wrong, merges))[:200]
        raise CheckpointError("malformed merge", path=source.path, field="model.merges", got=got)
    if len(set(pairs)) != len(pairs):
        pairs = list(dict.fromkeys(reversed(pairs)))[::-1]
    return pairs


def _items(merges: Any) -> list[Any]:
    return merges if isinstance(merges, list) else []


def _are_pairs(merges: list[Any]) -> bool:
    """Whether all are lists of two texts; looking at each takes several times as long."""
    if not merges or set(map(type, merges)) != {list} or set(map(len, merges)) != {2}:
        return False
    return set(map(type, chain.from_iterable(merges))) == {str}


def _check_model(source: TokenizerFiles, losses: Losses) -> None:
    """Settings of the model that no reader of GGUF has."""
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if source.model.get(key):
            losses.differs(
                UnsupportedError(
                    "BPE that marks parts of words is not handled: GGUF cannot say it",
                    path=source.path,
                    field=f"model.{key}",
                    got=repr(source.model[key]),
                )
            )
    if source.model.get("dropout"):
        losses.say(f"dropout {source.model['dropout']} of tokenizer.json, which makes encoding random, is left out")
        losses.reference["model"] = {**source.model, "dropout": None}


def _check_unknown(source: TokenizerFiles, losses: Losses) -> None:
    unknown = source.model.get("unk_token")
    missing = [character for character in BYTE_CHARACTERS if character not in source.model["vocab"]]
    if unknown and missing:
        losses.differs(
            UnsupportedError(
                f"the vocabulary lacks bytes, which become {unknown!r}; readers of GGUF leave them out",
                path=source.path,
                field="model.unk_token",
                expected="256 bytes, or no unk_token",
                got=f"{256 - len(missing)} bytes",
            )
        )


def _byte_level_normalizer(source: TokenizerFiles, losses: Losses) -> None:
    for step in pretokenizers.flatten(source.node("normalizer"), "normalizers"):
        if step.get("type") == "NFC":
            losses.say(
                "GGUF cannot say that texts are normalized to NFC: those that are not (a letter and a combining "
                "accent) get other ids"
            )
        else:
            losses.differs(
                UnsupportedError(
                    "normalizer is not handled", path=source.path, field="normalizer", got=repr(dict(step))[:200]
                )
            )
    losses.reference["normalizer"] = None


def _byte_level_prefix(source: TokenizerFiles, losses: Losses) -> bool:
    """Whether a space is put before a text: by tokenizer.json, or by tokenizer_config.json if its class asks that."""
    steps = pretokenizers.flatten(source.node("pre_tokenizer"))
    prefix = any(step.get("type") == "ByteLevel" and step.get("add_prefix_space") for step in steps)
    stated = bool(source.config.get("add_prefix_space", False))
    if not source.is_json or source.tokenizer_class not in _OWN_PREFIX or stated == prefix:
        return prefix
    losses.say(
        f"tokenizer_config.json's add_prefix_space={str(stated).lower()} counts, not tokenizer.json's, as in "
        f"transformers' {source.tokenizer_class}"
    )
    changed = [{**step, "add_prefix_space": stated} if step.get("type") == "ByteLevel" else step for step in steps]
    losses.reference["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": changed}
    return stated


_SPM_DECODERS = ("Replace", "ByteFallback", "Fuse", "Strip", "Metaspace")
_SPM_REPLACES = ({"String": SPACE}, " ")


def _check_decoder(source: TokenizerFiles, losses: Losses, known: tuple[str, ...]) -> None:
    """Tell of steps of the decoder that change what tokens stand for."""
    further = []
    for step in pretokenizers.flatten(source.node("decoder"), "decoders"):
        replaces = step.get("type") == "Replace" and (step.get("pattern"), step.get("content")) != _SPM_REPLACES
        strips = step.get("type") == "Strip" and (step.get("content"), step.get("stop", 0)) != (" ", 0)
        if step.get("type") not in known or replaces or strips:
            further.append(", ".join(f"{key} {value!r}" for key, value in step.items()))
    if further:
        losses.say(f"GGUF cannot say what the decoder does beside the usual ({'; '.join(further)[:200]}): left out")


def _check_bytes(source: TokenizerFiles, tokens: list[str], losses: Losses) -> None:
    missing = {f"<0x{byte:02X}>" for byte in range(256)}.difference(tokens)
    if missing:
        losses.differs(
            UnsupportedError(
                "the vocabulary lacks tokens for bytes, which readers of GGUF need for unknown characters",
                path=source.path,
                expected="<0x00> to <0xFF>",
                got=f"no {listed(sorted(missing))}",
            )
        )


def _scores(source: TokenizerFiles, tokens: list[str], types: list[int], losses: Losses) -> list[float]:
    pairs = merge_pairs(source)
    rank: dict[str, int] = {}
    for left, right in pairs:
        rank.setdefault(left + right, len(rank))
    scores = [float(-rank[text]) if text in rank else _UNMERGED for text in tokens]
    missing = {tuple(pair) for pair in spm_merges(tokens, types, scores)}.difference(pairs)
    if missing:
        left, right = min(missing)
        losses.differs(
            UnsupportedError(
                "the merges are not those of a SentencePiece vocabulary; GGUF keeps only one score per token",
                path=source.path,
                field="model.merges",
                expected=f"a merge of {left!r} and {right!r}, as {left + right!r} is a token",
                got=f"{counted(len(pairs), 'merge')} without it, {len(missing)} missing in all",
            )
        )
    losses.words += _doubtful(pairs, rank)
    return scores


def _doubtful(pairs: list[tuple[str, str]], rank: dict[str, int]) -> list[str]:
    """Texts in which it would show that a token has one score, and merges of different ranks.

    A merge that comes later than a first one of the same token has that one's score. It can win over a merge that comes
    between the two in the list, if they share a part.
    """
    order = [rank[left + right] for left, right in pairs]
    highest = np.maximum.accumulate(np.array(order, np.int64)) if order else np.empty(0, np.int64)
    late = np.flatnonzero(highest > np.array(order, np.int64)).tolist()
    if not late:
        return []
    by_left, by_right = defaultdict(list), defaultdict(list)
    for place, (left, right) in enumerate(pairs):
        by_left[left].append(place)
        by_right[right].append(place)
    found: dict[str, None] = {}
    for place in late:
        left, right = pairs[place]
        found[left + right] = None
        for other in by_left[right]:
            if order[place] < order[other] and other < place:
                found[left + right + pairs[other][1]] = None
        for other in by_right[left]:
            if order[place] < order[other] and other < place:
                found[pairs[other][0] + left + right] = None
        if len(found) > _MOST_WORDS:
            break
    # Behind a line break nothing is put before a text, and nothing joins with it.
    return [f"\n{text.replace(SPACE, ' ')}" for text in found]


def _spm_prefix(source: TokenizerFiles, losses: Losses) -> bool:
    """Whether a space is put before the text; every space is written as U+2581. Other normalization is not handled."""
    prefix = replaces = False
    for step in pretokenizers.flatten(source.node("normalizer"), "normalizers"):
        if step == PREPEND_SPACE:
            prefix = True
        elif step == REPLACE_SPACES:
            replaces = True
        else:
            losses.differs(
                UnsupportedError(
                    "normalizer is not handled", path=source.path, field="normalizer", got=repr(dict(step))[:200]
                )
            )
    for step in pretokenizers.flatten(source.node("pre_tokenizer")):
        if step.get("type") == "Metaspace" and step.get("replacement") == SPACE:
            prefix = _metaspace(source, step, losses) or prefix
            replaces = True
        elif not (step.get("type") == "Split" and step.get("pattern") == {"String": " "} and replaces):
            losses.differs(
                UnsupportedError(
                    "pre_tokenizer step is not handled",
                    path=source.path,
                    field="pre_tokenizer",
                    got=repr(dict(step))[:200],
                )
            )
    if not replaces:
        losses.differs(
            UnsupportedError(
                "spaces stay spaces; readers of GGUF write them as U+2581 for this kind of vocabulary",
                path=source.path,
                field="normalizer",
                expected="a Replace of ' ' by U+2581, or Metaspace",
            )
        )
    if prefix and source.node("normalizer") is not None and _made_anew(source):
        losses.say(
            "the normalizer of tokenizer.json puts a space before a text and behind every special token, and so does "
            "the file; transformers 5 ignores it for the class LlamaTokenizer, and puts one before the text only"
        )
    return prefix


def _made_anew(source: TokenizerFiles) -> bool:
    """Whether Transformers 5 makes the normalizer by itself."""
    llama = source.is_json and source.tokenizer_class == "LlamaTokenizer"
    return llama and source.config.get("legacy") is not True


def _metaspace(source: TokenizerFiles, step: Any, losses: Losses) -> bool:
    """What Metaspace does beside writing spaces as U+2581: whether it puts a space before a text."""
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    found_first = {entry["content"] for entry in source.added}
    inner = [text for text in source.model["vocab"] if SPACE in text[1:] and text not in found_first]
    if step.get("split", True) and inner:
        losses.say(
            f"Metaspace splits a text at its spaces, so that {listed(inner)} are never used; readers of GGUF do not "
            "split, and use them in runs of spaces"
        )
    if scheme == "first":
        losses.say(
            "Metaspace ('first') puts a space before a text, unless it begins with one; readers of GGUF put it also "
            "before such a text, and behind every special token: such texts get other ids"
        )
    elif scheme != "never":
        losses.say(
            "Metaspace puts no space before a text that begins with one; readers of GGUF do: such texts get other ids"
        )
    prefix = [PREPEND_SPACE] if scheme != "never" else []
    losses.reference["normalizer"] = {"type": "Sequence", "normalizers": [*prefix, REPLACE_SPACES]}
    losses.reference["pre_tokenizer"] = None
    return bool(prefix)
