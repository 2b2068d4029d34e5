"""What a sampler asks of a grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gguflike.runner.sampling.weights import Mask


class Grammar(Protocol):
    """What a text may be, followed token by token. ``finished``: nothing but the end may follow."""

    finished: bool

    def mask(self) -> Mask | None:
        """A bit for each token that may follow, as `Sampler.choose` reads them; None where any may."""

    def accept(self, token: int) -> None:
        """Follow the text by one token, which the mask allows."""

    def forced(self) -> list[int]:
        """The tokens that follow in any case, in order; mostly none. They have still to be accepted."""
