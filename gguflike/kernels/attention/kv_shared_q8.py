"""Rows that are keys and values alike, as int8 with a float16 scale per 32 dimensions: see kv_shared.py, kv_q8.py."""

from __future__ import annotations

from gguflike.kernels.attention.args import STORE_KV
from gguflike.kernels.attention.kv_q8 import expand_keys as expand_keys
from gguflike.kernels.attention.kv_q8 import make_scores as make_scores
from gguflike.kernels.attention.kv_q8 import store_block
from gguflike.kernels.attention.kv_shared import readers
from gguflike.kernels.attention.tile import PANEL
from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.lanes import to_float
from gguflike.kernels.vector.memory import load_f16x16, load_i8x16, store_f32x16
from gguflike.kernels.vector.types import Address


@inner
def store(args: Address, cached: int, position: int, k: Address, v: Address) -> None:
    """Store one row, float32 (head_dim,), at a position."""
    a = load_args(STORE_KV, args)
    block, lane = cached + position // 16 * 16 * a.head_dim, position % 16
    for i in range(0, a.head_dim, 32):
        store_block(k + 4 * i, a.keys + block + 16 * i + lane, 16, a.key_scales + 2 * (block // 32 + i // 2 + lane))


@inner
def _expand_tile(args: Address, cached: int, first: int, d: int, panel: Address) -> None:
    a = load_args(STORE_KV, args)
    block = cached + first * a.head_dim
    scale = load_f16x16(a.key_scales + 2 * (block // 32 + d // 32 * 16))
    for i in range(16):
        store_f32x16(panel + PANEL * i, to_float(load_i8x16(a.keys + block + 16 * (d + i))) * scale)


expand_values, make_values = readers(_expand_tile)
