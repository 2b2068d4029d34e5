"""Q8_K: 256 codes, a float32 scale, and the sum of each 16 codes. Value = d * code.

ggml uses it for activations only. Searched as in scale.py; since a float32 scale reaches as far as the weights, they
are scaled by a power of two first, which keeps their squares within float32.
"""

from __future__ import annotations

from typing import NamedTuple

from gguflike.kernels.encode.driver import block_encoder, codec
from gguflike.kernels.encode.packing import whole_bytes
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
from gguflike.kernels.encode.tiles import Floats, Importance, IntTile, Tile
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import bits, magnitude, splat_i32, where

BLOCK, RUN = 256, 16


class Settings(NamedTuple):
    """Settings as in scale.py; without ``targets`` the absmax rule: the extreme value at the lowest level."""

    targets: Floats
    target_levels: Levels
    levels: Levels


@codec(Settings)
def encode_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Settings) -> None:
    """Encode Q8_K. Symbols: the codes, the sums of each 16, the bits of the float32 scale."""
    levels = s.levels
    exponent = normalize(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
    top = extreme(tile, 0, BLOCK)
    d = top / levels.lo
    if len(s.targets) > 0:
        searched_d = best_scale(tile, importance, 0, BLOCK, top, s.targets, 1, s.target_levels, levels)
        error, absmax_error = squared_errors(tile, importance, 0, BLOCK, searched_d, d, levels)
        d = where(error < absmax_error, searched_d, d)
    inverse = reciprocal(d)
    for run in range(BLOCK // RUN):
        total = splat_i32(0)
        for j in range(run * RUN, run * RUN + RUN):
            code = code_of(nearest_level(load(tile, j), inverse, levels), levels)
            total = total + code
            store(symbols, j, code)
        store(symbols, BLOCK + run, total)
    store(symbols, BLOCK + BLOCK // RUN, bits(times_power(d, -exponent)))


_TARGETS = target_grid((-127, -120, 15), (120, 127, 14))
_LEVELS = integers(-127, 127, first=-127)
_SETTINGS = Settings(_TARGETS, unbounded(_LEVELS, _TARGETS), _LEVELS)
_RUNS = range(BLOCK, BLOCK + BLOCK // RUN)
_FIELDS = [whole_bytes([_RUNS.stop], 4), whole_bytes(range(BLOCK)), whole_bytes(_RUNS, 2)]
encode_q8_k = block_encoder(
    BLOCK, _RUNS.stop + 1, _FIELDS, _SETTINGS, _SETTINGS._replace(targets=_SETTINGS.targets[:0])
)
