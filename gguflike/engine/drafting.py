"""Guesses at what texts go on with, which a pass can check as fast as it computes a few tokens.

A guess is what followed the last time a text ended like this (`runner.speculate`), or what a draft model
(`runner.drafting`) or the model's own heads (`runner.mtp`) take for the likeliest. How many tokens are guessed depends
on how many were right before, and on how many texts share the pass: more than MOST_ROWS tokens no longer come along for
little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from gguflike.errors import check_integer
from gguflike.runner.speculate import Length, Lookup

if TYPE_CHECKING:
    from gguflike.engine.job import Job
    from gguflike.runner import Model
    from gguflike.runner.drafting import Drafter
    from gguflike.runner.slots import Slot
    from gguflike.runner.together import Together

MOST_ROWS = 16  # tokens of a pass that checks guesses


class Guessed:
    """What is guessed for one job: ``length`` is how much the draft model, or head, is asked for, in its ``slot``."""

    def __init__(self, job: Job, most: int, slot: Slot | None) -> None:
        self.lookup = Lookup(job.tokens, job.request.lookup) if job.request.lookup else None
        self.length = Length(most)
        self.slot = slot


class Drafts:
    """The drafts of an engine's jobs. ``tokens``: how many the draft model guesses at most at a time."""

    def __init__(
        self, model: Model, together: Together, draft: Model | Literal["mtp"] | None = None, tokens: int = 8
    ) -> None:
        """``together`` are the texts to guess for. ArgumentError where the draft model has another vocabulary,
        UnsupportedError where the model has no head."""
        self._tokens = check_integer("draft_tokens", tokens, 1)
        self._model: Drafter | None = None
        self._is_own = draft == "mtp"  # whose slots are those of the texts
        if draft == "mtp":
            self._model = together.own_heads()
        elif draft is not None:
            from gguflike.runner.drafting import DraftModel

            self._model = DraftModel(model, draft, len(together.slots))
        self._free = [] if self._model is None or self._is_own else list(self._model.slots)
        self._guessed: dict[int, Guessed] = {}  # by the job's id

    def propose(self, jobs: Sequence[Job], most: int) -> None:
        """Give each job its draft, all of them together at most so many tokens."""
        each = min(most, MOST_ROWS - len(jobs)) // max(1, len(jobs))
        asking: list[tuple[Job, Slot, int]] = []
        for job in jobs:
            guessed = self._of(job)
            guessed.length.adapt(job.result)
            room = min(each, job.room - 1)
            if room <= 0:
                continue
            if guessed.lookup is not None:
                job.draft = guessed.lookup.propose(job.tokens, room)
            if not job.draft and guessed.slot is not None:
                asking.append((job, guessed.slot, min(room, guessed.length.next)))
        if asking:
            self._ask(asking)

    def leave(self, job: Job) -> None:
        """A job has ended."""
        guessed = self._guessed.pop(job.id, None)
        if guessed is not None and guessed.slot is not None and not self._is_own:
            self._free.append(guessed.slot)

    def close(self) -> None:
        """Let the draft model's threads go, and guess without it."""
        if self._model is not None:
            self._model.close()
        self._model, self._free = None, []
        for guessed in self._guessed.values():
            guessed.slot = None

    def _of(self, job: Job) -> Guessed:
        if job.id not in self._guessed:
            slot = None
            if self._is_own and self._model is not None:
                assert job.slot is not None
                slot = self._model.slots[job.slot.number]
            elif self._free:
                slot = max(self._free, key=lambda slot: slot.common_prefix(job.tokens))
                self._free.remove(slot)
            self._guessed[job.id] = Guessed(job, self._tokens, slot)
        return self._guessed[job.id]

    def _ask(self, asking: Sequence[tuple[Job, Slot, int]]) -> None:
        """Let the draft model guess for all who ask."""
        from gguflike.runner.drafting import Asked

        assert self._model is not None
        try:
            drafts = self._model.guess([Asked(job.tokens, slot, most) for job, slot, most in asking])
        except Exception:  # the draft model was closed, say: texts go on without
            self.close()
            return
        for (job, _, _), draft in zip(asking, drafts, strict=True):
            job.draft = draft
