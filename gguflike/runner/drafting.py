"""A second model, smaller and of the same vocabulary, that guesses what texts go on with: the *draft model*.

What is chosen does not depend on guesses: each is compared with what is chosen without it. One text guesses by
`Model.generate`, several by an engine; both ask here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gguflike.errors import ArgumentError, counted
from gguflike.runner.passes import Run
from gguflike.runner.slots import Slot, common

if TYPE_CHECKING:
    from gguflike.runner.network import Network

READ = 8  # tokens that the draft model has to read, from which on they are computed like a prompt


class Asked(NamedTuple):
    """A text whose next ``most`` tokens are to be guessed, 1 or more. ``slot`` is that of the draft model."""

    tokens: Sequence[int]
    slot: Slot
    most: int


class Drafter(Protocol):
    """What guesses: a `DraftModel`, or the model's own heads (`runner.mtp.MTPHeads`)."""

    slots: list[Slot]

    def guess(self, texts: Sequence[Asked]) -> list[list[int]]:
        """A guess for each text, which may be empty."""

    def close(self) -> None:
        """Let the threads go."""


class DraftModel:
    """Guesses for up to ``slots`` texts of ``model`` by ``draft``. Threads take turns.

    ``slots`` are places for texts; who asks says in which one a text is, and may change that at any time, which costs
    reading the text anew.
    """

    def __init__(self, model: Network, draft: Network, slots: int = 1) -> None:
        """ArgumentError where the draft model has another vocabulary; UnsupportedError where it makes no text."""
        check_vocabulary(model, draft)
        self.draft = draft
        self._known = model.vocab_size  # matrices may have more rows than there are tokens
        self._together = draft.together(slots)
        self._lock = threading.Lock()
        self.slots = list(self._together.slots)

    def close(self) -> None:
        """Let the threads go."""
        self._together.close()

    def guess(self, texts: Sequence[Asked]) -> list[list[int]]:
        """What the draft model takes for the likeliest, token by token, of each text. It reads what it has not read
        first, a piece in each call; a text of which more is left, or that fills its context, gets no guess.

        ArgumentError where the draft model is closed.
        """
        with self._lock:
            return self._guessed(texts)

    def _guessed(self, texts: Sequence[Asked]) -> list[list[int]]:
        piece, context = self._together.batch // max(1, len(texts)), self.draft.context
        drafts: list[list[int]] = [[] for _ in texts]
        runs, asking = [], []
        for number, (tokens, slot, _) in enumerate(texts):
            slot.return_to(common(tokens, slot.tokens, len(tokens) - 1))
            left = tokens[len(slot.tokens) :]
            if len(tokens) < context:
                runs.append(Run(slot, left[:piece], int(len(left) <= piece), prompt=len(left) > READ))
                asking.append(number)
        while runs:
            results = self._together.compute(runs)
            runs, asked, asking = [], asking, []
            for number, rows in zip(asked, results, strict=True):
                if isinstance(rows, Exception) or not len(rows):
                    continue
                (tokens, slot, most), draft = texts[number], drafts[number]
                draft.append(int(rows[0][: self._known].argmax()))
                if len(draft) < most and len(tokens) + len(draft) < context:
                    runs.append(Run(slot, draft[-1:], 1))
                    asking.append(number)
        return drafts


def check_vocabulary(model: Network, draft: Network) -> None:
    """ArgumentError where a draft model's ids stand for other tokens."""
    ours, theirs = model.tokenizer.vocabulary, draft.tokenizer.vocabulary
    sizes = len(ours.tokens), len(theirs.tokens)
    pairs = zip(ours.tokens, theirs.tokens, strict=False)
    differs = next((number for number, (a, b) in enumerate(pairs) if a != b), min(sizes))
    if differs < max(sizes):
        raise ArgumentError(
            "the draft model has another vocabulary",
            path=draft.path,
            field="draft",
            expected=f"the {counted(sizes[0], 'token')} of {model.path}",
            got=f"{counted(sizes[1], 'token')}, of which number {differs} is the first that differs",
            remedy="take a smaller model of the same family",
        )
