"""Which slot a job gets, and what it need not compute, since a slot or what was kept of other texts has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.engine.prefixes import Blocks, Kept, Texts
from gguflike.errors import ArgumentError
from gguflike.runner.slots import common
from gguflike.runner.state import BLOCK

if TYPE_CHECKING:
    from gguflike.engine.disk import Disk
    from gguflike.engine.job import Job
    from gguflike.runner.slots import Slot


class Places:
    """The slots of an engine. A slot whose job has ended keeps what it holds until another text needs the place, or the
    memory: all slots together have room for ``positions``, or for one text where that is longer."""

    def __init__(self, slots: Sequence[Slot], limit: int, positions: float, disk: Disk | None = None) -> None:
        self.kept: Kept = (Texts if slots[0].states.forgets else Blocks)(limit, disk)
        self._slots, self._positions = slots, positions
        self._free = list(slots)  # left longest ago first
        self._behind: dict[int, tuple[Job, int]] = {}  # by the job's id: whose prompt begins alike, and how far

    def fits(self, job: Job, running: Sequence[Job]) -> bool:
        """Whether there is memory for a job beside others."""
        taken = sum(len(other.tokens) for other in running)
        return not running or taken + len(job.tokens) <= self._positions

    def enter(self, job: Job, running: Sequence[Job]) -> None:
        """Give a job a slot that has as much of its text as there is."""
        ids, reuse = job.tokens, job.request.cache
        slot = (self._begun(ids) if reuse else None) or self._emptiest()
        if reuse:
            self.kept.load(slot, ids)
        slot.return_to(slot.common_prefix(ids) if reuse else 0)
        self._free.remove(slot)
        ahead = [(common(ids, other.tokens, len(ids) - 1), other) for other in running if not other.decoding]
        far, other = max(ahead, key=lambda pair: pair[0], default=(0, job))
        if reuse and other.request.cache and far >= len(slot.tokens) + BLOCK:
            self._behind[job.id] = other, far
        self._shrink()
        job.begin(slot)

    def ready(self, job: Job) -> bool:
        """Whether it makes sense to compute more of a job's prompt: not while another computes the same, from which
        it will be copied."""
        if job.id not in self._behind:
            return True
        other, far = self._behind[job.id]
        done = other.computed >= far if isinstance(self.kept, Blocks) else other.decoding
        if not (other.over or done):
            return False
        del self._behind[job.id]
        assert job.slot is not None
        self.kept.load(job.slot, job.tokens)
        job.reuse()
        return True

    def computed(self, job: Job, whole: bool) -> None:
        """More of a job's prompt has been computed, or the ``whole`` of it."""
        assert job.slot is not None
        if whole or isinstance(self.kept, Blocks):
            self.kept.keep(job.slot)

    def leave(self, job: Job) -> None:
        """A job has ended."""
        self._behind.pop(job.id, None)
        self._shrink()
        slot = job.slot
        if slot is None:
            return
        if not job.request.cache:
            slot.lose()
        elif job.result.tokens:
            self.kept.keep(slot)
        self._free.append(slot)

    def free(self, number: int) -> Slot:
        """The slot of that number, as the one left last. ArgumentError where there is none, or a job has it."""
        for slot in self._free:
            if slot.number == number:
                self._free.remove(slot)
                self._free.append(slot)
                return slot
        there = ", ".join(str(slot.number) for slot in sorted(self._free, key=lambda slot: slot.number)) or "none"
        raise ArgumentError("no such slot that is free", field="slot", expected=f"one of {there}", got=number)

    def _begun(self, ids: Sequence[int]) -> Slot | None:
        """The free slot that has most in common with a text, unless what it would lose is more than that, and what is
        kept elsewhere will do as well."""
        best = max(self._free, key=lambda slot: slot.common_prefix(ids))
        shared = best.common_prefix(ids)
        worth = 2 * shared >= len(best.tokens) or self.kept.longest(ids) + BLOCK <= shared
        return best if shared >= BLOCK and worth else None

    def _shrink(self) -> None:
        """Give memory of free slots back, where all take more than there is room for."""
        for slot in self._free:
            if sum(slot.touched for slot in self._slots) <= self._positions:
                return
            slot.give_back()

    def _emptiest(self) -> Slot:
        """A free slot that holds nothing, or was left longest ago."""
        return next((slot for slot in self._free if not slot.tokens), self._free[0])
