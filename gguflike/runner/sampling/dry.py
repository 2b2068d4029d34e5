"""Which tokens would prolong a repetition, and by what they are penalized.

A repetition of n tokens: the last n tokens of the text stand somewhere before, too, and what followed them there is
what would prolong it. It neither begins before the last ``dry_penalty_last_n`` tokens, nor before the end of the latest
sequence breaker, so that a list, a dialogue or code may repeat its marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguflike.errors import ArgumentError

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.runner.sampling.settings import Sampling
    from gguflike.runner.tokenizer import Tokenizer

_LONGEST_TAIL = 20  # tokens of a breaker behind the one in which it begins
_LOG_MOST = math.log(float(np.finfo(np.float32).max))


class Repetitions:
    """The repetitions of one text, kept up to date token by token."""

    def __init__(self, sampling: Sampling, tokens: Sequence[int], tokenizer: Tokenizer | None) -> None:
        """ArgumentError where ``tokenizer`` is None and there are breakers."""
        self._sampling = sampling
        self._breakers = _Breakers(sampling.dry_sequence_breakers, tokenizer)
        self._count = len(tokens)
        self._tokens = np.zeros(max(1024, 2 * self._count), np.int64)
        self._tokens[: self._count] = tokens
        # Of each place, how many tokens up to it are the same as the last ones of the text.
        self._lengths = np.zeros(len(self._tokens), np.int64)
        self._lengths[: self._count] = _common_ends(self._tokens[: self._count])
        self._break = 0  # where the latest breaker ends
        for end in range(1, self._count + 1):
            self._note_break(end)

    def accept(self, token: int) -> None:
        if self._count == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        self._tokens[self._count] = token
        tokens, lengths = self._tokens[: self._count + 1], self._lengths[: self._count + 1]
        longer = np.empty_like(lengths)
        longer[0] = 0
        np.add(lengths[:-1], 1, out=longer[1:])
        longer[tokens != token] = 0
        longer[0] = tokens[0] == token
        longer[-1] = 0  # the text itself, which is no repetition
        lengths[:] = longer
        self._count += 1
        self._note_break(self._count)

    def penalties(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Distinct token ids, and what their logits lose."""
        sampling, count = self._sampling, self._count
        start = 0 if sampling.dry_penalty_last_n < 0 else max(0, count - sampling.dry_penalty_last_n)
        end = max(count - 1, start)  # the last token, which nothing follows yet
        lengths = np.minimum(self._lengths[start:end], np.arange(1, end - start + 1))
        np.minimum(lengths, count - self._break, out=lengths)
        places = np.flatnonzero(lengths >= sampling.dry_allowed_length)
        ids, index = np.unique(self._tokens[start + 1 + places], return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, index, lengths[places])
        exponents = (longest - sampling.dry_allowed_length).astype(np.float64)
        if sampling.dry_base > 1:  # no more than float32 holds
            np.minimum(exponents, _LOG_MOST / math.log(sampling.dry_base), out=exponents)
        return ids, sampling.dry_multiplier * sampling.dry_base**exponents

    def _note_break(self, end: int) -> None:
        """Note a breaker that ends with the token before ``end``."""
        breakers = self._breakers
        breakers.tails(int(self._tokens[end - 1]))  # which may have the longest tail yet
        for begin in range(max(0, end - 1 - breakers.longest), end):
            tails = breakers.tails(int(self._tokens[begin]))
            if tails and tuple(self._tokens[begin + 1 : end].tolist()) in tails:
                self._break = end
                return


class _Breakers:
    """What sequence breakers look like in tokens."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer | None) -> None:
        if texts and tokenizer is None:
            raise ArgumentError(
                "a tokenizer is needed to find sequence breakers",
                field="dry_sequence_breakers",
                remedy="give one, or no breakers",
            )
        self._texts = [text.encode("utf-8", "replace") for text in texts]  # as the tokenizer writes what is none
        self._tokenizer = tokenizer
        self._known: dict[int, frozenset[tuple[int, ...]]] = {}
        self.longest = 0  # tail of the tokens that were asked for

    def tails(self, token: int) -> frozenset[tuple[int, ...]]:
        """The sequences of tokens that complete a breaker that begins in ``token``; an empty one where it holds one."""
        if token not in self._known:
            self._known[token] = found = frozenset(self._find(token))
            self.longest = max(self.longest, *map(len, found)) if found else self.longest
        return self._known[token]

    def _find(self, token: int) -> list[tuple[int, ...]]:
        if self._tokenizer is None or token >= self._tokenizer.vocab_size:
            return []
        data = self._tokenizer.token_bytes(token)
        found: list[tuple[int, ...]] = []
        for text in self._texts:
            if text in data:
                found.append(())
                continue
            for length in range(1, min(len(text), len(data) + 1)):
                if data.endswith(text[:length]):
                    rest = text[length:].decode("utf-8", "replace")
                    found.append(tuple(self._tokenizer.encode(rest, add_special=False))[:_LONGEST_TAIL])
        return found


def _common_ends(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of each place how many tokens up to it equal the last ones; 0 at the last place."""
    lengths = np.zeros(len(tokens), np.int64)
    places, length = np.arange(len(tokens) - 1), 0
    while len(places):
        places = places[places >= length]
        places = places[tokens[places - length] == tokens[len(tokens) - 1 - length]]
        length += 1
        lengths[places] = length
    return lengths
