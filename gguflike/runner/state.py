"""What a model keeps from token to token: one state for each mixer that needs one.

A *key-value cache* holds, for a context of C positions and D dimensions and for each key head:

    keys    (C / 16, D, 16): sixteen keys to a block, the key running fastest, so that kernels take a key per lane
    values  (C, D)

Type "f16" holds them as float16, "f32" as float32, "q8_0" as int8 with a float16 scale for 32 dimensions: (C / 16,
D / 32, 16) for keys, (C, D / 32) for values. Memory is reserved for the whole context but only taken from the system as
positions are written.

Where queries see a window of keys only, C is about that plus a pass of tokens: the cache is a *ring*, in which position
p stands at p modulo C and replaces what stood there. What recurrent mixers keep is in recurrent.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gguflike.errors import UnsupportedError, check_choice
from gguflike.kernels.attention.sizes import ATTENTION_KEYS
from gguflike.kernels.engine.memory import aligned, give_back
from gguflike.machine import machine_bytes
from gguflike.runner.buffers import BATCH

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.kernels.engine.memory import Take

    Copy = list[npt.NDArray[Any]]

BLOCK = 32  # positions are reserved in multiples of this; kernels read keys up to the next one
TYPES = ("f16", "q8_0", "f32")
BYTES = {"f16": 2, "q8_0": 1, "f32": 4}  # of a key's dimension, without scales
SCALED = 32  # dimensions that share a scale
KEYS = 16  # keys of one block


class State(Protocol):
    """What one mixer keeps. It has its size at once, and memory when `in_slots` has given it some."""

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the whole context, of one text."""
        ...

    @property
    def read_bytes(self) -> int:
        """Bytes that a token at the end of the context reads of it."""
        ...

    @property
    def forgets(self) -> bool:
        """Whether it loses what positions left as others follow. If not, any prefix stands as it was, and the next
        four are never called."""
        ...

    def before(self, start: int, count: int) -> None:
        """A pass is going to compute ``count`` positions from ``start`` on, where it stands."""
        ...

    def advance(self, start: int, count: int) -> None:
        """A pass has computed ``count`` positions from ``start`` on, where it stood."""
        ...

    def reusable(self, count: int) -> int:
        """From how many positions it can go on, at most ``count`` (which were computed): the largest number, or 0."""
        ...

    def cut(self, count: int) -> None:
        """Stand at ``count`` positions, which is what `reusable` gave."""
        ...

    def save(self, count: int) -> Copy:
        """A copy of what the first ``count`` positions left, for ``restore``."""
        ...

    def restore(self, saved: Copy) -> None:
        """Put back what ``save`` copied."""
        ...

    def give_back(self) -> None:
        """Hold nothing, and give the memory that positions took back to the system."""
        ...

    def in_slots(self, count: int, take: Take = aligned) -> Sequence[State]:
        """This, and as many like it as make ``count``, each for another text, with memory that ``take`` gives. It lies
        one behind the other, so that the addresses of the first are those of all."""
        ...


class States:
    """The states of all mixers of a model, in the order of ``Graph.mixers``; None for one that keeps nothing."""

    def __init__(self, states: Sequence[State | None]) -> None:
        self.of_mixers = tuple(states)
        self._kept = [state for state in dict.fromkeys(states) if state is not None]  # layers may share one
        self._forgetful = [state for state in self._kept if state.forgets]

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the whole context."""
        return sum(state.nbytes for state in self._kept)

    @property
    def read_bytes(self) -> int:
        """Bytes that a token at the end of the context reads of all of them."""
        return sum(state.read_bytes for state in self.of_mixers if state is not None)

    @property
    def forgets(self) -> bool:
        """Whether some state loses what positions left as others follow. If not, what each BLOCK of positions left
        stands by itself."""
        return bool(self._forgetful)

    def block(self, number: int) -> npt.NDArray[np.uint8]:
        """A copy of what BLOCK positions left, the ``number``-th so many, where nothing `forgets`."""
        groups = slice(number * (BLOCK // KEYS), (number + 1) * (BLOCK // KEYS))
        return np.concatenate([array[:, groups].ravel() for array in self._by_head])

    def put_block(self, number: int, block: npt.NDArray[np.uint8]) -> None:
        """Put what `block` copied where so many positions of this text stand."""
        groups, at = slice(number * (BLOCK // KEYS), (number + 1) * (BLOCK // KEYS)), 0
        for array in self._by_head:
            target = array[:, groups]
            target[:] = block[at : at + target.size].reshape(target.shape)
            at += target.size

    @cached_property
    def _by_head(self) -> list[npt.NDArray[np.uint8]]:
        return [array for state in self._kept if isinstance(state, KVCache) for array in state.by_head()]

    def before(self, start: int, count: int) -> None:
        """As of a `State`, for all."""
        for state in self._forgetful:
            state.before(start, count)

    def advance(self, start: int, count: int) -> None:
        """As of a `State`, for all."""
        for state in self._forgetful:
            state.advance(start, count)

    def reusable(self, count: int) -> int:
        """From how many positions all of them can go on, at most ``count``: the largest number, or 0."""
        agreed = -1
        while agreed != count:
            agreed = count
            for state in self._forgetful:
                count = state.reusable(count)
        return count

    def cut(self, count: int) -> None:
        """As of a `State`, for all."""
        for state in self._forgetful:
            state.cut(count)

    def give_back(self) -> None:
        """As of a `State`, for all."""
        for state in self._kept:
            state.give_back()

    def save(self, count: int) -> list[Copy]:
        """A copy of what the first ``count`` positions left, for ``restore``."""
        return [state.save(count) for state in self._kept]

    def restore(self, saved: list[Copy]) -> None:
        """Put back what ``save`` copied."""
        for state, held in zip(self._kept, saved, strict=True):
            state.restore(held)


class KVCache:
    """Keys and values of one layer for up to ``context`` positions. What is behind a position can be written anew.

    ``shared``: a row is key and value alike, and stands as a key. ``sees``: queries see so many keys at most, their own
    position's included, and what is farther back is forgotten (0: they see all). ``once``: queries see keys behind
    them, too, so that a pass must hold all there is.
    """

    def __init__(
        self,
        kv_heads: int,
        head_dim: int,
        context: int,
        cache_type: str = "f16",
        *,
        sees: int = 0,
        once: bool = False,
        shared: bool = False,
    ) -> None:
        check_choice("cache_type", cache_type, TYPES)
        quantized = cache_type == "q8_0"
        if quantized and head_dim % SCALED:
            raise UnsupportedError(
                "cache type q8_0 for this model",
                expected=f"head_dim a multiple of {SCALED}",
                got=head_dim,
                remedy='load it with cache_type="f16"',
            )
        self.type = f"shared_{cache_type}" if shared else cache_type
        self.positions, self.ring = padded(context), False
        if sees and ring_positions(sees) < self.positions:
            self.positions, self.ring = ring_positions(sees), True
        self._sees, self._once = sees, once
        self._end = 0  # of a ring: behind the last position that was written
        self._heads, self.head_dim = kv_heads, head_dim
        count = kv_heads * self.positions * head_dim
        kinds = 1 if shared else 2  # of rows
        self._data_bytes = [count * BYTES[cache_type]] * kinds
        self._scale_bytes = [count // SCALED * 2] * kinds if quantized else []
        self._data: list[npt.NDArray[Any]] = []
        self._scales: list[npt.NDArray[Any]] = []

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the whole context."""
        return sum(self._data_bytes) + sum(self._scale_bytes)

    @property
    def read_bytes(self) -> int:
        """As of a `State`."""
        seen = min(self._sees or self.positions, self.positions)
        return self.nbytes * seen // self.positions

    @property
    def forgets(self) -> bool:
        """Whether it holds less than all positions, or positions that are only right together."""
        return self.ring or self._once

    def before(self, start: int, count: int) -> None:
        """Nothing: a ring has room for a pass."""

    def advance(self, start: int, count: int) -> None:
        """Positions ``start`` to ``start + count`` have been written."""
        self._end = max(self._end, start + count)

    def reusable(self, count: int) -> int:
        """``count`` where all that the next query sees is still there, else 0."""
        if self._once:
            return 0
        lost = max(0, self._end - self.positions)
        return count if max(0, count - self._sees + 1) >= lost else 0

    def cut(self, count: int) -> None:
        """What stands at ``count`` and behind will be written anew; a ring remembers what that replaced before."""
        if count == 0:
            self._end = 0

    def save(self, count: int) -> Copy:
        """A copy of what the first ``count`` positions hold, all of a ring at most, for ``restore``."""
        held = min(count, self.positions)
        return [np.array([self._end]), *(array[:, : -(-held // KEYS)].copy() for array in self.by_head())]

    def restore(self, saved: Copy) -> None:
        """Put back what ``save`` copied."""
        self._end = int(saved[0][0])
        for array, held in zip(self.by_head(), saved[1:], strict=True):
            array[:, : held.shape[1]] = held

    def give_back(self) -> None:
        """As of a `State`."""
        self.cut(0)
        for array in (*self._data, *self._scales):
            give_back(array)

    def in_slots(self, count: int, take: Take = aligned) -> list[KVCache]:
        """As of a `State`."""
        data = [take(count * size).reshape(count, -1) for size in self._data_bytes]
        scales = [take(count * size).reshape(count, -1) for size in self._scale_bytes]
        slots = [self, *(copy(self) for _ in range(1, count))]
        for number, slot in enumerate(slots):
            slot._data, slot._scales = [array[number] for array in data], [array[number] for array in scales]
        return slots

    def by_head(self) -> list[npt.NDArray[np.uint8]]:
        """Everything as bytes of shape (kv_heads, positions / KEYS, bytes): KEYS positions lie together."""
        arrays = (*self._data, *self._scales)
        return [array.view(np.uint8).reshape(self._heads, self.positions // KEYS, -1) for array in arrays]

    def addresses(self) -> dict[str, int]:
        """Where the keys and values are, as argument words of attention; 0 for what there is none of."""
        keys, values = [*(int(array.ctypes.data) for array in self._data), 0][:2]
        key_scales, value_scales = [*(int(array.ctypes.data) for array in self._scales), 0, 0][:2]
        return {"keys": keys, "key_scales": key_scales, "values": values, "value_scales": value_scales}


def padded(context: int) -> int:
    """Positions that are reserved for a context."""
    return -(-context // BLOCK) * BLOCK


def ring_positions(sees: int) -> int:
    """Positions of a ring for queries that see so many keys: theirs and a pass, in whole blocks of attention's."""
    return -(-(sees + BATCH) // ATTENTION_KEYS) * ATTENTION_KEYS


def kv_bytes_per_position(kv_heads: int, head_dim: int, cache_type: str) -> int:
    """Bytes of one layer's cache for one position."""
    elements = 2 * kv_heads * head_dim
    return BYTES[cache_type] * elements + (elements // SCALED * 2 if cache_type == "q8_0" else 0)


def default_context(trained: int, bytes_per_position: int) -> int:
    """The trained context, or as much of it (halved until it fits) as half of the machine's memory holds."""
    memory = machine_bytes()
    context = trained
    while context > 512 and context * bytes_per_position > memory // 2:
        context //= 2
    return context
