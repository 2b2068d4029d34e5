"""Guesses by the model's own multi-token-prediction heads: each is one block that is given what the model made of a
token, and a token behind it, and tells the one behind that.

Head number k, from 0, is given what head k - 1 made of a token, or the first what the model made of it, and the token
k + 1 further on, as they were trained (DeepSeek-V3, section 2.2, arXiv:2412.19437): so the first tells the token that
comes next but one to what the model has computed, the second the one behind it. A single head goes on by itself: it
takes what it made of a token where the model's would stand.

Heads listen to the passes of the model (`Passes.watch`), are computed by the same threads, and read what they give as
soon as it is known which tokens came behind. What they read together with guessed tokens is read again when the text
has gone on.
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
from gguflike.runner.slots import Slot

if TYPE_CHECKING:
    from gguflike.runner.network import Network
    from gguflike.runner.passes import Floats
    from gguflike.runner.weights import Weights


class HeadPasses(Passes):
    """The programs of a head. ``before`` (tokens, n_embd): for each token of the next pass, what is known of the one
    that it is read with."""

    before: Floats

    def __init__(self, head: Graph, weights: Weights, *arguments: Any, **options: Any) -> None:
        super().__init__(head, weights, *arguments, **options)
        (part,) = head.inputs
        assert isinstance(part, MTPInput)
        self.normed = part.normed
        self._eps, self._centered = np.float32(part.eps), part.kind == "layer"
        self._norms = [weights.floats(norm.weight_role) for norm in part.norms]
        self._embedding = graphs.embedding(head, weights, self._buffers)

    def read(self, slot: Slot, ids: Sequence[int], before: Floats) -> tuple[Floats, Floats]:
        """Logits (1, vocab) of the last of ``ids``, behind all that the slot holds, each with its row of ``before``,
        and what the head makes of each (len(ids), n_embd)."""
        logits, made = np.empty((0, 0), np.float32), np.empty_like(before)
        for start in range(0, len(ids), self.batch):
            part = ids[start : start + self.batch]
            self.before = before[start : start + len(part)]
            logits = self.together([Run(slot, part, 1, prompt=len(part) > READ)])[0]
            made[start : start + len(part)] = self.made(len(part), self.normed)
        return logits, made

    def _pass(self, program: Program, runs: Sequence[Run]) -> None:
        buffers, n_embd = self._buffers, self._graph.embedding.n_embd
        ids = [token for run in runs for token in run.ids]
        count = len(ids)
        buffers.ids[:count] = ids
        self._weights.fetch(buffers.ids[:count])
        self.team.run(self._embedding, count)
        for place, (x, weight) in enumerate(zip((buffers.x[:count], self.before), self._norms, strict=True)):
            if self._centered:
                x = x - np.mean(x, axis=-1, keepdims=True)
            mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
            buffers.pairs[:count, place * n_embd : (place + 1) * n_embd] = x / np.sqrt(mean_square + self._eps) * weight
        super()._pass(program, runs)


class Followed:
    """What head number ``number`` knows of the text in one slot of the model. ``slot`` is its own, whose first token is
    the one that was read with what is known of number ``begin`` of the text. ``rows`` (n, n_embd) are what the model,
    or the head before, made of tokens number ``first`` and on, which the head has not read for good."""

    def __init__(self, number: int, slot: Slot, n_embd: int) -> None:
        self.slot, self.ahead = slot, number + 1  # tokens between one and the one that is read with it
        self.begin = self.first = 0
        self.rows: Floats = np.empty((0, n_embd), np.float32)

    @property
    def end(self) -> int:
        return self.first + len(self.rows)

    def forget(self, end: int) -> None:
        """Drop the rows of tokens from number ``end`` on."""
        self.rows = self.rows[: max(0, end - self.first)]

    def add(self, first: int, rows: Floats) -> None:
        """There are rows of tokens number ``first`` and on, in place of others where these do not end there."""
        together = first == self.end and len(self.rows)
        self.first, self.rows = (self.first, np.concatenate([self.rows, rows])) if together else (first, rows)

    def known(self, tokens: Sequence[int]) -> tuple[int, Floats]:
        """Take the rows that can be read with one of ``tokens``, and the number of the first."""
        first, count = self.first, min(len(self.rows), max(0, len(tokens) - self.ahead - self.first))
        rows, self.rows, self.first = self.rows[:count], self.rows[count:], first + count
        return first, rows

    def stand(self, tokens: Sequence[int], first: int) -> bool:
        """Let the slot hold what was read before the row of token number ``first``. Where that is not what comes of
        these ``tokens``, it holds nothing, and False is returned."""
        begin, count, held = self.begin + self.ahead, first - self.begin, self.slot.tokens
        same = 0 <= count <= len(held) and held[:count] == tokens[begin : begin + count]
        if not same:
            count, self.begin = 0, first
        if self.slot.return_to(count):  # a state that cannot go back so far
            self.slot.lose()
            same, self.begin = False, first
        return same


class MTPHeads:
    """Guesses for the texts of a model's passes, ``watched``, each in the slot of its number. Threads take turns."""

    def __init__(self, model: Network, passes: Passes) -> None:
        """``passes`` are the ones of the model to listen to. UnsupportedError where the file has no head."""
        self._model, self.watched, self._lock = model, passes, threading.Lock()
        self._passes = model.head_passes(len(passes.slots), passes.team)
        self.slots = self._passes[0].slots
        n_embd = model.graph.embedding.n_embd
        self._followed = [
            [Followed(number, head.slots[slot.number], n_embd) for number, head in enumerate(self._passes)]
            for slot in self.slots
        ]
        passes.watch = self._hear

    def close(self) -> None:
        """Listen no more."""
        self.watched.watch = None

    def guess(self, texts: Sequence[Asked]) -> list[list[int]]:
        """What the heads take for the likeliest, token by token, of each text, whose last token the model has not
        computed, and all before it. A text that its slot of the model does not hold gets no guess."""
        with self._lock:
            return [self._guessed(list(tokens), slot.number, most) for tokens, slot, most in texts]

    def _guessed(self, tokens: list[int], number: int, most: int) -> list[int]:
        followed, last = self._followed[number], len(tokens) - 1
        if self.watched.slots[number].tokens != tokens[:last]:
            return []
        followed[0].forget(last)  # what comes of tokens that were guessed and not taken
        if followed[0].end != last:
            return []
        most = min(most, self._model.context - len(tokens))
        found = self._read(followed, tokens)
        if found is None or most < 1:
            return []
        logits, made = found
        draft = [self._likeliest(logits)]
        if len(self._passes) > 1:
            self._go_on(followed, tokens, draft, most)
            return draft
        while len(draft) < most:
            logits, made = self._passes[0].read(followed[0].slot, draft[-1:], made[-1:])
            draft.append(self._likeliest(logits))
        return draft

    def _go_on(self, followed: Sequence[Followed], tokens: list[int], draft: list[int], most: int) -> None:
        """Let each head behind the first add a token to a draft, of up to ``most``. What they read for that stays to be
        read again, with the tokens that come."""
        first, made = len(tokens) - 1, followed[0].rows  # none: what the head before has made with tokens of the draft
        for each, head in zip(followed[1:], self._passes[1:], strict=True):
            if len(each.rows) and each.end == first:
                first, made = each.first, np.concatenate([each.rows, made])
            if not len(made) or len(draft) >= most:
                return
            text = tokens + draft
            each.stand(text, first)
            logits, made = head.read(each.slot, text[first + each.ahead :], made)
            draft.append(self._likeliest(logits))

    def _likeliest(self, logits: Floats) -> int:
        return int(logits[0][: self._model.vocab_size].argmax())

    def _hear(self, runs: Sequence[Run]) -> None:
        """The model has computed runs, which its slots hold. Of each, the first token is certain, and all before it."""
        with self._lock:
            start, hidden = 0, self.watched.made(sum(len(run.ids) for run in runs), self._passes[0].normed)
            for run in runs:
                rows, start = hidden[start : start + len(run.ids)].copy(), start + len(run.ids)
                followed, begin = self._followed[run.slot.number], len(run.slot.tokens) - len(run.ids)
                followed[0].forget(begin)
                for each in followed[1:]:  # what was made of tokens that are no longer there
                    each.forget(begin + 2 - each.ahead)
                self._read(followed, run.slot.tokens[: begin + 1])
                followed[0].first, followed[0].rows = begin, rows

    def _read(self, followed: Sequence[Followed], tokens: list[int]) -> tuple[Floats, Floats] | None:
        """Let the heads read what is known with ``tokens``. Returns what `HeadPasses.read` gives for the first; None
        where that has nothing to read."""
        found = None
        for number, (each, head) in enumerate(zip(followed, self._passes, strict=True)):
            first, rows = each.known(tokens)
            if not len(rows):
                continue
            goes_on = each.stand(tokens, first)
            ids = tokens[first + each.ahead : first + each.ahead + len(rows)]
            logits, made = head.read(each.slot, ids, rows)
            if number == 0:
                found = logits, made
            for behind in followed[number + 1 : number + 2]:
                if not goes_on:  # nor does what this head made before
                    behind.forget(0)
                behind.add(first, made)
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
