"""What was computed of texts, kept for others that begin alike.

Where each stretch of positions stands by itself in what a model keeps, texts are kept as a tree of *blocks*: each holds
what BLOCK tokens left, behind those of its parent, so that texts with a common beginning share its blocks. Where states
lose what positions left (windows, recurrent mixers), whole texts are kept, each a copy of all that its slot held, with
what there is of earlier positions. What a disk has of texts (disk.py) is read where memory has less, and all that is
kept is written there too.

Copies give the same bits as computing again. What was used longest ago goes first when all of it takes more than
``limit`` bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from gguflike.runner.slots import Saved, Slot, common
from gguflike.runner.state import BLOCK

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gguflike.engine.disk import Disk


class Kept(ABC):
    """What is kept of texts: ``nbytes``, at most ``limit`` of them after each `load` and `keep`, whichever way it
    ends."""

    def __init__(self, limit: int, disk: Disk | None = None) -> None:
        self.limit, self.nbytes, self._disk = limit, 0, disk

    @abstractmethod
    def longest(self, ids: Sequence[int]) -> int:
        """How many tokens of ``ids``, the first so many, are kept, leaving at least one to compute."""

    def load(self, slot: Slot, ids: Sequence[int]) -> None:
        """Let a slot hold the longest beginning of ``ids`` that is kept, where that is longer than what it has in
        common with them."""
        try:
            self._load(slot, ids)
        finally:
            self._shrink()

    def keep(self, slot: Slot) -> None:
        """Keep what a slot holds, as far as others may begin with it."""
        try:
            self._keep(slot)
        finally:
            self._shrink()

    @abstractmethod
    def clear(self) -> None:
        """Keep nothing."""

    @abstractmethod
    def _load(self, slot: Slot, ids: Sequence[int]) -> None: ...

    @abstractmethod
    def _keep(self, slot: Slot) -> None: ...

    @abstractmethod
    def _shrink(self) -> None:
        """Drop what was used longest ago, until the rest is within the limit."""


class Block:
    """What BLOCK tokens left behind those of ``parent``. ``children`` are by their tokens, ``name`` is the disk's."""

    __slots__ = ("children", "data", "key", "name", "parent")

    def __init__(
        self, parent: Block | None, key: tuple[int, ...], data: npt.NDArray[np.uint8] | None, name: str = ""
    ) -> None:
        self.parent, self.key, self.data, self.name = parent, key, data, name
        self.children: dict[tuple[int, ...], Block] = {}


class Blocks(Kept):
    """Texts as a tree of blocks. In the order of their use each stands behind those that hang on it, so that the first
    of all can go."""

    def __init__(self, limit: int, disk: Disk | None = None) -> None:
        super().__init__(limit, disk)
        self._root = Block(None, (), None)
        self._order: OrderedDict[Block, None] = OrderedDict()  # used longest ago first

    def longest(self, ids: Sequence[int]) -> int:
        path = self._path(ids[:-1])
        count, name = len(path), path[-1].name if path else ""
        while self._disk is not None and BLOCK * (count + 1) < len(ids):
            name = self._disk.name(name, ids[BLOCK * count : BLOCK * (count + 1)])
            if not self._disk.has(name):
                break
            count += 1
        return BLOCK * count

    def _load(self, slot: Slot, ids: Sequence[int]) -> None:
        kept = slot.common_prefix(ids)
        path = self._path(ids[:-1])
        if self._disk is not None and self.longest(ids) > kept:
            self._read(self._disk, ids[:-1], path)
        if BLOCK * len(path) <= kept:
            return
        slot.return_to(kept)
        for number in range(kept // BLOCK, len(path)):
            data = path[number].data
            assert data is not None  # as of all but the root
            slot.states.put_block(number, data)
        slot.hold(ids[: BLOCK * len(path)])
        self._touch(path)

    def _read(self, disk: Disk, ids: Sequence[int], path: list[Block]) -> None:
        """Prolong a path by what the disk has of ``ids``."""
        for first in range(BLOCK * len(path), len(ids) - BLOCK + 1, BLOCK):
            node = path[-1] if path else self._root
            found = disk.get(disk.name(node.name, ids[first : first + BLOCK]))
            if found is None:
                return
            path.append(self._add(node, tuple(ids[first : first + BLOCK]), found.states[0][0]))

    def _add(self, parent: Block, key: tuple[int, ...], data: npt.NDArray[np.uint8]) -> Block:
        name = "" if self._disk is None else self._disk.name(parent.name, key)
        block = parent.children[key] = Block(parent, key, data, name)
        self._order[block] = None
        self._order.move_to_end(block, last=False)  # before its parent, and until it is used
        self.nbytes += data.nbytes
        return block

    def _keep(self, slot: Slot) -> None:
        """As far as blocks are full."""
        node, path = self._root, []
        for number in range(slot.solid // BLOCK):
            key = tuple(slot.tokens[BLOCK * number : BLOCK * (number + 1)])
            child = node.children.get(key)
            if child is None:
                data = slot.states.block(number)
                child = self._add(node, key, data)
                if self._disk is not None:
                    self._disk.put(child.name, [[data]])
            path.append(child)
            node = child
        self._touch(path)

    def clear(self) -> None:
        self._root, self.nbytes = Block(None, (), None), 0
        self._order.clear()

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
            self._order.move_to_end(block)

    def _shrink(self) -> None:
        while self.nbytes > self.limit:
            block, _ = self._order.popitem(last=False)
            assert block.parent is not None
            assert block.data is not None
            del block.parent.children[block.key]
            self.nbytes -= block.data.nbytes


def _are_ids(ids: object) -> TypeGuard[list[int]]:
    return isinstance(ids, list) and all(type(each) is int for each in ids)


class Texts(Kept):
    """Whole texts, each a copy of what its slot held."""

    def __init__(self, limit: int, disk: Disk | None = None) -> None:
        super().__init__(limit, disk)
        self._texts: OrderedDict[tuple[int, ...], Saved] = OrderedDict()  # used longest ago first
        self._there: dict[tuple[int, ...], str] = {}  # on the disk: tokens -> name
        if disk is not None:
            kept = ((header.get("tokens"), name) for name, header in disk.headers().items())  # headers of any bytes
            self._there = {tuple(ids): name for ids, name in kept if _are_ids(ids)}

    def longest(self, ids: Sequence[int]) -> int:
        """As of `Kept`; the states of the text may allow fewer."""
        return max((common(ids, key, len(ids) - 1) for key in (*self._texts, *self._there)), default=0)

    def _load(self, slot: Slot, ids: Sequence[int]) -> None:
        """The text that has most in common with ``ids`` is cut to where its states can go on."""
        kept = slot.common_prefix(ids)
        while (best := self.longest(ids)) > kept:
            key = min((key for key in (*self._texts, *self._there) if common(ids, key, best) == best), key=len)
            if key in self._texts or self._read(key):
                break
        else:
            return
        before = slot.save() if kept else None
        slot.restore(self._texts[key])
        if before is not None and slot.common_prefix(ids) < kept:
            slot.restore(before)
            return
        self._texts.move_to_end(key)
        slot.return_to(slot.common_prefix(ids))

    def _read(self, key: tuple[int, ...]) -> bool:
        """Take a text from the disk, which forgets it where it is not right."""
        assert self._disk is not None
        found = self._disk.get(self._there[key])
        if found is None:
            del self._there[key]
            return False
        self._texts[key] = saved = Saved(list(key), found.header["prefilled"], found.states)
        self.nbytes += saved.nbytes
        return True

    def _keep(self, slot: Slot) -> None:
        """All that it holds."""
        key = tuple(slot.tokens)
        if not key or key in self._texts:
            return
        self._texts[key] = saved = slot.save()
        self.nbytes += saved.nbytes
        if self._disk is not None:
            name = self._there[key] = self._disk.name("", key)
            self._disk.put(name, saved.states, tokens=saved.tokens, prefilled=saved.prefilled)

    def _shrink(self) -> None:
        while self.nbytes > self.limit:
            self.nbytes -= self._texts.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._texts.clear()
        self.nbytes = 0
