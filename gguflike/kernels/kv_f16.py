"""Keys and values of the cache as float16: how ops store and read them (layout: runner/cache.py).

``cached`` is the index of a key head's first element in the arrays of its layer. What is read becomes a panel of
float32 (attention_tile.py).
"""

from __future__ import annotations

from gguflike.kernels._jit import inner
from gguflike.kernels.address import load_half_lanes, load_lanes, store_half_lanes, store_lanes


@inner
def store(
    keys: int, key_scales: int, values: int, value_scales: int, cached: int, position: int, dim: int, k: int, v: int
) -> None:
    """Store one head's key and value, ``dim`` float32 at addresses ``k`` and ``v``."""
    block = keys + 2 * (cached + position // 16 * 16 * dim + position % 16)
    row = values + 2 * (cached + position * dim)
    for i in range(0, dim, 16):
        store_half_lanes(block + 32 * i, 32, load_lanes(k + 4 * i))
        store_half_lanes(row + 2 * i, 2, load_lanes(v + 4 * i))


@inner
def expand_keys(keys: int, key_scales: int, cached: int, first: int, dim: int, panel: int) -> None:
    """Sixteen keys from number ``first`` on, a multiple of 16."""
    block = keys + 2 * (cached + first * dim)
    for d in range(dim):
        store_lanes(panel + 64 * d, load_half_lanes(block + 32 * d))


@inner
def expand_values(
    values: int, value_scales: int, cached: int, first: int, count: int, dim: int, d: int, panel: int
) -> None:
    """Sixteen dimensions from ``d`` on, a multiple of 16, of ``count`` values from number ``first`` on."""
    row = values + 2 * (cached + first * dim + d)
    for i in range(count):
        store_lanes(panel + 64 * i, load_half_lanes(row + 2 * dim * i))
