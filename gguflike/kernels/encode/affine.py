"""Blocks of a float16 scale and a float16 minimum: Q4_1, Q5_1. Value = d * code + m.

Search as in kaffine.py with a free offset; after the minimum is rounded to float16 the scale is refitted to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import jit, run_rows
from gguflike.kernels.dispatch import register
from gguflike.kernels.encode.kaffine import (
    PHASES,
    affine_code,
    affine_error,
    affine_moments,
    best_affine,
    bounds,
    code_grid,
    spans,
)
from gguflike.kernels.encode.layout import Slot, bit_string, layout, planes, strided, whole
from gguflike.kernels.encode.search import (
    HALF,
    LARGEST,
    f16_bits,
    groups_of,
    load_blocks,
    load_weights,
    pack,
    reciprocal,
    stored_scale,
    to_f16_grid,
    weight_tile,
)
from gguflike.kernels.lanes import LANES, lanes, load, make_int_tile, make_tile, maximum, minimum, store, to_int, where

Array = npt.NDArray[Any]
FREE = np.float32(np.inf)


@jit
def search_groups(
    start: int, stop: int, x: Any, weights: Any, out: Any, size: int, grid: Any, rounds: int, hi: Any,
    places: Any,
) -> None:  # fmt: skip
    """Encode groups of sixteen blocks by search."""
    blocks = len(x) // size
    tile = make_tile(size)
    wtile = weight_tile(weights, size)
    symbols = make_int_tile(size + 2)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, size, x, tile, starts)
        load_weights(group, blocks, size, weights, wtile, starts)
        least, greatest = bounds(tile, 0, size)
        least = minimum(maximum(least, -LARGEST), LARGEST)
        greatest = minimum(maximum(greatest, -LARGEST), LARGEST)
        for j in range(size):  # from the minimum on: nothing is lost to a common offset
            store(tile, j, minimum(maximum(load(tile, j), least), greatest) - least)
        d, offset = best_affine(tile, wtile, 0, size, grid, rounds, hi, FREE)
        m = to_f16_grid(offset + least) - least
        inverse = reciprocal(d)
        xq, qq, sq = affine_moments(tile, wtile, 0, size, inverse, -m * inverse, hi)
        d = stored_scale(where(qq > 0.0, maximum(xq - m * sq, lanes(0.0)) * reciprocal(qq), d))
        plain_d = to_f16_grid((greatest - least) / hi)
        plain_m = to_f16_grid(least) - least
        found = affine_error(tile, wtile, 0, size, d, m, hi)
        textbook = affine_error(tile, wtile, 0, size, plain_d, plain_m, hi)
        d = where(textbook < found, plain_d, d)
        m = where(textbook < found, plain_m, m)
        inverse = reciprocal(d)
        for j in range(size):
            store(symbols, j, to_int(affine_code(load(tile, j), inverse, -m * inverse, hi)))
        store(symbols, size, f16_bits(d))
        store(symbols, size + 1, f16_bits(to_f16_grid(m + least)))
        pack(group, blocks, symbols, places, out, scratch)


@jit
def minmax_groups(start: int, stop: int, x: Any, out: Any, size: int, hi: Any, places: Any) -> None:
    """The textbook rule: codes span the values' range, rounded half up from the unrounded scale and minimum."""
    blocks = len(x) // size
    tile = make_tile(size)
    symbols = make_int_tile(size + 2)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, size, x, tile, starts)
        least, greatest = bounds(tile, 0, size)
        d = (greatest - least) / hi
        inverse = where(d == 0.0, lanes(0.0), 1.0 / where(d == 0.0, lanes(1.0), d))
        for j in range(size):
            store(symbols, j, to_int(minimum(maximum((load(tile, j) - least) * inverse + HALF, lanes(0.0)), lanes(hi))))
        store(symbols, size, f16_bits(to_f16_grid(d)))
        store(symbols, size + 1, f16_bits(to_f16_grid(least)))
        pack(group, blocks, symbols, places, out, scratch)


@dataclass(frozen=True)
class AffineFormat:
    """One type of this family: 32 codes 0 .. ``hi``."""

    name: str
    hi: int
    rounds: int
    grid: npt.NDArray[np.float32]
    weighted_grid: npt.NDArray[np.float32]
    fields: list[list[list[Slot]]]

    def register(self) -> None:
        """Make this the encoder of the type."""
        f32, plan = np.float32, layout(self.fields)
        grid, weighted_grid = spans(self.hi, self.grid), spans(self.hi, self.weighted_grid)

        @register("encode", self.name)
        def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
            groups = groups_of(x.size // 32)
            flat, to = x.reshape(-1), out.reshape(-1)
            if method == "absmax":
                run_rows(minmax_groups, groups, flat, to, 32, f32(self.hi), plan, threads=threads)
                return
            search = (grid if weights is None else weighted_grid, self.rounds, f32(self.hi), plan)
            run_rows(search_groups, groups, flat, weights, to, 32, *search, threads=threads)


_FACTORS = whole([32, 33], 2)
_WIDE = code_grid(np.linspace(-1, 6, 14), PHASES)

# fmt: off
for _format in (
    AffineFormat("Q4_1", hi=15, rounds=0, grid=code_grid([0.5], [-0.25, 0.25]), weighted_grid=_WIDE,
                 fields=[_FACTORS, planes(strided(32, 2, 16), 4)]),
    AffineFormat("Q5_1", hi=31, rounds=0, grid=code_grid([-2, -1, 0], [-0.25, 0.25]), weighted_grid=_WIDE,
                 fields=[_FACTORS, bit_string(range(32), 1, right=4), planes(strided(32, 2, 16), 4, right=0)]),
):
    _format.register()
# fmt: on
