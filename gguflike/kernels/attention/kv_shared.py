"""One row per token for keys and values alike: how ops store and read it (latent attention's cache, runner/state.py).

Rows stand as keys do, a key per lane. Sixteen dimensions of sixteen of them are transposed to be read as values.
``args``, ``cached`` and panels are as in kv_float.py; kv_shared_f16.py and its like name the results.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels.attention.args import STORE_KV
from gguflike.kernels.attention.kv_expanded import values_by
from gguflike.kernels.attention.tile import PANEL
from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.emitter import V16F32, Emitter
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.memory import load_f32x16, store_f32x16
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address, Value


@operation(void, int64)
def transpose(e: Emitter, place: Value) -> None:
    """Transpose sixteen rows of sixteen float32 where they stand."""
    at = e.pointer(place)
    rows = [e.load(V16F32, at, PANEL * i) for i in range(LANES)]
    for step in (1, 2, 4, 8):
        low = [lane if not lane & step else lane - step + LANES for lane in range(LANES)]
        high = [lane + step if not lane & step else lane + LANES for lane in range(LANES)]
        for i in range(LANES):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = e.shuffle(a, b, low), e.shuffle(a, b, high)
    for i, row in enumerate(rows):
        e.store(row, at, PANEL * i)


def readers(expand_tile: Any) -> tuple[Any, Any]:
    """Return expand_values and make_values.

    ``expand_tile(args, cached, first, d, panel)`` expands sixteen dimensions of sixteen keys: float32 (16, 16), a row
    per dimension.
    """

    @inner
    def expand_values(args: Address, cached: int, first: int, count: int, d: int, panel: Address) -> None:
        """Expand sixteen dimensions from ``d`` on, a multiple of 16, of ``count`` values: float32 (count, 16).

        ``first`` is a multiple of 16.
        """
        for i in range(0, count, LANES):
            expand_tile(args, cached, first + i, d, panel + PANEL * i)
            transpose(panel + PANEL * i)

    return expand_values, values_by(expand_values)


def float_kernels(size: int, load: Any, scatter: Any) -> tuple[Any, ...]:
    """Return store, expand_values and make_values for floats of ``size`` bytes, as of kv_float.kernels."""

    @inner
    def store(args: Address, cached: int, position: int, k: Address, v: Address) -> None:
        """Store one row, float32 (head_dim,), at a position."""
        a = load_args(STORE_KV, args)
        block = a.keys + size * (cached + position // LANES * LANES * a.head_dim + position % LANES)
        for i in range(0, a.head_dim, LANES):
            scatter(block + LANES * size * i, LANES * size, load_f32x16(k + 4 * i))

    @inner
    def expand_tile(args: Address, cached: int, first: int, d: int, panel: Address) -> None:
        a = load_args(STORE_KV, args)
        block = a.keys + size * (cached + first * a.head_dim + LANES * d)
        for i in range(LANES):
            store_f32x16(panel + PANEL * i, load(block + LANES * size * i))

    return store, *readers(expand_tile)
