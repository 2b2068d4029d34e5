"""Keys and values of the cache as floats: how ops store and read them (layout: runner/state.py).

``args`` are argument words that begin as ``STORE_KV``. ``cached`` is the index of a key head's first element in the
arrays of its layer. What is read becomes a panel of float32 (tile.py). ``kernels`` makes all of it for one kind of
float: kv_f16.py and kv_f32.py name the results.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels.attention.args import STORE_KV
from gguflike.kernels.attention.tile import Load, columns
from gguflike.kernels.attention.tile import make_scores as tile_scores
from gguflike.kernels.attention.tile import make_values as tile_values
from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.memory import load_f32x16, prefetch, store_f32x16
from gguflike.kernels.vector.types import Address

AHEAD = 4096  # bytes of keys that are prefetched in advance


def kernels(size: int, load: Any, scatter: Any, of_tile: Load) -> tuple[Any, ...]:
    """Return store, expand_keys, expand_values, make_scores and make_values for floats of ``size`` bytes.

    ``load`` and ``scatter`` move sixteen of them (vector/memory.py), and ``of_tile`` loads them in a tile's products.
    """
    panel_bytes = 16 * size

    @inner
    def store(args: Address, cached: int, position: int, k: Address, v: Address) -> None:
        """Store one head's key and value, float32 (head_dim,) each, at a position."""
        a = load_args(STORE_KV, args)
        dim = a.head_dim
        block = a.keys + size * (cached + position // 16 * 16 * dim + position % 16)
        row = a.values + size * (cached + position * dim)
        for i in range(0, dim, 16):
            scatter(block + panel_bytes * i, panel_bytes, load_f32x16(k + 4 * i))
            scatter(row + size * i, size, load_f32x16(v + 4 * i))

    @inner
    def expand_keys(args: Address, cached: int, first: int, panel: Address) -> None:
        """Expand sixteen keys from number ``first`` on, a multiple of 16, to a panel: float32 (head_dim, 16)."""
        dim = load_word(args + STORE_KV.head_dim)
        block = load_word(args + STORE_KV.keys) + size * (cached + first * dim)
        for d in range(dim):
            store_f32x16(panel + 64 * d, load(block + panel_bytes * d))

    @inner
    def expand_values(args: Address, cached: int, first: int, count: int, d: int, panel: Address) -> None:
        """Expand sixteen dimensions from ``d`` on, a multiple of 16, of ``count`` values: float32 (count, 16)."""
        dim = load_word(args + STORE_KV.head_dim)
        row = load_word(args + STORE_KV.values) + size * (cached + first * dim + d)
        for i in range(count):
            store_f32x16(panel + 64 * i, load(row + size * dim * i))

    def make_scores(rows: int) -> Any:
        """Return a kernel: the scores of ``count`` keys (tile.py) from number ``first`` on, a multiple of 16."""
        wide = columns(rows)
        score = tile_scores(rows, wide, of_tile)

        @inner
        def scores_of(
            args: Address, queries: Address, cached: int, first: int, count: int, panel: Address, out: Address
        ) -> None:
            a = load_args(STORE_KV, args)
            dim = a.head_dim
            for i in range(0, count, 16 * wide):
                at = size * (cached + dim * (first + i))
                for line in range(0, panel_bytes * dim * wide, 64):
                    prefetch(a.keys + at + AHEAD + line)
                    prefetch(a.values + at + line)
                score(queries, a.keys + at, dim, out + 4 * i)

        return scores_of

    def make_values(rows: int) -> Any:
        """Return a kernel: out (rows, dim), the weighted sums of ``count`` values from number ``first`` on."""
        wide = columns(rows)
        add, add_last = tile_values(rows, wide, of_tile), tile_values(rows, 1, of_tile)

        @inner
        def add_values(
            args: Address, weights: Address, cached: int, first: int, count: int, panel: Address, out: Address
        ) -> None:
            dim = load_word(args + STORE_KV.head_dim)
            base = load_word(args + STORE_KV.values) + size * (cached + dim * first)
            most = dim // (16 * wide) * 16 * wide
            for d in range(0, most, 16 * wide):
                add(weights, base + size * d, size * dim, count, 0, out + 4 * d, 4 * dim)
            for d in range(most, dim, 16):
                add_last(weights, base + size * d, size * dim, count, 0, out + 4 * d, 4 * dim)

        return add_values

    return store, expand_keys, expand_values, make_scores, make_values
