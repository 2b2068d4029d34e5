"""Guesses by the model's own multi-token-prediction head: one block that is given what the model made of a token, and
the token after it, and tells the one behind.

The head listens to the passes of the model (`Passes.watch`), and reads what they give as soon as it is known which
token came next. For the tokens that it guesses itself it takes what it made of them, where the model's would stand. Of
several heads the first guesses all.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Graph
from gguflike.families.parts.mtp import MTPInput
from gguflike.kernels.engine.program import Program
from gguflike.runner import graph as graphs
from gguflike.runner.drafting import READ, Asked
from gguflike.runner.passes import Passes, Run
from gguflike.runner.slots import Slot, common

if TYPE_CHECKING:
    from gguflike.runner.network import Network
    from gguflike.runner.passes import Floats
    from gguflike.runner.weights import Weights


class HeadPasses(Passes):
    """The programs of a head. ``before`` (tokens, n_embd): for each token of the next pass, what is known of the one
    before it."""

    before: Floats

    def __init__(self, head: Graph, weights: Weights, *arguments: Any, **options: Any) -> None:
        super().__init__(head, weights, *arguments, **options)
        (part,) = head.inputs
        assert isinstance(part, MTPInput)
        self._eps = np.float32(part.eps)
        self._norms = [weights.floats(norm.weight_role) for norm in part.norms]
        self._embedding = graphs.embedding(head, weights, self._buffers)

    def guesses(self, slot: Slot, ids: Sequence[int], before: Floats) -> tuple[Floats, Floats]:
        """Logits (1, vocab) of the last of ``ids``, at most ``batch``, behind all that the slot holds, and what the
        last norm makes of it (1, n_embd)."""
        self.before = before
        logits = self.together([Run(slot, ids, 1, prompt=len(ids) > READ)])[0]
        return logits, self.normed(len(ids))[-1:].copy()

    def _pass(self, program: Program, runs: Sequence[Run]) -> None:
        buffers, n_embd = self._buffers, self._graph.embedding.n_embd
        ids = [token for run in runs for token in run.ids]
        count = len(ids)
        buffers.ids[:count] = ids
        self._weights.fetch(buffers.ids[:count])
        self._team.run(self._embedding, count)
        for place, (x, weight) in enumerate(zip((buffers.x[:count], self.before), self._norms, strict=True)):
            mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
            buffers.pairs[:count, place * n_embd : (place + 1) * n_embd] = x / np.sqrt(mean_square + self._eps) * weight
        super()._pass(program, runs)


class Followed:
    """What a head knows of the text in one slot of the model. ``slot`` is its own, whose first token is the one behind
    number ``begin`` of the text; ``rows`` (n, n_embd) are what the model made of tokens number ``first`` and on that
    the head has not read."""

    def __init__(self, slot: Slot, n_embd: int) -> None:
        self.slot, self.begin, self.first = slot, 0, 0
        self.rows: Floats = np.empty((0, n_embd), np.float32)


class MTPHead:
    """Guesses for the texts of a model's passes, ``watched``, each in the slot of its number. Threads take turns."""

    def __init__(self, model: Network, passes: Passes) -> None:
        """``passes`` are the ones of the model to listen to. UnsupportedError where the file has no head."""
        self._model, self.watched, self._lock = model, passes, threading.Lock()
        self._passes = model.head_passes(len(passes.slots))
        self.slots = self._passes.slots
        self._followed = [Followed(slot, model.graph.embedding.n_embd) for slot in self.slots]
        passes.watch = self._hear

    def close(self) -> None:
        """Listen no more, and let the threads go."""
        self.watched.watch = None
        self._passes.close()

    def guess(self, texts: Sequence[Asked]) -> list[list[int]]:
        """What the head takes for the likeliest, token by token, of each text, whose last token the model has not
        computed, and all before it. A text that its slot of the model does not hold gets no guess."""
        with self._lock:
            return [self._guessed(*asked) for asked in texts]

    def _guessed(self, tokens: Sequence[int], slot: Slot, most: int) -> list[int]:
        held, last = self.watched.slots[slot.number].tokens, len(tokens) - 1
        followed = self._followed[slot.number]
        if len(held) != last or common(held, tokens, last) < last or followed.first + len(followed.rows) != last:
            return []
        found = self._read(followed, tokens, last)
        draft: list[int] = []
        while found is not None:
            logits, before = found
            draft.append(int(logits[0][: self._model.vocab_size].argmax()))
            if len(draft) >= most or len(tokens) + len(draft) >= self._model.context:
                break
            found = self._passes.guesses(slot, draft[-1:], before)
        return draft

    def _hear(self, runs: Sequence[Run], hidden: Floats) -> None:
        """The model has computed runs, which its slots hold, and ``hidden`` (tokens, n_embd) is what came of them."""
        with self._lock:
            start = 0
            for run in runs:
                rows, start = hidden[start : start + len(run.ids)].copy(), start + len(run.ids)
                followed, begin = self._followed[run.slot.number], len(run.slot.tokens) - len(run.ids)
                self._read(followed, run.slot.tokens, begin)
                followed.first, followed.rows = begin, rows

    def _read(self, followed: Followed, tokens: Sequence[int], end: int) -> tuple[Floats, Floats] | None:
        """Let the head read what is known of ``tokens`` before number ``end``, each with the token after it. Returns
        what `HeadPasses.guesses` gives for the last; None where there is nothing to read."""
        rows, first, slot = followed.rows[: max(0, end - followed.first)], followed.first, followed.slot
        followed.rows, followed.first = followed.rows[len(rows) :], first + len(rows)
        if not len(rows):
            return None
        known = first - followed.begin  # tokens that the head must hold, to go on with these
        if not (0 <= known <= len(slot.tokens) and slot.tokens[:known] == list(tokens[followed.begin + 1 : first + 1])):
            known, followed.begin = 0, first
        if slot.return_to(known):  # a state that cannot go back so far
            slot.lose()
            followed.begin = first
        found = None
        for start in range(0, len(rows), self._passes.batch):
            part = rows[start : start + self._passes.batch]
            ids = tokens[first + start + 1 : first + start + 1 + len(part)]
            found = self._passes.guesses(slot, ids, part)
        return found


def no_head(model: Network) -> UnsupportedError:
    """What to raise where a file has no head."""
    return UnsupportedError(
        "the model has no multi-token-prediction head",
        path=model.path,
        field="draft",
        expected="tensors named blk.N.nextn.eh_proj.weight and so on",
        remedy="convert the checkpoint again, if it has one and its family is one that keeps it; `lookup` or a smaller "
        "model guess otherwise",
    )
