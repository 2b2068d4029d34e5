"""Q8_K: 256 codes, a float32 scale, and the sum of each 16 codes. Value = d * code.

ggml uses it for activations only. Searched as in scale.py; since the scale is as wide as the weights, all is done on
weights brought to the middle of float32's range.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gguflike.kernels.encode.driver import block_encoder, codec
from gguflike.kernels.encode.packing import whole
from gguflike.kernels.encode.rounding import (
    Levels,
    code_of,
    integers,
    nearest_level,
    normalize,
    reciprocal,
    times_power,
)
from gguflike.kernels.encode.scale import best_scale, extreme, squared_errors, target_grid, unbounded
from gguflike.kernels.encode.tiles import Floats
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import bits, magnitude, splat_i32, where

BLOCK, RUN = 256, 16


class Settings(NamedTuple):
    """Targets as in scale.py; without, by ggml's rule: the extreme value at the lowest level."""

    targets: Floats
    scan: Levels
    levels: Levels


@codec(Settings)
def encode_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Settings) -> None:
    """Symbols: the codes, the sums of runs, the scale."""
    levels = s.levels
    lift = normalize(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
    top = extreme(tile, 0, BLOCK)
    d = top / levels.lo
    if len(s.targets) > 0:
        found = best_scale(tile, importance, 0, BLOCK, top, s.targets, 1, s.scan, levels)
        new, old = squared_errors(tile, importance, 0, BLOCK, found, d, levels)
        d = where(new < old, found, d)
    inverse = reciprocal(d)
    for run in range(BLOCK // RUN):
        total = splat_i32(0)
        for j in range(run * RUN, run * RUN + RUN):
            code = code_of(nearest_level(load(tile, j), inverse, levels), levels)
            total = total + code
            store(symbols, j, code)
        store(symbols, BLOCK + run, total)
    store(symbols, BLOCK + BLOCK // RUN, bits(times_power(d, -lift)))


_TARGETS = target_grid((-127, -120, 15), (120, 127, 14))
_LEVELS = integers(-127, 127, first=-127)
_SETTINGS = Settings(_TARGETS, unbounded(_LEVELS, _TARGETS), _LEVELS)
_RUNS = range(BLOCK, BLOCK + BLOCK // RUN)
_FIELDS = [whole([_RUNS.stop], 4), whole(range(BLOCK)), whole(_RUNS, 2)]
encode_q8_k = block_encoder(
    BLOCK, _RUNS.stop + 1, _FIELDS, _SETTINGS, _SETTINGS._replace(targets=_SETTINGS.targets[:0])
)
