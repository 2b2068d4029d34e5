"""A lower bound of the squared error of codebook points at given scales, for points of 8 weights with three levels.

It costs little, and tells whether points need be looked for at all.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.encode.lattice.codebook import POINT, Codebook
from gguflike.kernels.encode.tiles import Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import gather, load
from gguflike.kernels.vector.lanes import fma, magnitude, maximum, minimum, splat, splat_i32, where
from gguflike.kernels.vector.types import F32x16


@lean(forceinline=True)
def least_error(book: Codebook, t: int, floats: Tile, values: int, importance: int, scale: F32x16) -> F32x16:
    """A lower bound of sum w (y - scale p)^2 over all points p with delta ``t``, for 16 octets.

    ``values``, ``importance``: rows of y and w in ``floats``. The bound is the error of the nearest levels and, if
    these are not a point, of moving the one weight that it costs least to move; the latter only without deltas, where
    the bound must be close.
    """
    levels = book.levels
    low, middle, high = scale * levels[t, 0], scale * levels[t, 1], scale * levels[t, 2]
    error = splat(np.float32(0))
    if len(levels) > 1:
        for i in range(8):
            y = load(floats, values + i)
            distance = minimum(minimum(magnitude(y - low), magnitude(y - middle)), magnitude(y - high))
            error = fma(distance * distance, load(floats, importance + i), error)
        return error
    move, number = splat(np.float32(np.inf)), splat_i32(0)
    power = np.int32(1)
    for i in range(8):
        y, w = load(floats, values + i), load(floats, importance + i)
        to_low, to_middle, to_high = (y - low) * (y - low), (y - middle) * (y - middle), (y - high) * (y - high)
        lower = minimum(to_low, to_middle)
        nearest = minimum(lower, to_high)
        second = minimum(maximum(to_low, to_middle), maximum(lower, to_high))
        error = fma(nearest, w, error)
        move = minimum((second - nearest) * w, move)
        digit = where(nearest == to_high, splat_i32(2), where(nearest == to_middle, splat_i32(1), splat_i32(0)))
        number = number + digit * power
        power = power * np.int32(3)
    return error + where(gather(book.moves, number) < np.int32(POINT), move, splat(np.float32(0)))
