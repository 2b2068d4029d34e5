"""What a model keeps from token to token: one state for each mixer that needs one.

A *key-value cache* holds, for a context of C positions and D dimensions and for each key head:

    keys    (C / 16, D, 16): sixteen keys to a block, the key running fastest, so that kernels take a key per lane
    values  (C, D)

Type "f16" holds them as float16, "q8_0" as int8 with a float16 scale for 32 dimensions: (C / 16, D / 32, 16) for keys,
(C, D / 32) for values. Memory is reserved for the whole context but only taken from the system as positions are
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gguflike.errors import UnsupportedError, check_choice
from gguflike.kernels.engine.memory import aligned
from gguflike.runner.memory import machine_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    Copy = list[npt.NDArray[np.uint8]]

BLOCK = 32  # positions are reserved in multiples of this; kernels read keys up to the next one
TYPES = ("f16", "q8_0")
SCALED = 32  # dimensions that share a scale
KEYS = 16  # keys of one block


class State(Protocol):
    """What one mixer keeps."""

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the whole context."""
        ...

    def reusable(self, common: int, cached: int) -> int:
        """How many tokens need not be computed again, where ``cached`` were and the first ``common`` of them are asked
        for once more."""
        ...

    def save(self, count: int) -> Copy:
        """A copy of what the first ``count`` positions left, for ``restore``."""
        ...

    def restore(self, saved: Copy) -> None:
        """Put back what ``save`` copied."""
        ...


class States:
    """The states of all mixers of a model, in the order of ``Graph.mixers``; None for one that keeps nothing."""

    def __init__(self, states: Sequence[State | None]) -> None:
        self.of_mixers = tuple(states)
        self._kept = [state for state in states if state is not None]

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the whole context."""
        return sum(state.nbytes for state in self._kept)

    def reusable(self, common: int, cached: int) -> int:
        """As of a `State`: what every one of them can reuse."""
        return min((state.reusable(common, cached) for state in self._kept), default=common)

    def save(self, count: int) -> list[Copy]:
        """A copy of what the first ``count`` positions left, for ``restore``."""
        return [state.save(count) for state in self._kept]

    def restore(self, saved: list[Copy]) -> None:
        """Put back what ``save`` copied."""
        for state, copy in zip(self._kept, saved, strict=True):
            state.restore(copy)


class KVCache:
    """Keys and values of one layer for up to ``context`` positions. What is behind a position can be written anew."""

    def __init__(self, kv_heads: int, head_dim: int, context: int, cache_type: str = "f16") -> None:
        check_choice("cache_type", cache_type, TYPES)
        quantized = cache_type == "q8_0"
        if quantized and head_dim % SCALED:
            raise UnsupportedError(
                "cache type q8_0 for this model",
                expected=f"head_dim a multiple of {SCALED}",
                got=head_dim,
                remedy='load it with cache_type="f16"',
            )
        self.type = cache_type
        self.positions = padded(context)
        self._heads = kv_heads
        count = kv_heads * self.positions * head_dim
        self._data: list[npt.NDArray[Any]] = [aligned(count * (1 if quantized else 2)) for _ in range(2)]
        self._scales: list[npt.NDArray[Any]] = [aligned(count // SCALED * 2) for _ in range(2)] if quantized else []

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the whole context."""
        return sum(int(array.nbytes) for array in (*self._data, *self._scales))

    def reusable(self, common: int, cached: int) -> int:  # noqa: ARG002 - any prefix stands as it was
        """All that is asked for alike: any prefix stands as it was."""
        return common

    def save(self, count: int) -> Copy:
        """A copy of what the first ``count`` positions hold, for ``restore``."""
        return [array[:, : -(-count // KEYS)].copy() for array in self._by_head()]

    def restore(self, saved: Copy) -> None:
        """Put back what ``save`` copied."""
        for array, copy in zip(self._by_head(), saved, strict=True):
            array[:, : copy.shape[1]] = copy

    def _by_head(self) -> Copy:
        """Everything as bytes of shape (kv_heads, positions / KEYS, bytes): KEYS positions lie together."""
        arrays = (*self._data, *self._scales)
        return [array.view(np.uint8).reshape(self._heads, self.positions // KEYS, -1) for array in arrays]

    def addresses(self) -> dict[str, int]:
        """Where the keys and values are, as argument words of attention; scales are 0 without any."""
        keys, values = (int(array.ctypes.data) for array in self._data)
        key_scales, value_scales = [int(array.ctypes.data) for array in self._scales] or [0, 0]
        return {"keys": keys, "key_scales": key_scales, "values": values, "value_scales": value_scales}


def padded(context: int) -> int:
    """Positions that are reserved for a context."""
    return -(-context // BLOCK) * BLOCK


def kv_bytes_per_position(kv_heads: int, head_dim: int, cache_type: str) -> int:
    """Bytes of one layer's cache for one position."""
    elements = 2 * kv_heads * head_dim
    return elements + elements // SCALED * 2 if cache_type == "q8_0" else 2 * elements


def default_context(trained: int, bytes_per_position: int) -> int:
    """The trained context, or as much of it (halved until it fits) as half of the machine's memory holds."""
    memory = machine_bytes()
    context = trained
    while context > 512 and context * bytes_per_position > memory // 2:
        context //= 2
    return context
