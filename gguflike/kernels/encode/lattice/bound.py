"""Kernel: how small the error of codebook points at given scales can be, for points of 8 weights with three levels.

It tells for little whether points need be looked for at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.encode.lattice.codebook import POINT, Codebook
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import gather, load
from gguflike.kernels.vector.lanes import fma, magnitude, maximum, minimum, splat, splat_i32, where


@lean(forceinline=True)
def least_error(book: Codebook, t: int, f: Any, y: int, w: int, scale: Any) -> Any:
    """A lower bound of the errors of 16 octets with shift ``t`` and a vector of scales.

    The nearest levels' error, and, if these are no point, what it costs to move the weight that it costs least to move;
    the latter only without shifts, where the bound is needed to be close.
    """
    levels = book.levels
    low, middle, high = scale * levels[t, 0], scale * levels[t, 1], scale * levels[t, 2]
    error = splat(np.float32(0))
    if len(levels) > 1:
        for i in range(8):
            z = load(f, y + i)
            off = minimum(minimum(magnitude(z - low), magnitude(z - middle)), magnitude(z - high))
            error = fma(off * off, load(f, w + i), error)
        return error
    move, number = splat(np.float32(np.inf)), splat_i32(0)
    power = np.int32(1)
    for i in range(8):
        z, importance = load(f, y + i), load(f, w + i)
        below, within, above = (z - low) * (z - low), (z - middle) * (z - middle), (z - high) * (z - high)
        inner = minimum(below, within)
        nearest = minimum(inner, above)
        second = minimum(maximum(below, within), maximum(inner, above))
        error = fma(nearest, importance, error)
        move = minimum((second - nearest) * importance, move)
        digit = where(nearest == above, splat_i32(2), where(nearest == within, splat_i32(1), splat_i32(0)))
        number = number + digit * power
        power = power * np.int32(3)
    return error + where(gather(book.moves, number) < np.int32(POINT), move, splat(np.float32(0)))
