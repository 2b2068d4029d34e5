"""Logits scaled, and capped by a hyperbolic tangent."""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.rows.args import CAP, CAPPED
from gguflike.kernels.vector.activations import tanh
from gguflike.kernels.vector.lanes import splat
from gguflike.kernels.vector.memory import load_f32x16, load_first, store_f32x16, store_first
from gguflike.kernels.vector.types import Address, F32x16
from gguflike.kernels.vector.unpack import f32_of


@inner(inline="always")
def _capped(x: F32x16, scale: np.float32, cap: np.float32) -> F32x16:
    x = x * splat(scale)
    return tanh(x / splat(cap)) * splat(cap) if cap > 0 else x


@op("rows.caps:cap")
def cap(args: Address, state: Address, start: int, stop: int) -> None:
    """Replace x by cap * tanh(scale * x / cap), or by scale * x without a cap. Items are CAPPED values of a token, the
    last of a token fewer; words: ``CAP`` (args.py)."""
    a = load_args(CAP, args)
    scale, most = f32_of(a.scale), f32_of(a.cap)
    pieces = (a.columns + CAPPED - 1) // CAPPED
    for item in range(start, stop):
        first = item % pieces * CAPPED
        place, count = a.x + 4 * (item // pieces * a.columns + first), min(CAPPED, a.columns - first)
        whole = count // 16 * 16
        for i in range(0, whole, 16):
            store_f32x16(place + 4 * i, _capped(load_f32x16(place + 4 * i), scale, most))
        if whole < count:
            place, left = place + 4 * whole, count - whole
            store_first(place, _capped(load_first(place, left), scale, most), left)
