"""Rotary position embedding, and the way of keys and values into the cache.

The op ``store_<cache type>`` writes tokens to the cache, keys rotated; items are tokens, argument words ``STORE_KV``.

Dimension i of a head is rotated with a partner: i ^ 1, or where ``neox`` is 1, the one half of n_rot away. Dimensions
from n_rot on stay as they are. ``cos_sin`` is float32 (positions, 2, n_rot): for each position, what every dimension is
multiplied by (a cosine), then what its partner is (a sine, with its sign).
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from gguflike.kernels.attention import kv_f16, kv_f32, kv_q8, kv_shared_f16, kv_shared_f32, kv_shared_q8
from gguflike.kernels.attention.args import STORE_KV
from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import ROW, ROW_BYTES, STATE
from gguflike.kernels.vector.lanes import fma, swap_pairs
from gguflike.kernels.vector.memory import load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address, F32x16


class Row(NamedTuple):
    """What a row of the pass is: see ROW_TYPE (engine/memory.py)."""

    position: int
    slot: int
    first: int
    run: int


@inner(inline="always")
def row_of(args: Address, token: int) -> Row:
    """Return what row number ``token`` of the pass is."""
    row = load_word(args + STORE_KV.rows) + ROW_BYTES * token
    return Row(
        load_word(row + ROW.position), load_word(row + ROW.slot), load_word(row + ROW.first), load_word(row + ROW.run)
    )


@inner(inline="always")
def cached_at(args: Address, slot: int, kv_head: int) -> int:
    """Return the index of a key head's first element in a layer's keys and values."""
    a = load_args(STORE_KV, args)
    index: int = (slot * a.n_head_kv + kv_head) * a.context * a.head_dim
    return index


@inner
def rotated(head: Address, i: int, cos_sin: Address, n_rot: int, neox: int) -> F32x16:
    """Return dimensions i to i + 15 of a head, float32 at ``head``, rotated by the cosines and sines of a position."""
    value = load_f32x16(head + 4 * i)
    if i < n_rot:
        partner = swap_pairs(value)
        if neox:
            half = n_rot // 2
            partner = load_f32x16(head + 4 * (i + half if i < half else i - half))
        value = fma(partner, load_f32x16(cos_sin + 4 * (n_rot + i)), value * load_f32x16(cos_sin + 4 * i))
    return value


@inner
def rotate(head: Address, dim: int, cos_sin: Address, n_rot: int, neox: int, target: Address) -> None:
    """Write a whole head of ``dim`` dimensions, rotated, to ``target``."""
    for i in range(0, dim, 16):
        store_f32x16(target + 4 * i, rotated(head, i, cos_sin, n_rot, neox))


def make_store(cache: ModuleType, ring: bool = False) -> Any:
    """Return a kernel that stores one key head of a token in a cache of the module ``cache``.

    In a ``ring`` it stands at its position modulo the cache's length.
    """

    @inner
    def store(args: Address, token: int, head: int, key: Address) -> None:
        """Store key and value of a head; ``key`` is the address of float32 (head_dim,) for the rotated key."""
        a, row = load_args(STORE_KV, args), row_of(args, token)
        at = 4 * a.head_dim * (a.n_head_kv * token + head)
        rotate(a.k + at, a.head_dim, a.cos_sin + 8 * a.n_rot * row.position, a.n_rot, a.neox, key)
        place = row.position % a.context if ring else row.position
        cache.store(args, cached_at(args, row.slot, head), place, key, a.v + at)

    return store


def make_store_op(cache: ModuleType, ring: bool = False) -> Callable[[Address, Address, int, int], None]:
    """Return an op that stores the keys and values of tokens, its items (``STORE_KV``)."""
    store = make_store(cache, ring)

    def store_tokens(args: Address, state: Address, start: int, stop: int) -> None:
        key = load_word(state + STATE.scratch)
        for token in range(start, stop):
            for head in range(load_word(args + STORE_KV.n_head_kv)):
                store(args, token, head, key)

    return store_tokens


CACHES = {
    "f16": kv_f16,
    "f32": kv_f32,
    "q8_0": kv_q8,
    "shared_f16": kv_shared_f16,
    "shared_f32": kv_shared_f32,
    "shared_q8_0": kv_shared_q8,
}
for _type, _cache in CACHES.items():
    op(f"attention.rope:store_{_type}")(make_store_op(_cache))
