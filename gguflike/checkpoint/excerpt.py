"""The part of a vocabulary that can matter for a text: enough to encode it exactly, without building the whole.

BPE starts from characters and joins neighbours, so that every token on its way stands in the text: a token that does
not occur there, and a merge that makes one, might as well not exist. What occurs is looked for in the text as the
vocabulary writes it, of which every word that is joined is a part, wherever the words are split. A Unigram cuts the
text in tokens, which stand in it as well.
"""

from __future__ import annotations

import re
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


def excerpt(vocabulary: Vocabulary, text: str, most: int = MAX_BYTES) -> Excerpt | None:
    """What encoding ``text`` needs of the vocabulary; None where all of it is the better choice.

    That is for a text longer than ``most``; for one that is changed before it is split, in ways that depend on where
    its parts begin; for a SentencePiece vocabulary of tokens too long to be split; and for kinds of vocabulary that
    this module does not know.
    """
    if vocabulary.model not in ("gpt2", "llama", "gemma4", "t5") or len(text) > most:
        return None
    if vocabulary.model == "t5":
        return _unigram(vocabulary, text, most)
    if vocabulary.strips.side:
        return None
    if vocabulary.model == "gpt2":
        scheme = pretokenizers.by_name(vocabulary.pre)
        if vocabulary.add_space_prefix and scheme.splits != (pretokenizers.GPT2,):  # before every word
            return None
    elif vocabulary.model == "llama" and int((vocabulary.texts.lengths**2).sum()) > MAX_SPLIT_WORK:
        return None
    added = vocabulary.added_ids()
    written = _written(vocabulary, text, added)
    if len(written) > most:
        return None
    occurring = vocabulary.texts.within(written)
    words = {vocabulary.tokens[index] for index in occurring}
    pairs: set[str] = set()
    if vocabulary.model != "llama":  # whose merges follow from the scores
        pairs = {f"{a} {b}" for word in words for a, b in _splits(word) if a in words and b in words}
    always = np.flatnonzero(vocabulary.types == TokenType.BYTE).tolist()
    ids = {*occurring, *added, *always, *vocabulary.special.values()}
    return Excerpt(sorted(ids), vocabulary.merge_texts.find(pairs))


def _unigram(vocabulary: Vocabulary, text: str, most: int) -> Excerpt | None:
    added = vocabulary.added_ids()
    # Markup divides a text in parts, which are normalized one by one.
    markup = sorted((vocabulary.tokens[index] for index in added), key=len, reverse=True)
    parts = [text, *re.split("|".join(map(re.escape, markup)), text)] if markup else [text]
    if vocabulary.charsmap:
        from tokenizers.normalizers import Precompiled

        try:
            parts = list(map(Precompiled(vocabulary.charsmap).normalize_str, parts))
        except Exception:  # of a broken map, which the whole vocabulary tells of
            return None
    text = "\n".join(f" {part}" for part in parts)
    if vocabulary.removes_spaces:
        text = re.sub(" +", " ", text)
    written = text.replace(" ", SPACE).encode()
    if len(written) > most:
        return None
    # The lowest score of all tells what an unknown character costs.
    lowest = int(np.where(vocabulary.types == TokenType.UNUSED, np.inf, vocabulary.scores).argmin())
    return Excerpt(sorted({*vocabulary.texts.within(written), *added, *vocabulary.special.values(), lowest}), [])


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
