"""What is held of a text: its tokens, and what they left in the states of one slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gguflike.runner.state import Copy, States


class Saved(NamedTuple):
    """A copy of what is held of a text, and which tokens that is."""

    tokens: list[int]
    prefilled: int
    states: list[Copy]

    @property
    def nbytes(self) -> int:
        """Bytes of the copy."""
        return sum(int(part.nbytes) for held in self.states for part in held)


class Slot:
    """A place for one text. ``states`` hold what ``tokens`` left: what is computed next comes behind them, or behind
    the first so many of them. ``number`` is where the states stand among those of all slots.

    ``prefilled`` of the tokens, the first so many, were computed in passes of several. ``exact``: what a pass gives for
    a token is the same bits whatever else is in it.
    """

    def __init__(self, number: int, states: States, exact: bool) -> None:
        self.number, self.states, self._exact = number, states, exact
        self.tokens: list[int] = []
        self.prefilled = 0
        self.touched = 0  # positions that memory was taken for

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` need not be computed again, leaving at least one to compute."""
        limit = len(ids) - 1 if self._exact else min(len(ids) - 2, self.prefilled)
        return self.states.reusable(common(ids, self.tokens, limit))

    @property
    def solid(self) -> int:
        """How many tokens, the first so many, are what any pass gives for them, so that they may begin other texts."""
        return len(self.tokens) if self._exact else self.prefilled

    def advance(self, ids: Sequence[int], several: bool) -> None:
        """``ids`` have been computed behind all tokens; ``several``: as passes of several compute them."""
        self.states.advance(len(self.tokens), len(ids))
        if several and self.prefilled == len(self.tokens):
            self.prefilled += len(ids)
        self.tokens += ids
        self.touched = max(self.touched, len(self.tokens))

    def forget(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""
        del self.tokens[position:]
        self.prefilled = min(self.prefilled, position)

    def return_to(self, position: int) -> list[int]:
        """Let the states stand at ``position``, or before where they have forgotten since: the tokens up to it are what
        must be computed again."""
        kept = self.states.reusable(position)
        again = self.tokens[kept:position]
        self.forget(kept)
        self.states.cut(kept)
        return again

    def hold(self, ids: Sequence[int]) -> None:
        """The states have been given what ``ids`` leave."""
        self.tokens, self.prefilled = list(ids), len(ids)
        self.touched = max(self.touched, len(ids))

    def give_back(self) -> None:
        """Hold nothing, and give the memory back to the system."""
        self.forget(0)
        self.states.give_back()
        self.touched = 0

    def lose(self) -> None:
        """Hold nothing: nobody knows what the states hold."""
        self.forget(0)
        self.states.cut(0)

    def save(self) -> Saved:
        """A copy of all that is held."""
        return Saved(list(self.tokens), self.prefilled, self.states.save(len(self.tokens)))

    def restore(self, saved: Saved) -> None:
        """Hold again what was copied."""
        self.forget(0)  # were this interrupted, the states would be of neither text
        self.states.restore(saved.states)
        self.hold(saved.tokens)
        self.prefilled = saved.prefilled


def common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    """How many tokens two texts have in common at their beginning, at most ``limit``."""
    count, limit = 0, min(limit, len(a), len(b))
    while count < limit and a[count] == b[count]:
        count += 1
    return count
