"""The recurrences of state-space models, token by token. Items are blocks of sixteen rows of the state h.

``heads`` (argument words ``SCAN_HEADS``; Mamba 2): a row for each value of x, and one decay for a head,

    h = decay * h + step * outer(x, B);  y = h C + skip * x

``channels`` (``SCAN_CHANNELS``; Mamba): a row for each channel, and a decay for each of its values,

    step = softplus(dt);  h = exp(step * rate) * h + step * x * B;  y = h C + skip * x
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import op
from gguflike.kernels.engine.memory import ROW, ROW_BYTES, STATE
from gguflike.kernels.recurrent.args import SCAN_CHANNELS, SCAN_HEADS
from gguflike.kernels.recurrent.columns import written
from gguflike.kernels.vector.activations import softplus
from gguflike.kernels.vector.lanes import exp, fma, splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address

ZERO = np.float32(0)


@op("recurrent.scan:heads")
def heads(args: Address, state: Address, start: int, stop: int) -> None:
    """Go through the tokens of a pass, with one decay for a head."""
    a = load_args(SCAN_HEADS, args)
    tokens, blocks = load_word(state + STATE.tokens), a.inner // a.heads // 16
    for item in range(start, stop):
        head = item // blocks
        group = head * a.groups // a.heads
        skip = splat(load_f32(a.skip + 4 * head))
        for token in range(tokens):
            slot = load_word(a.rows + ROW_BYTES * token + ROW.slot)
            block = a.matrices + 4 * a.d_state * (a.inner * slot + 16 * item)
            row = a.x + 4 * a.channels * token
            b = row + 4 * (a.inner + a.d_state * group)
            c = b + 4 * a.d_state * a.groups
            x = load_f32x16(row + 64 * item)
            gate = 4 * (a.padded * token + head)
            decay, change = splat(load_f32(a.decay + gate)), x * splat(load_f32(a.steps + gate))
            y0, y1, y2, y3 = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
            for n in range(0, a.d_state, 4):
                place, at, of = block + 64 * n, b + 4 * n, c + 4 * n
                y0 = fma(written(place, decay, change, at), splat(load_f32(of)), y0)
                y1 = fma(written(place + 64, decay, change, at + 4), splat(load_f32(of + 4)), y1)
                y2 = fma(written(place + 128, decay, change, at + 8), splat(load_f32(of + 8)), y2)
                y3 = fma(written(place + 192, decay, change, at + 12), splat(load_f32(of + 12)), y3)
            y = fma(x, skip, (y0 + y1) + (y2 + y3))
            store_f32x16(a.out + 4 * (a.inner * token + 16 * item), y)


@op("recurrent.scan:channels")
def channels(args: Address, state: Address, start: int, stop: int) -> None:
    """Go through the tokens of a pass, with a decay for each value of the state."""
    a = load_args(SCAN_CHANNELS, args)
    tokens = load_word(state + STATE.tokens)
    for item in range(start, stop):
        rate, skip = a.rate + 64 * a.d_state * item, load_f32x16(a.skip + 64 * item)
        for token in range(tokens):
            slot = load_word(a.rows + ROW_BYTES * token + ROW.slot)
            block = a.matrices + 4 * a.d_state * (a.inner * slot + 16 * item)
            at = 4 * (a.inner * token + 16 * item)
            b, c = a.b + 4 * a.stride * token, a.c + 4 * a.stride * token
            x, step = load_f32x16(a.x + at), softplus(load_f32x16(a.dt + at))
            change, y = step * x, splat(ZERO)
            for n in range(a.d_state):
                decay = exp(step * load_f32x16(rate + 64 * n))
                y = fma(written(block + 64 * n, decay, change, b + 4 * n), splat(load_f32(c + 4 * n)), y)
            store_f32x16(a.out + at, fma(x, skip, y))
