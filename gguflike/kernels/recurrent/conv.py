"""Causal convolutions of each channel over its last tokens.

The ops ``silu`` and ``gated`` (argument words ``CONV`` and ``GATED_CONV``); items are vectors of sixteen channels.
``silu``: silu(conv(x) + bias). ``gated``: after * (conv(before * x) + bias). What the next pass needs of this one's
inputs stays in ``past``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import ROW, ROW_BYTES, STATE
from gguflike.kernels.recurrent.args import CONV, GATED_CONV
from gguflike.kernels.vector.activations import silu
from gguflike.kernels.vector.lanes import fma, splat
from gguflike.kernels.vector.memory import load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address, F32x16


@inner(inline="always")
def _plain_input(args: Address, at: int) -> F32x16:
    return load_f32x16(load_word(args + CONV.x) + at)


@inner(inline="always")
def _gated_input(args: Address, at: int) -> F32x16:
    return load_f32x16(load_word(args + GATED_CONV.x) + at) * load_f32x16(load_word(args + GATED_CONV.before) + at)


@inner(inline="always")
def _activated(args: Address, at: int, value: F32x16) -> F32x16:
    return silu(value)


@inner(inline="always")
def _gated(args: Address, at: int, value: F32x16) -> F32x16:
    return value * load_f32x16(load_word(args + GATED_CONV.after) + at)


def _conv(read: Any, finish: Any) -> Callable[[Address, Address, int, int], None]:
    """A convolution of what ``read(args, at)`` gives, each result turned into ``finish(args, at, result)``."""

    @inner(inline="always")
    def at_token(args: Address, past: Address, first: int, token: int, channel: int) -> F32x16:
        """The input of a token of a run that begins with number ``first``; those before the run are in ``past``."""
        a = load_args(CONV, args)
        if token >= first:
            return read(args, 4 * a.stride * token + channel)
        return load_f32x16(past + 4 * a.channels * (a.kernel - 1 + token - first) + channel)

    def conv(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(CONV, args)
        tokens, row, before = load_word(state + STATE.tokens), 4 * a.channels, a.kernel - 1
        first = 0
        while first < tokens:
            run = a.rows + ROW_BYTES * first
            past, behind = a.past + row * before * load_word(run + ROW.slot), first + load_word(run + ROW.run)
            for token in range(first, behind):
                for item in range(start, stop):
                    channel = 64 * item
                    total = load_f32x16(a.bias + channel) if a.bias else splat(np.float32(0))
                    for j in range(a.kernel):
                        value = at_token(args, past, first, token - before + j, channel)
                        total = fma(value, load_f32x16(a.weight + row * j + channel), total)
                    store_f32x16(a.out + row * token + channel, finish(args, 4 * a.stride * token + channel, total))
            for j in range(before):
                for item in range(start, stop):
                    kept = at_token(args, past, first, behind - before + j, 64 * item)
                    store_f32x16(past + row * j + 64 * item, kept)
            first = behind

    return conv


op("recurrent.conv:silu")(_conv(_plain_input, _activated))
op("recurrent.conv:gated")(_conv(_gated_input, _gated))
