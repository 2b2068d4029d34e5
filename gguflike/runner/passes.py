"""Passes of a model: from token ids to logits or hidden states, and what stays of them.

Nothing here knows texts, which model.py does, and nothing checks what it is given, which network.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguflike.families.parts import Graph, Head, Rope
from gguflike.families.rope import divisor
from gguflike.kernels.args import SHARE_OPS
from gguflike.kernels.engine import native
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.program import Program, Team
from gguflike.progress import READING, Progress
from gguflike.runner import graph, rope
from gguflike.runner.buffers import HEAD_TOKENS, Buffers
from gguflike.runner.slots import Saved, Slot
from gguflike.runner.state import padded
from gguflike.runner.weights import Weights

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.runner.state import States

    Floats = npt.NDArray[np.float32]

COS_SIN_POSITIONS = 256  # whose cosines and sines are computed together


class Run(NamedTuple):
    """Tokens of one text that a pass computes, behind all that its slot holds. ``logits``: how many of them, the last
    ones, are to give logits. ``prompt``: they are of a prompt, as against tokens that were chosen one by one."""

    slot: Slot
    ids: Sequence[int]
    logits: int = 0
    prompt: bool = False


class Passes:
    """The programs of one model, with what they work on.

    ``slots`` are places for texts. Where one text is computed after the other, all of it is in the first: ``tokens``
    are those of which its ``states`` hold what they left. ``whole``: tokens see those behind them, so that a text
    cannot be computed in pieces.
    """

    #: Told after each pass what was computed, of which `made` can be asked until the next: runner.mtp listens.
    watch: Callable[[Sequence[Run]], None] | None = None

    def __init__(
        self,
        model: Graph,
        weights: Weights,
        context: int,
        cache_type: str,
        threads: int | None,
        progress: Progress | None,
        crest: float = 0.0,
        slots: int | None = None,
        team: Team | None = None,
    ) -> None:
        """``slots``: how many texts are computed at the same time, by `together`; None: one after the other. ``team``:
        another's, which computes these passes, too; None: one of ``threads`` threads of its own."""
        count = thread_count(threads) if team is None else team.threads
        self._graph, self._weights = model, weights
        self._rotations = {each: self._rotation(each, context) for each in model.ropes()}
        self._rotated = 0  # positions whose cosines and sines are in the buffers
        states, *others = graph.new_states(model, context, cache_type, slots or 1)
        self._buffers = buffers = Buffers(model, padded(context), count, crest, slots or 1)
        self._body = graph.body(model, weights, buffers, states)
        beside: tuple[str, ...] = ()
        if isinstance(model.head, Head):
            beside = SHARE_OPS  # so that the first token that is drawn waits for nothing
            self._one = graph.one(model, weights, buffers, states)
            self._heads = [graph.head(model, weights, buffers, many) for many in (False, True)]
            programs = [self._one, self._body, *self._heads]
        else:
            programs = [self._body, self._last]
        self._exact = weights.exact  # which is known when all programs are made
        self.slots = [Slot(number, each, self._exact) for number, each in enumerate([states, *others])]
        if slots is not None:
            programs += [self._each, self._each_head]
        # All at once: what is not in the kernel cache is compiled in parallel.
        names = [*Team.OPS, *weights.ops, *(name for program in programs for name in program.names)]
        native.load(names, progress, beside)
        self.team, self._owns_team = team or Team(count), team is None
        weights.repack(self.team, progress)

    def _rotation(self, each: Rope, context: int) -> rope.Rotation:
        name = divisor(each, context)
        return rope.rotation(each, None if name is None else self._weights.floats(name))

    @cached_property
    def _each(self) -> Program:
        """The body, with the sums of one token."""
        if self._exact:
            return self._body
        return graph.body(self._graph, self._weights, self._buffers, self.states, each=True)

    @cached_property
    def _each_head(self) -> Program:
        """The head of several tokens, with the sums of one."""
        if self._exact:
            return self._heads[True]
        return graph.head(self._graph, self._weights, self._buffers, True, each=True)

    @cached_property
    def _last(self) -> Program:
        return graph.last(self._graph, self._weights, self._buffers)

    @property
    def threads(self) -> int:
        return self.team.threads

    @property
    def batch(self) -> int:
        """Tokens for which a pass has room."""
        return self._buffers.batch

    @property
    def whole(self) -> bool:
        return self._buffers.whole

    def close(self) -> None:
        """Let the threads go, unless they are another's."""
        if self._owns_team:
            self.team.close()

    @property
    def states(self) -> States:
        """What the mixers of the text in the first slot keep."""
        return self.slots[0].states

    @property
    def tokens(self) -> list[int]:
        """Of the first slot."""
        return self.slots[0].tokens

    def common_prefix(self, ids: Sequence[int]) -> int:
        """As of ``Model.common_prefix``."""
        return self.slots[0].common_prefix(ids)

    def forget(self, position: int) -> None:
        """Drop the tokens from ``position`` on."""
        self.slots[0].forget(position)

    def save(self) -> Saved:
        """A copy of all that is held."""
        return self.slots[0].save()

    def restore(self, saved: Saved) -> None:
        """Hold again what was copied."""
        self.slots[0].restore(saved)

    def logits(self, ids: Sequence[int], position: int, all_logits: bool, progress: Progress | None = None) -> Floats:
        """Logits of the last of ``ids``, or of all, behind the first ``position`` tokens.

        Unless ``all_logits``, a view that the next call overwrites. ``progress`` counts tokens, and is told that they
        are READING; where one pass computes all, it is not called.
        """
        self._return_to(position)
        return self._computed(ids, all_logits, progress)

    def each(self, ids: Sequence[int], position: int) -> Floats:
        """Logits of all of ``ids``, at most ``batch``, behind the first ``position`` tokens: the bits that `logits`
        gives for one after the other."""
        self._return_to(position)
        return self.together([Run(self.slots[0], ids, len(ids))])[0]

    def _return_to(self, position: int) -> None:
        """Let the states stand at ``position``. What they have forgotten since is computed again."""
        again = self.slots[0].return_to(position)
        if again:
            self._computed(again, all_logits=False)

    def _computed(self, ids: Sequence[int], all_logits: bool, progress: Progress | None = None) -> Floats:
        """Logits of ``ids`` behind all tokens."""
        slot = self.slots[0]
        if len(ids) == 1:
            self._pass(self._one, [Run(slot, ids)])
            self._tell([Run(slot, ids)])
            return self._buffers.logits[:1].copy() if all_logits else self._buffers.logits[:1]
        out = (
            np.empty((len(ids), self._graph.embedding.n_vocab), np.float32) if all_logits else self._buffers.logits[:1]
        )
        size = self._buffers.batch
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            if progress is not None and len(ids) > size:
                progress(start, len(ids), READING)
            self._pass(self._body, [Run(slot, batch)])
            if all_logits:
                for first in range(0, len(batch), HEAD_TOKENS):
                    rows = range(first, min(first + HEAD_TOKENS, len(batch)))
                    out[start + first : start + first + len(rows)] = self._pass_head(rows)
            elif start + len(batch) == len(ids):
                out = self._pass_head([len(batch) - 1])
            self._tell([Run(slot, batch)])
        return out

    def together(self, runs: Sequence[Run]) -> list[Floats]:
        """Logits (``Run.logits``, vocab) of each run. There is room for ``batch`` tokens in all.

        A run gives the same bits whatever others come with it, and however prompts, and what was chosen behind them,
        are cut into runs: those that `logits` gives for the prompt, and then for token after token. Where these differ
        between one token and several, prompts have a pass of their own.
        """
        if self._exact:
            if len(runs) == 1 and len(runs[0].ids) == 1:
                self._pass(self._one, runs)
                self._tell(runs)
                return [self._buffers.logits[: runs[0].logits].copy()]
            return self._computed_together(self._body, runs)
        found: dict[int, Floats] = {}
        for program, prompt in ((self._each, False), (self._body, True)):
            numbers = [number for number, run in enumerate(runs) if run.prompt == prompt]
            if numbers:
                rows = self._computed_together(program, [runs[number] for number in numbers])
                found |= dict(zip(numbers, rows, strict=True))
        return [found[number] for number in range(len(runs))]

    def _computed_together(self, program: Program, runs: Sequence[Run]) -> list[Floats]:
        """The same of runs that share a pass."""
        ends = list(accumulate(len(run.ids) for run in runs))
        rows = [row for run, end in zip(runs, ends, strict=True) for row in range(end - run.logits, end)]
        self._pass(program, runs)
        found = np.empty((len(rows), self._graph.embedding.n_vocab), np.float32)
        for first in range(0, len(rows), HEAD_TOKENS):
            part = rows[first : first + HEAD_TOKENS]
            found[first : first + len(part)] = self._pass_head(part, each=True)
        self._tell(runs)
        behind = accumulate(run.logits for run in runs)
        return [found[stop - run.logits : stop] for run, stop in zip(runs, behind, strict=True)]

    def _tell(self, runs: Sequence[Run]) -> None:
        if self.watch is not None:
            self.watch(runs)

    def made(self, count: int, normed: bool = True) -> Floats:
        """What the last norm makes of the ``count`` tokens of the last pass, (count, n_embd), in their place: once; or
        where not ``normed``, what the last block does."""
        if normed and self._graph.norm is not None:
            self.team.run(self._last, count)
        return self._buffers.x[:count]

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
            self._pass(self._body, [Run(self.slots[0], batch)])
            out[start : start + len(batch)] = self.made(len(batch))
        buffers.type_ids[:] = 0
        return out[-1:] if last else out

    def _pass(self, program: Program, runs: Sequence[Run]) -> None:
        """One pass of the body, or of one token, behind what the slots of the runs hold."""
        buffers, count = self._buffers, 0
        for slot, ids, _, _ in runs:
            position, behind = len(slot.tokens), count + len(ids)
            buffers.ids[count:behind] = ids
            buffers.set_run(count, len(ids), slot.number, position)
            if self._graph.embedding.positions:
                buffers.position_ids[count:behind] = np.arange(position, position + len(ids))
            self._rotate(position + len(ids))
            count = behind
        self._weights.fetch(buffers.ids[:count])
        try:
            for slot, ids, _, _ in runs:
                slot.states.before(len(slot.tokens), len(ids))
            # Where there are several runs, ops know positions from the rows.
            self.team.run(program, count, len(runs[0].slot.tokens) if len(runs) == 1 else 0)
            for slot, ids, _, _ in runs:
                slot.advance(ids, program is self._body)
        except BaseException:  # an interrupt: nobody knows what the states hold
            for slot, _, _, _ in runs:
                slot.lose()
            raise

    def _rotate(self, positions: int) -> None:
        """Let the cosines and sines of so many positions be there."""
        if positions <= self._rotated:
            return
        start, wanted = self._rotated, -(-positions // COS_SIN_POSITIONS) * COS_SIN_POSITIONS
        self._rotated = min(wanted, self._buffers.positions)
        for each, rotation in self._rotations.items():
            rotation.fill_cos_sin(start, self._rotated - start, self._buffers.cos_sin[each][start:])

    def _pass_head(self, rows: Sequence[int], *, each: bool = False) -> Floats:
        """Logits of tokens of the last pass, by their numbers in it. ``each``: with the sums of one token."""
        count = len(rows)
        self._buffers.head_x[:count] = self._buffers.x[rows]
        self._buffers.head_rows[:count] = self._buffers.rows[rows]
        self.team.run(self._each_head if each and count > 1 else self._heads[count > 1], count)
        return self._buffers.logits[:count]
