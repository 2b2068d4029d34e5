"""The key-value cache: where a model keeps what earlier tokens left for later ones.

Layout per layer and key head, for a context of C positions and D dimensions, float16:

    keys    (C / 16, D, 16): sixteen keys to a block, the key running fastest, so that kernels take a key per lane
    values  (C, D)

Memory is reserved for the whole context but only taken from the system as positions are written.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.errors import UnsupportedError
from gguflike.kernels.program import aligned

BLOCK = 32  # positions are reserved in multiples of this; kernels read keys up to the next one
TYPES = ("f16",)


class KVCache:
    """Keys and values of ``layers`` layers for up to ``context`` positions."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, context: int, cache_type: str = "f16") -> None:
        if cache_type not in TYPES:
            raise UnsupportedError("cache type", expected="one of " + ", ".join(TYPES), got=repr(cache_type))
        self.context = context
        self.positions = -(-context // BLOCK) * BLOCK
        size = layers * kv_heads * self.positions * head_dim
        self._keys: npt.NDArray[Any] = aligned(size, np.uint16)
        self._values: npt.NDArray[Any] = aligned(size, np.uint16)
        self._layer_bytes = 2 * kv_heads * self.positions * head_dim

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return int(self._keys.nbytes + self._values.nbytes)

    def keys(self, layer: int) -> int:
        """Address of a layer's keys."""
        return int(self._keys.ctypes.data) + layer * self._layer_bytes

    def values(self, layer: int) -> int:
        """Address of a layer's values."""
        return int(self._values.ctypes.data) + layer * self._layer_bytes


def default_context(trained: int, bytes_per_position: int) -> int:
    """The trained context, or as much of it (halved until it fits) as half of the machine's memory holds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    context = trained
    while context > 512 and context * bytes_per_position > memory // 2:
        context //= 2
    return context
