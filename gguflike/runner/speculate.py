"""Drafts without a second model: what followed the last time the text ended like this (prompt lookup)."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # tokens of the ending that is looked up


class Lookup:
    """Finds the latest earlier occurrence of the last few tokens and proposes the up to ``limit`` tokens after it."""

    def __init__(self, tokens: Sequence[int], limit: int) -> None:
        self._limit = limit
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
        for length in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
            begin = self._next.get(tuple(tokens[-length:]))
            if begin is not None:
                return list(tokens[begin : begin + min(self._limit, max(room, 0))])
        return []
