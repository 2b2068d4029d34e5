"""Blocks of a float16 scale and a float16 minimum: Q4_1, Q5_1. Value = d * code + m.

Search as in kaffine.py with a free offset; after the minimum is rounded to float16 the scale is refitted to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguflike.kernels.encode.driver import codec, register_codec
from gguflike.kernels.encode.kaffine import (
    PHASES,
    Floats,
    affine_code,
    affine_error,
    affine_moments,
    best_affine,
    code_grid,
    spans,
)
from gguflike.kernels.encode.layout import Slot, bit_string, planes, strided, whole
from gguflike.kernels.encode.scale import bounds
from gguflike.kernels.encode.search import HALF, LARGEST, clamp_tile, f16_bits, reciprocal, stored_scale, to_f16_grid
from gguflike.kernels.lanes import lanes, load, maximum, minimum, store, to_int, where

SIZE = 32
FREE = np.float32(np.inf)


class Plain(NamedTuple):
    """The textbook rule: codes 0 .. ``hi`` span the values' range."""

    hi: np.float32


class Search(NamedTuple):
    """Search from ``grid`` with ``rounds`` of codes and factors in turn; competes with the rule.

    ``grid`` and ``scan`` as in ``best_affine``.
    """

    hi: np.float32
    grid: Floats
    scan: np.float32 | None
    rounds: int


@codec(Search)
def search_lanes(group: int, tile: Any, weights: Any, symbols: Any, s: Search) -> None:
    """Symbols: the codes, the scale, the minimum."""
    least, greatest = bounds(tile, 0, SIZE)
    clamp_tile(tile, SIZE, maximum(greatest, -least))
    least = minimum(maximum(least, -LARGEST), LARGEST)
    span = minimum(maximum(greatest, -LARGEST), LARGEST) - least
    for j in range(SIZE):  # from the minimum on: nothing is lost to a common offset
        store(tile, j, load(tile, j) - least)
    d, offset = best_affine(tile, weights, 0, SIZE, lanes(0.0), span, s.grid, s.scan, s.rounds, s.hi, FREE)
    m = to_f16_grid(offset + least) - least
    inverse = reciprocal(d)
    xq, qq, sq = affine_moments(tile, weights, 0, SIZE, inverse, -m * inverse, s.hi)
    d = stored_scale(where(qq > 0.0, maximum(xq - m * sq, lanes(0.0)) * reciprocal(qq), d))
    plain_d = to_f16_grid(span / s.hi)
    plain_m = to_f16_grid(least) - least
    found = affine_error(tile, weights, 0, SIZE, d, m, s.hi)
    plainly = affine_error(tile, weights, 0, SIZE, plain_d, plain_m, s.hi)
    d = where(plainly < found, plain_d, d)
    m = where(plainly < found, plain_m, m)
    inverse = reciprocal(d)
    for j in range(SIZE):
        store(symbols, j, to_int(affine_code(load(tile, j), inverse, -m * inverse, s.hi)))
    store(symbols, SIZE, f16_bits(d))
    store(symbols, SIZE + 1, f16_bits(to_f16_grid(m + least)))


@codec(Plain)
def plain_lanes(group: int, tile: Any, weights: Any, symbols: Any, s: Plain) -> None:
    """Codes are rounded half up from the unrounded scale and minimum. Symbols as in ``search_lanes``."""
    least, greatest = bounds(tile, 0, SIZE)
    d = (greatest - least) / s.hi
    inverse = where(d == 0.0, lanes(0.0), 1.0 / where(d == 0.0, lanes(1.0), d))
    for j in range(SIZE):
        store(symbols, j, to_int(minimum(maximum((load(tile, j) - least) * inverse + HALF, lanes(0.0)), lanes(s.hi))))
    store(symbols, SIZE, f16_bits(to_f16_grid(d)))
    store(symbols, SIZE + 1, f16_bits(to_f16_grid(least)))


def register_affine(
    name: str, hi: int, grid: Floats, weighted: Floats, rounds: int, fields: list[list[list[Slot]]]
) -> None:
    """Make the codecs of this module the encoder of a type; ``weighted``: another grid where there is importance."""
    top = np.float32(hi)
    search, other = (
        Search(top, spans(hi, g), None if (np.abs(g[:, 1]) + g[:, 0] / 2 < HALF).all() else top, rounds)
        for g in (grid, weighted)
    )
    register_codec(name, SIZE, SIZE + 2, fields, search, textbook=Plain(top), weighted=other)


_FACTORS = whole([SIZE, SIZE + 1], 2)
_WIDE = code_grid(np.linspace(-1, 6, 14), PHASES)

# fmt: off
register_affine("Q4_1", 15, code_grid([0.48], [-0.25, 0.25]), weighted=_WIDE, rounds=0,
                fields=[_FACTORS, planes(strided(32, 2, 16), 4)])
register_affine("Q5_1", 31, code_grid([-2, -1, 0], [-0.25, 0.25]), weighted=_WIDE, rounds=0,
                fields=[_FACTORS, bit_string(range(32), 1, right=4), planes(strided(32, 2, 16), 4, right=0)])
# fmt: on
