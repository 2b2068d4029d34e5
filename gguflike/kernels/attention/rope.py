"""Rotary position, and the way of keys and values into the cache.

``rope:store_<cache type>``: items are tokens; writes them to the cache, keys rotated. Its argument words are those of
attention.py, numbers 1 to 15.

The partner of value i is i ^ 1, or where NEOX is 1, half of n_rot away. Values from n_rot on stay as they are. TABLE is
float32 (positions, 2, n_rot): factors for a value and for its partner.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels.attention import kv_f16, kv_q8
from gguflike.kernels.attention import words as w
from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.program import POSITION, SCRATCH
from gguflike.kernels.vector.lanes import fma, swap_pairs
from gguflike.kernels.vector.memory import load_f32x16, store_f32x16


@inner
def rotated(head: int, i: int, factors: int, n_rot: int, neox: int) -> Any:
    """Values i to i + 15 of the head at address ``head``, rotated by a token's ``factors``."""
    value = load_f32x16(head + 4 * i)
    if i < n_rot:
        partner = swap_pairs(value)
        if neox:
            half = n_rot // 2
            partner = load_f32x16(head + 4 * (i + half if i < half else i - half))
        value = fma(partner, load_f32x16(factors + 4 * (n_rot + i)), value * load_f32x16(factors + 4 * i))
    return value


@inner
def rotate(head: int, dim: int, factors: int, n_rot: int, neox: int, target: int) -> None:
    """A whole head."""
    for i in range(0, dim, 16):
        store_f32x16(target + 4 * i, rotated(head, i, factors, n_rot, neox))


def make_store(cache: Any) -> Any:
    """A kernel that stores one key head of a token at ``position``; ``key`` is the address of memory for the key."""

    @inner
    def store(args: int, token: int, head: int, position: int, key: int) -> None:
        table, n_rot, neox = load_word(args + w.TABLE), load_word(args + w.N_ROT), load_word(args + w.NEOX)
        keys, key_scales = load_word(args + w.KEYS), load_word(args + w.KEY_SCALES)
        values, value_scales = load_word(args + w.VALUES), load_word(args + w.VALUE_SCALES)
        kv_heads, dim = load_word(args + w.N_HEAD_KV), load_word(args + w.HEAD_DIM)
        context = load_word(args + w.CONTEXT)
        at = 4 * dim * (kv_heads * token + head)
        rotate(load_word(args + w.K) + at, dim, table + 8 * n_rot * position, n_rot, neox, key)
        v = load_word(args + w.V) + at
        cache.store(keys, key_scales, values, value_scales, head * context * dim, position, dim, key, v)

    return store


def _make_store_op(cache: Any) -> Any:
    store = make_store(cache)

    def store_tokens(args: int, state: int, start: int, stop: int) -> None:
        position, key = load_word(state + POSITION), load_word(state + SCRATCH)
        for token in range(start, stop):
            for head in range(load_word(args + w.N_HEAD_KV)):
                store(args, token, head, position + token, key)

    return store_tokens


op("attention.rope:store_f16")(_make_store_op(kv_f16))
op("attention.rope:store_q8_0")(_make_store_op(kv_q8))
