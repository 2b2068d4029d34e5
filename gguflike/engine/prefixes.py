"""What was computed of texts, kept for others that begin alike.

Where each stretch of positions stands by itself in what a model keeps, texts are kept as a tree of *blocks*: each holds
what BLOCK tokens left, behind those of its parent, so that texts with a common beginning share its blocks. Where states
lose what positions left (windows, recurrent mixers), whole texts are kept, each a copy of all that its slot held, with
what there is of earlier positions.

Copies give the same bits as computing again. What was used longest ago goes first when all of it would take more than
``limit`` bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.runner.slots import Saved, Slot, common
from gguflike.runner.state import BLOCK

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Block:
    """What BLOCK tokens left behind those of ``parent``. ``children`` are by their tokens."""

    __slots__ = ("children", "data", "key", "parent", "used")

    def __init__(self, parent: Block | None, key: tuple[int, ...], data: npt.NDArray[np.uint8] | None) -> None:
        self.parent, self.key, self.data = parent, key, data
        self.children: dict[tuple[int, ...], Block] = {}
        self.used = 0


class Blocks:
    """Texts as a tree of blocks."""

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._root = Block(None, (), None)
        self._clock = 0

    def longest(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` `load` would load, leaving at least one to compute."""
        return BLOCK * len(self._path(ids[:-1]))

    def load(self, slot: Slot, ids: Sequence[int]) -> None:
        """Let a slot hold the longest beginning of ``ids`` that is kept, where that is longer than what it has in
        common with them."""
        path = self._path(ids[:-1])
        kept = slot.common_prefix(ids)
        if BLOCK * len(path) <= kept:
            return
        slot.return_to(kept)
        for number in range(kept // BLOCK, len(path)):
            data = path[number].data
            assert data is not None  # as of all but the root
            slot.states.put_block(number, data)
        slot.hold(ids[: BLOCK * len(path)])
        self._touch(path)

    def keep(self, slot: Slot) -> None:
        """Keep what a slot holds, as far as blocks are full."""
        node, path = self._root, []
        for number in range(slot.solid // BLOCK):
            key = tuple(slot.tokens[BLOCK * number : BLOCK * (number + 1)])
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = Block(node, key, slot.states.block(number))
                assert child.data is not None
                self.nbytes += child.data.nbytes
            path.append(child)
            node = child
        self._touch(path)
        self._shrink()

    def clear(self) -> None:
        """Keep nothing."""
        self._root, self.nbytes = Block(None, (), None), 0

    def _path(self, ids: Sequence[int]) -> list[Block]:
        node, path = self._root, []
        for first in range(0, len(ids) - BLOCK + 1, BLOCK):
            child = node.children.get(tuple(ids[first : first + BLOCK]))
            if child is None:
                break
            path.append(child)
            node = child
        return path

    def _touch(self, path: Sequence[Block]) -> None:
        """These have been used now, the first of them last: what others hang on outlives them."""
        for block in reversed(path):
            self._clock += 1
            block.used = self._clock

    def _shrink(self) -> None:
        """Drop the blocks used longest ago that nothing hangs on, until what is kept is within the limit."""
        while self.nbytes > self.limit:
            leaves = [block for block in self._all() if not block.children]
            leaves.sort(key=lambda block: block.used)
            for block in leaves[: max(1, len(leaves) // 8)]:
                assert block.parent is not None
                assert block.data is not None
                del block.parent.children[block.key]
                self.nbytes -= block.data.nbytes
                if self.nbytes <= self.limit:
                    return

    def _all(self) -> list[Block]:
        found, left = [], list(self._root.children.values())
        while left:
            block = left.pop()
            found.append(block)
            left += block.children.values()
        return found


class Texts:
    """Whole texts, each a copy of what its slot held."""

    def __init__(self, limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self._texts: OrderedDict[tuple[int, ...], Saved] = OrderedDict()  # used longest ago first

    def longest(self, ids: Sequence[int]) -> int:
        """How many tokens of ``ids`` a kept text has in common with them, leaving at least one to compute. Its states
        may allow fewer."""
        return max((common(ids, key, len(ids) - 1) for key in self._texts), default=0)

    def load(self, slot: Slot, ids: Sequence[int]) -> None:
        """Let a slot hold the kept text that has most in common with ``ids``, where that is more than what the slot has
        in common with them, cut to where its states can go on."""
        best, kept = self.longest(ids), slot.common_prefix(ids)
        if best <= kept:
            return
        key = min((key for key in self._texts if common(ids, key, best) == best), key=len)
        before = slot.save() if kept else None
        slot.restore(self._texts[key])
        if before is not None and slot.common_prefix(ids) < kept:
            slot.restore(before)
            return
        self._texts.move_to_end(key)
        slot.return_to(slot.common_prefix(ids))

    def keep(self, slot: Slot) -> None:
        """Keep all that a slot holds."""
        key = tuple(slot.tokens)
        if not key or key in self._texts:
            return
        self._texts[key] = saved = slot.save()
        self.nbytes += saved.nbytes
        while self.nbytes > self.limit:
            self.nbytes -= self._texts.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Keep nothing."""
        self._texts.clear()
        self.nbytes = 0
