"""The gated delta rule with a decay for each channel of keys (Kimi Team 2025, arXiv:2510.26692), token by token.

The op ``rule`` (argument words ``DELTA_CHANNELS``); items are blocks of sixteen rows of a head's matrix S, one for each
value. For each token, with its query q, key k, value v and the decays d of the key's channels:

    S = S * d;  S = S + outer(strength * (v - S k), k);  o = S q

A block is read twice and written once: S k is the product of the matrix as it was with d * k.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import ROW, ROW_BYTES, STATE
from gguflike.kernels.recurrent.args import DELTA_CHANNELS
from gguflike.kernels.recurrent.columns import written
from gguflike.kernels.vector.lanes import fma, splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address, F32x16

ZERO = np.float32(0)


@inner
def _product(block: Address, d: Address, k: Address, dim: int) -> F32x16:
    """Return sixteen rows of (rows, dim), column after column at ``block``, times the products of float32 (dim,) at
    ``d`` and at ``k``."""
    s0, s1 = splat(ZERO), splat(ZERO)
    for i in range(0, dim, 2):
        s0 = fma(load_f32x16(block + 64 * i), splat(load_f32(d + 4 * i) * load_f32(k + 4 * i)), s0)
        s1 = fma(load_f32x16(block + 64 * i + 64), splat(load_f32(d + 4 * i + 4) * load_f32(k + 4 * i + 4)), s1)
    return s0 + s1


@inner
def _write(block: Address, d: Address, change: F32x16, k: Address, q: Address, dim: int) -> F32x16:
    """Write outer(change, k) onto a block whose columns decay by ``d``, and return what the query reads of it."""
    o0, o1 = splat(ZERO), splat(ZERO)
    for i in range(0, dim, 2):
        place, decay, key, query = block + 64 * i, d + 4 * i, k + 4 * i, q + 4 * i
        o0 = fma(written(place, splat(load_f32(decay)), change, key), splat(load_f32(query)), o0)
        o1 = fma(written(place + 64, splat(load_f32(decay + 4)), change, key + 4), splat(load_f32(query + 4)), o1)
    return o0 + o1


@op("recurrent.channels:rule")
def rule(args: Address, state: Address, start: int, stop: int) -> None:
    """Go through the tokens of a pass."""
    a = load_args(DELTA_CHANNELS, args)
    tokens, dim, blocks = load_word(state + STATE.tokens), a.head_dim, a.head_dim // 16
    size = a.heads * dim
    for item in range(start, stop):
        head = item // blocks
        for token in range(tokens):
            slot = load_word(a.rows + ROW_BYTES * token + ROW.slot)
            block = a.matrices + 4 * dim * size * slot + 64 * dim * item
            q = a.x + 4 * (3 * size * token + dim * head)
            k = q + 4 * size
            v = load_f32x16(a.x + 4 * (size * (3 * token + 2) + 16 * item))
            d = a.decay + 4 * (size * token + dim * head)
            change = (v - _product(block, d, k, dim)) * splat(load_f32(a.strength + 4 * (a.padded * token + head)))
            o = _write(block, d, change, k, q, dim)
            store_f32x16(a.out + 4 * (size * token + 16 * item), o)
