"""Drafts: how long they may be, and those without a second model, of what followed the last time the text ended like
this (prompt lookup). drafting.py has those of a draft model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.runner.slots import common

if TYPE_CHECKING:
    from gguflike.runner.generate import Generation

LONGEST, SHORTEST = 4, 2  # tokens of the ending that is looked up


class Lookup:
    """Finds the latest earlier occurrence of the last few tokens and proposes the up to ``limit`` tokens after it.

    A draft is as long as the last one deserves (`next_length`).
    """

    def __init__(self, tokens: Sequence[int], limit: int) -> None:
        self._limit = self._length = limit
        self._draft: list[int] = []  # the last one, and how many tokens there were before it
        self._before = 0
        self._seen = 0
        self._next: dict[tuple[int, ...], int] = {}  # ending -> index of the token after its latest occurrence
        self._index(tokens)

    def _index(self, tokens: Sequence[int]) -> None:
        """Enter every ending that has a token after it."""
        for end in range(max(self._seen, SHORTEST), len(tokens)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._next[tuple(tokens[end - length : end])] = end
        self._seen = max(len(tokens), self._seen)

    def propose(self, tokens: Sequence[int], room: int) -> list[int]:
        """A draft of at most ``room`` tokens, preferring the longest ending that occurred before."""
        self._index(tokens)
        self._adapt(tokens)
        for length in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
            begin = self._next.get(tuple(tokens[-length:]))
            if begin is not None:
                self._draft = list(tokens[begin : begin + min(self._length, max(room, 0))])
                self._before = len(tokens)
                return self._draft
        return []

    def _adapt(self, tokens: Sequence[int]) -> None:
        """Choose the length of the next draft by what became of the last."""
        draft, self._draft = self._draft, []
        came = tokens[self._before : self._before + len(draft)]
        if not came:
            return
        self._length = next_length(len(draft), common(came, draft, len(draft)), self._limit)


class Length:
    """How many tokens a draft model is asked for next, ``most`` at first (`next_length`)."""

    def __init__(self, most: int) -> None:
        self._most = self.next = most
        self._drafted = self._accepted = 0

    def adapt(self, result: Generation) -> None:
        """Choose the length by what became of the last draft of a text."""
        drafted, accepted = result.drafted - self._drafted, result.accepted - self._accepted
        self._drafted, self._accepted = result.drafted, result.accepted
        if drafted:
            self.next = next_length(drafted, accepted, self._most)


def next_length(drafted: int, accepted: int, most: int) -> int:
    """How long a draft may be after one of ``drafted`` tokens: one token more than were accepted of it, or twice as
    many where all were, and ``most`` at most.

    So a text that is seldom foreseen pays for drafts of one token, and one that repeats itself gets long ones.
    """
    return min(most, 2 * drafted if accepted == drafted else accepted + 1)
