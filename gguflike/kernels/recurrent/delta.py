"""The gated delta rule (Yang et al. 2024, arXiv:2412.06464), token by token.

The op ``rule`` (argument words ``DELTA``); items are blocks of sixteen rows of a head's matrix S, one for each value.
For each token, with its query q, key k and value v:

    S = decay * S;  S = S + outer(strength * (v - S k), k);  o = S q

A block is read twice and written once: S k is decay times the product with the matrix as it was.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import ROW, ROW_BYTES, STATE
from gguflike.kernels.recurrent.args import DELTA
from gguflike.kernels.recurrent.columns import written
from gguflike.kernels.vector.lanes import fma, splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address, F32x16

ZERO = np.float32(0)


@inner
def _product(block: Address, x: Address, dim: int) -> F32x16:
    """Return sixteen rows of (rows, dim), column after column at ``block``, times float32 (dim,) at ``x``."""
    s0, s1, s2, s3 = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
    for i in range(0, dim, 4):
        s0 = fma(load_f32x16(block + 64 * i), splat(load_f32(x + 4 * i)), s0)
        s1 = fma(load_f32x16(block + 64 * i + 64), splat(load_f32(x + 4 * i + 4)), s1)
        s2 = fma(load_f32x16(block + 64 * i + 128), splat(load_f32(x + 4 * i + 8)), s2)
        s3 = fma(load_f32x16(block + 64 * i + 192), splat(load_f32(x + 4 * i + 12)), s3)
    return (s0 + s1) + (s2 + s3)


@inner
def _write(block: Address, decay: F32x16, change: F32x16, k: Address, q: Address, dim: int) -> F32x16:
    """Write outer(change, k) onto decay times a block, and return what the query reads of it."""
    o0, o1, o2, o3 = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
    for i in range(0, dim, 4):
        place, key, query = block + 64 * i, k + 4 * i, q + 4 * i
        o0 = fma(written(place, decay, change, key), splat(load_f32(query)), o0)
        o1 = fma(written(place + 64, decay, change, key + 4), splat(load_f32(query + 4)), o1)
        o2 = fma(written(place + 128, decay, change, key + 8), splat(load_f32(query + 8)), o2)
        o3 = fma(written(place + 192, decay, change, key + 12), splat(load_f32(query + 12)), o3)
    return (o0 + o1) + (o2 + o3)


@op("recurrent.delta:rule")
def rule(args: Address, state: Address, start: int, stop: int) -> None:
    """Go through the tokens of a pass."""
    a = load_args(DELTA, args)
    tokens, dim, blocks = load_word(state + STATE.tokens), a.head_dim, a.head_dim // 16
    for item in range(start, stop):
        head = item // blocks
        key_head = head % a.key_heads if a.tiled else head * a.key_heads // a.value_heads
        for token in range(tokens):
            slot = load_word(a.rows + ROW_BYTES * token + ROW.slot)
            block = a.matrices + 4 * dim * dim * a.value_heads * slot + 64 * dim * item
            row = a.x + 4 * a.channels * token
            q = row + 4 * dim * key_head
            k = q + 4 * dim * a.key_heads
            v = load_f32x16(row + 4 * (2 * dim * a.key_heads + 16 * item))
            gate = 4 * (a.padded * token + head)
            decay = splat(load_f32(a.decay + gate))
            change = (v - _product(block, k, dim) * decay) * splat(load_f32(a.strength + gate))
            o = _write(block, decay, change, k, q, dim)
            store_f32x16(a.out + 4 * (dim * a.value_heads * token + 16 * item), o)
