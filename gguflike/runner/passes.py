"""Passes of a model: from token ids to logits or hidden states, and what stays of them.

Nothing here knows texts, and nothing checks what it is given: model.py does both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguflike.families.parts import Graph, Head, Rope
from gguflike.families.rope import divisor
from gguflike.kernels.engine import native
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.program import Program, Team
from gguflike.progress import READING, Progress
from gguflike.runner import graph, rope
from gguflike.runner.buffers import HEAD_TOKENS, Buffers
from gguflike.runner.state import padded
from gguflike.runner.weights import Weights

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.runner.state import Copy

    Floats = npt.NDArray[np.float32]

COS_SIN_POSITIONS = 256  # whose cosines and sines are computed together


class Saved(NamedTuple):
    """A copy of what is held of a text, and which tokens that is."""

    tokens: list[int]
    prefilled: int
    states: list[Copy]


class Passes:
    """The programs of one model, with what they work on.

    ``tokens`` are those of which ``states`` hold what they left: what is computed next comes behind them, or behind the
    first so many of them. ``whole``: tokens see those behind them, so that a text cannot be computed in pieces.
    """

    def __init__(
        self,
        model: Graph,
        weights: Weights,
        context: int,
        cache_type: str,
        threads: int | None,
        progress: Progress | None,
        crest: float = 0.0,
    ) -> None:
        count = thread_count(threads)
        self._graph, self._weights = model, weights
        self._rotations = {each: self._rotation(each, context) for each in model.ropes()}
        self._rotated = 0  # positions whose cosines and sines are in the buffers
        self.states = graph.new_states(model, context, cache_type)
        self._buffers = buffers = Buffers(model, padded(context), count, crest)
        self._body = graph.body(model, weights, buffers, self.states)
        if isinstance(model.head, Head):
            self._one = graph.one(model, weights, buffers, self.states)
            self._heads = [graph.head(model, weights, buffers, many) for many in (False, True)]
            programs = (self._one, self._body, *self._heads)
        else:
            programs = (self._body, self._last)
        # All at once: what is not in the kernel cache is compiled in parallel.
        native.load([*Team.OPS, *weights.ops, *(name for program in programs for name in program.names)], progress)
        self._team = Team(count)
        weights.repack(self._team, progress)
        self.tokens: list[int] = []
        self._prefilled = 0  # of the tokens, computed with others: the first so many

    def _rotation(self, each: Rope, context: int) -> rope.Rotation:
        name = divisor(each, context)
        return rope.rotation(each, None if name is None else self._weights.floats(name))

    @cached_property
    def _last(self) -> Program:
        return graph.last(self._graph, self._weights, self._buffers)

    @property
    def threads(self) -> int:
        return self._team.threads

    @property
    def whole(self) -> bool:
        return self._buffers.whole

    def close(self) -> None:
        """Let the threads go."""
        self._team.close()

    def common_prefix(self, ids: Sequence[int]) -> int:
        """As of ``Model.common_prefix``."""
        count, exact = 0, self._weights.exact
        limit = min(len(ids) - 1, len(self.tokens)) if exact else min(len(ids) - 2, self._prefilled)
        while count < limit and ids[count] == self.tokens[count]:
            count += 1
        return self.states.reusable(count)

    def forget(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""
        del self.tokens[position:]
        self._prefilled = min(self._prefilled, position)

    def save(self) -> Saved:
        """A copy of all that is held."""
        return Saved(list(self.tokens), self._prefilled, self.states.save(len(self.tokens)))

    def restore(self, saved: Saved) -> None:
        """Hold again what was copied."""
        self.forget(0)  # were this interrupted, the states would be of neither text
        self.states.restore(saved.states)
        self.tokens, self._prefilled = saved.tokens, saved.prefilled

    def logits(self, ids: Sequence[int], position: int, all_logits: bool, progress: Progress | None = None) -> Floats:
        """Logits of the last of ``ids``, or of all, behind the first ``position`` tokens.

        Unless ``all_logits``, a view that the next call overwrites. ``progress`` counts tokens, and is told that they
        are READING; where one pass computes all, it is not called.
        """
        self._return_to(position)
        return self._computed(ids, position, all_logits, progress)

    def _return_to(self, position: int) -> None:
        """Let the states stand at ``position``. What they have forgotten since is computed again."""
        kept = self.states.reusable(position)
        again = self.tokens[kept:position]
        self.forget(kept)
        self.states.cut(kept)
        if again:
            self._computed(again, kept, all_logits=False)

    def _computed(
        self, ids: Sequence[int], position: int, all_logits: bool, progress: Progress | None = None
    ) -> Floats:
        """Logits of ``ids`` behind all tokens."""
        if len(ids) == 1:
            self._pass(self._one, ids, position)
            return self._buffers.logits[:1].copy() if all_logits else self._buffers.logits[:1]
        out = (
            np.empty((len(ids), self._graph.embedding.n_vocab), np.float32) if all_logits else self._buffers.logits[:1]
        )
        size = self._buffers.batch
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            if progress is not None and len(ids) > size:
                progress(start, len(ids), READING)
            self._pass(self._body, batch, position + start)
            if all_logits:
                for first in range(0, len(batch), HEAD_TOKENS):
                    count = min(HEAD_TOKENS, len(batch) - first)
                    out[start + first : start + first + count] = self._pass_head(first, count, position + start)
            elif start + len(batch) == len(ids):
                out = self._pass_head(len(batch) - 1, 1, position + start)
        return out

    def hidden(self, ids: Sequence[int], second: int, last: bool) -> Floats:
        """What the last norm makes of each of ``ids``, or of the last, which are all there is. Those from ``second`` on
        are of the second of two texts."""
        begin = self.common_prefix(ids) if last and not self.whole else 0
        self._return_to(begin)
        buffers, out = self._buffers, np.empty((len(ids), self._graph.embedding.n_embd), np.float32)
        types = np.arange(len(ids)) >= second
        types &= self._graph.embedding.types > 1
        for start in range(begin, len(ids), buffers.batch):
            batch = ids[start : start + buffers.batch]
            buffers.type_ids[: len(batch)] = types[start : start + len(batch)]
            self._pass(self._body, batch, start)
            if self._graph.norm is not None:
                self._team.run(self._last, len(batch))
            out[start : start + len(batch)] = buffers.x[: len(batch)]
        buffers.type_ids[:] = 0
        return out[-1:] if last else out

    def _pass(self, program: Program, batch: Sequence[int], position: int) -> None:
        count, buffers = len(batch), self._buffers
        buffers.ids[:count] = batch
        buffers.set_run(0, count, 0, position)
        if self._graph.embedding.positions:
            buffers.position_ids[:count] = np.arange(position, position + count)
        if position + count > self._rotated:
            start, wanted = self._rotated, -(-(position + count) // COS_SIN_POSITIONS) * COS_SIN_POSITIONS
            self._rotated = min(wanted, buffers.positions)
            for each, rotation in self._rotations.items():
                rotation.fill_cos_sin(start, self._rotated - start, buffers.cos_sin[each][start:])
        try:
            self.states.before(position, count)
            self._team.run(program, count, position)
            self.states.advance(position, count)
        except BaseException:  # an interrupt: nobody knows what the states hold
            self.forget(0)
            self.states.cut(0)
            raise
        if program is self._body and self._prefilled == position:
            self._prefilled += count
        self.tokens += batch

    def _pass_head(self, first: int, count: int, position: int) -> Floats:
        """Logits of ``count`` tokens of the last pass, which began at ``position``, from number ``first`` on."""
        self._buffers.head_x[:count] = self._buffers.x[first : first + count]
        self._team.run(self._heads[count > 1], count, position + first)
        return self._buffers.logits[:count]
