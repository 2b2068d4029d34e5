"""Columns of a state: sixteen of its rows at a time, a row per lane."""

from __future__ import annotations

from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.lanes import fma, splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32x16
from gguflike.kernels.vector.types import Address, F32x16


@inner(inline="always")
def written(place: Address, decay: F32x16, change: F32x16, factor: Address) -> F32x16:
    """Store decay times the column at ``place`` plus change times the float32 at ``factor``, and return it."""
    column = fma(load_f32x16(place), decay, change * splat(load_f32(factor)))
    store_f32x16(place, column)
    return column
