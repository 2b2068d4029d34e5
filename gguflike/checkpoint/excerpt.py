"""The part of a vocabulary that can matter for one text: enough to encode it exactly, without building the whole.

BPE starts from characters and joins neighbours, so that every token on its way stands in the text: a token that does
not occur there, and a merge that makes one, might as well not exist. What occurs is looked for in the text as the
vocabulary writes it, of which every word that is joined is a part, wherever the words are split.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import numpy as np

from gguflike.checkpoint import pretokenizers
from gguflike.checkpoint.vocabulary import BYTE_CHARACTERS, SPACE, TokenType, Vocabulary

#: Bytes of a text, as tokens write it, that are searched: the search looks at all places and lengths.
MAX_BYTES = 4096

#: Sum of squared token lengths up to which splitting every token is worth it; Gemma's 262k tokens need 2e7.
MAX_SPLIT_WORK = 1 << 30

_NEVER = b"\xff"  # a byte that no token has


class Excerpt(NamedTuple):
    """``ids`` of tokens in order; ``merges``, indices of those that the file lists and the text may need, by rank."""

    ids: list[int]
    merges: list[int]


def excerpt(vocabulary: Vocabulary, text: str) -> Excerpt | None:
    """What encoding ``text`` needs of the vocabulary; None where all of it is the better choice.

    That is for a long text; for one that is changed before it is split, in ways that depend on where its parts begin;
    for a SentencePiece vocabulary of tokens too long to be split; and for kinds of vocabulary that this module does not
    know.
    """
    if vocabulary.model not in ("gpt2", "llama", "gemma4"):
        return None
    if len(text) > MAX_BYTES or vocabulary.swallows_space:
        return None
    if vocabulary.model == "gpt2":
        scheme = pretokenizers.by_name(vocabulary.pre)
        every_word_spaced = vocabulary.add_space_prefix and scheme.splits != (pretokenizers.GPT2,)
        if every_word_spaced or (scheme.nfc and not _is_normalized(text)):
            return None
    elif vocabulary.model == "llama" and int((vocabulary.texts.lengths**2).sum()) > MAX_SPLIT_WORK:
        return None
    added = vocabulary.added_ids()
    written = _written(vocabulary, text, added)
    if len(written) > MAX_BYTES:
        return None
    occurring = vocabulary.texts.within(written)
    words = {vocabulary.tokens[index] for index in occurring}
    pairs: set[str] = set()
    if vocabulary.model != "llama":  # whose merges follow from the scores
        pairs = {f"{a} {b}" for word in words for a, b in _splits(word) if a in words and b in words}
    always = np.flatnonzero(vocabulary.types == TokenType.BYTE).tolist()
    ids = {*occurring, *added, *always, *vocabulary.special.values()}
    return Excerpt(sorted(ids), vocabulary.merge_texts.find(pairs))


def _is_normalized(text: str) -> bool:
    """Whether NFC leaves the text as it is, and so every part of it, by the rules of any version of Unicode in use."""
    return text.isascii() or (max(text) <= "\uffff" and unicodedata.is_normalized("NFC", text))


def _splits(word: str) -> list[tuple[str, str]]:
    return [(word[:at], word[at:]) for at in range(1, len(word))]


def _written(vocabulary: Vocabulary, text: str, added: list[int]) -> bytes:
    """The text as tokens write it, also with the space that may be put before it and before what follows markup."""
    parts = [text]
    if vocabulary.add_space_prefix:
        starts = _starts(text, [vocabulary.tokens[index] for index in added])
        longest = int(vocabulary.texts.lengths.max())
        parts += [" " + text[start : start + longest] for start in starts]
    if vocabulary.model == "gpt2":
        written = ["".join(map(BYTE_CHARACTERS.__getitem__, part.encode())) for part in parts]
    else:
        written = [part.replace(" ", SPACE) for part in parts]
    return _NEVER.join(part.encode() for part in written)


def _starts(text: str, markup: list[str]) -> list[int]:
    """Where a part of the text may begin: at its start, and behind markup."""
    starts = {0}
    for word in markup:
        at = text.find(word)
        while at >= 0:
            starts.add(at + len(word))
            at = text.find(word, at + 1)
    return sorted(starts)
