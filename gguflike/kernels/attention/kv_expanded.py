"""Weighted sums of values that are expanded to panels of float32 first: those of kv_q8.py and kv_shared.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguflike.kernels.attention.args import STORE_KV
from gguflike.kernels.attention.tile import PANEL
from gguflike.kernels.attention.tile import make_values as tile_values
from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address


def values_by(expand_values: Any) -> Callable[[int], Any]:
    """Return make_values: for ``rows``, a kernel that writes out (rows, dim), the weighted sums of ``count`` values
    from number ``first`` on, a multiple of 16.

    ``expand_values(args, cached, first, count, d, panel)`` expands sixteen dimensions of them: float32 (count, 16).
    """

    def make_values(rows: int) -> Any:
        add = tile_values(rows, 1)

        @inner
        def add_values(
            args: Address, weights: Address, cached: int, first: int, count: int, panel: Address, out: Address
        ) -> None:
            dim = load_word(args + STORE_KV.head_dim)
            for d in range(0, dim, LANES):
                expand_values(args, cached, first, count, d, panel)
                add(weights, panel, PANEL, count, 0, out + 4 * d, 4 * dim)

        return add_values

    return make_values
