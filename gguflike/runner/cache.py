"""The key-value cache: where a model keeps what earlier tokens left for later ones.

Layout per layer and key head, for a context of C positions and D dimensions:

    keys    (C / 16, D, 16): sixteen keys to a block, the key running fastest, so that kernels take a key per lane
    values  (C, D)

Type "f16" holds them as float16, "q8_0" as int8 with a float16 scale for 32 dimensions: (C / 16, D / 32, 16) for keys,
(C, D / 32) for values.

Memory is reserved for the whole context but only taken from the system as positions are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.errors import UnsupportedError, check_choice
from gguflike.kernels.engine.memory import aligned
from gguflike.runner.memory import machine_bytes

BLOCK = 32  # positions are reserved in multiples of this; kernels read keys up to the next one
TYPES = ("f16", "q8_0")
SCALED = 32  # dimensions that share a scale
KEYS = 16  # keys of one block


class KVCache:
    """Keys and values of ``layers`` layers for up to ``context`` positions."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, context: int, cache_type: str = "f16") -> None:
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
        self.context = context
        self.positions = -(-context // BLOCK) * BLOCK
        self._heads = layers * kv_heads
        self._layer = kv_heads * self.positions * head_dim  # elements
        self._element = 1 if quantized else 2  # bytes
        size = layers * self._layer
        self._data: list[npt.NDArray[Any]] = [aligned(size * self._element) for _ in range(2)]  # keys, values
        self._scales: list[npt.NDArray[Any]] = [aligned(size // SCALED * 2) for _ in range(2)] if quantized else []

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(int(array.nbytes) for array in (*self._data, *self._scales))

    def save(self, count: int) -> list[npt.NDArray[np.uint8]]:
        """A copy of what the first ``count`` positions hold, for ``restore``."""
        return [array[:, : -(-count // KEYS)].copy() for array in self._by_head()]

    def restore(self, saved: list[npt.NDArray[np.uint8]]) -> None:
        """Put back what ``save`` copied."""
        for array, copy in zip(self._by_head(), saved, strict=True):
            array[:, : copy.shape[1]] = copy

    def _by_head(self) -> list[npt.NDArray[np.uint8]]:
        """Everything as bytes of shape (layers * kv_heads, positions / KEYS, bytes): KEYS positions lie together."""
        arrays = (*self._data, *self._scales)
        return [array.view(np.uint8).reshape(self._heads, self.positions // KEYS, -1) for array in arrays]

    def addresses(self, layer: int) -> dict[str, int]:
        """Return where a layer's keys and values are, as argument words of attention; scales are 0 without any."""
        keys, values = (int(a.ctypes.data) + layer * self._layer * self._element for a in self._data)
        scales = [int(a.ctypes.data) + layer * self._layer // SCALED * 2 for a in self._scales] or [0, 0]
        return {"keys": keys, "key_scales": scales[0], "values": values, "value_scales": scales[1]}


def bytes_per_position(layers: int, kv_heads: int, head_dim: int, cache_type: str) -> int:
    """Bytes of the cache for one position."""
    elements = 2 * layers * kv_heads * head_dim
    return elements + elements // SCALED * 2 if cache_type == "q8_0" else 2 * elements


def default_context(trained: int, bytes_per_position: int) -> int:
    """The trained context, or as much of it (halved until it fits) as half of the machine's memory holds."""
    memory = machine_bytes()
    context = trained
    while context > 512 and context * bytes_per_position > memory // 2:
        context //= 2
    return context
