"""Guesses at what texts go on with, which a pass can check as fast as it computes a few tokens.

A guess is what followed the last time a text ended like this (`runner.speculate`), or what a smaller model of the same
vocabulary, the *draft model*, takes for the likeliest. What is chosen does not depend on guesses: each is compared with
what is chosen without it. How many tokens are guessed depends on how many were right before, and on how many texts
share the pass: more than MOST_ROWS tokens no longer come along for little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.errors import ArgumentError, check_integer, counted
from gguflike.runner.slots import common
from gguflike.runner.speculate import Lookup, next_length
from gguflike.runner.together import Run

if TYPE_CHECKING:
    from gguflike.engine.job import Job
    from gguflike.runner import Model
    from gguflike.runner.slots import Slot

MOST_ROWS = 16  # tokens of a pass that checks guesses
READ = 8  # tokens that the draft model has to read, from which on they are computed like a prompt


class Guessed:
    """What is guessed for one job. ``length``: so many tokens the draft model is asked for next."""

    def __init__(self, job: Job, length: int, slot: Slot | None) -> None:
        self.lookup = Lookup(job.tokens, job.request.lookup) if job.request.lookup else None
        self.slot = slot  # of the draft model
        self._most = self.length = length
        self._drafted = self._accepted = 0

    def adapt(self, job: Job) -> None:
        """Choose the length by what became of the last draft."""
        drafted, accepted = job.result.drafted - self._drafted, job.result.accepted - self._accepted
        self._drafted, self._accepted = job.result.drafted, job.result.accepted
        if drafted:
            self.length = next_length(drafted, accepted, self._most)


class Drafts:
    """The drafts of an engine's jobs. ``tokens``: how many the draft model guesses at most at a time."""

    def __init__(self, model: Model, parallel: int, draft: Model | None = None, tokens: int = 8) -> None:
        """ArgumentError where the draft model has another vocabulary."""
        self._tokens = check_integer("draft_tokens", tokens, 1)
        if draft is not None:
            _check_vocabulary(model, draft)
        self._model, self._tokens_known = draft, model.vocab_size  # matrices may have more rows than there are tokens
        self._together = None if draft is None else draft.together(parallel)
        self._free = [] if self._together is None else list(self._together.slots)
        self._guessed: dict[int, Guessed] = {}  # by the job's id

    def propose(self, jobs: Sequence[Job], most: int) -> None:
        """Give each job its draft, all of them together at most so many tokens."""
        each = min(most, MOST_ROWS - len(jobs)) // max(1, len(jobs))
        asking: list[tuple[Job, Guessed]] = []
        for job in jobs:
            guessed = self._of(job)
            guessed.adapt(job)
            room = min(each, job.room - 1)
            if room <= 0:
                continue
            if guessed.lookup is not None:
                job.draft = guessed.lookup.propose(job.tokens, room)
            if not job.draft and guessed.slot is not None:
                asking.append((job, guessed))
        if asking:
            self._ask(asking, each)

    def leave(self, job: Job) -> None:
        """A job has ended."""
        guessed = self._guessed.pop(job.id, None)
        if guessed is not None and guessed.slot is not None:
            self._free.append(guessed.slot)

    def close(self) -> None:
        """Let the draft model's threads go, and guess without it."""
        if self._together is not None:
            self._together.close()
        self._together, self._free = None, []
        for guessed in self._guessed.values():
            guessed.slot = None

    def _of(self, job: Job) -> Guessed:
        if job.id not in self._guessed:
            slot = None
            if self._free:
                slot = max(self._free, key=lambda slot: slot.common_prefix(job.tokens))
                self._free.remove(slot)
            self._guessed[job.id] = Guessed(job, self._tokens, slot)
        return self._guessed[job.id]

    def _ask(self, asking: list[tuple[Job, Guessed]], each: int) -> None:
        """Let the draft model guess, token by token, for all who ask. It reads what it has not read of the texts
        first, a piece in each step."""
        together, draft = self._together, self._model
        assert together is not None
        assert draft is not None
        piece, runs, guessing = together.batch // len(asking), [], []
        for job, guessed in asking:
            slot = guessed.slot
            assert slot is not None
            slot.return_to(common(job.tokens, slot.tokens, len(job.tokens) - 1))
            left = job.tokens[len(slot.tokens) :]
            if len(job.tokens) >= draft.context:
                continue
            runs.append(Run(slot, left[:piece], int(len(left) <= piece), prompt=len(left) > READ))
            guessing.append((job, guessed))
        while runs:
            try:
                results = together.compute(runs)
            except Exception:  # the draft model was closed, say: texts go on without
                self.close()
                return
            runs, asked, guessing = [], guessing, []
            for (job, guessed), rows in zip(asked, results, strict=True):
                if isinstance(rows, Exception) or not len(rows):
                    continue
                job.draft.append(int(rows[0][: self._tokens_known].argmax()))
                full = len(job.tokens) + len(job.draft) >= draft.context
                if len(job.draft) < min(each, guessed.length, job.room - 1) and not full:
                    assert guessed.slot is not None
                    runs.append(Run(guessed.slot, job.draft[-1:], 1))
                    guessing.append((job, guessed))


def _check_vocabulary(model: Model, draft: Model) -> None:
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
