"""Where the numbers of a block go: bit fields from the lowest bit up, for each block type with a lattice codebook.

A field is (symbol, right shift, width in bits). Symbols are elements of the tile that ``lattice_rows.write_symbols``
fills; ``Symbols`` names them in the order of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.lattice_block import OCTETS, SUPER
from gguflike.kernels.lanes import LANES

Field = tuple[int, int, int]


class Symbols:
    """Numbers of the symbols of a block with points of ``dim`` weights and sub-blocks of ``size`` weights."""

    def __init__(self, dim: int, size: int) -> None:
        parts, columns = 8 // dim, SUPER // dim // LANES
        column = [group // parts // LANES * parts + group % parts for group in range(SUPER // dim)]
        place = [c * LANES + group // parts % LANES for group, c in enumerate(column)]
        self.point: Sequence[int] = place
        self.shift: Sequence[int] = [columns * LANES + p for p in place]
        self.signs: Sequence[int] = range(2 * columns * LANES, 2 * columns * LANES + OCTETS)
        self.k: Sequence[int] = range((2 * columns + 2) * LANES, (2 * columns + 2) * LANES + SUPER // size)
        self.d: int = (2 * columns + 3) * LANES
        self.vectors: int = 2 * columns + 4


def _each(symbols: Iterable[int], width: int, right: int = 0) -> list[Field]:
    return [(symbol, right, width) for symbol in symbols]


def iq2_xxs(s: Symbols) -> list[Field]:
    fields = [(s.d, 0, 16)]
    for b in range(8):
        points, signs = s.point[4 * b : 4 * b + 4], s.signs[4 * b : 4 * b + 4]
        fields += _each(points, 8) + _each(signs, 7) + [(s.k[b], 0, 4)]
    return fields


def iq2_xs(s: Symbols) -> list[Field]:
    words = [field for g in range(32) for field in ((s.point[g], 0, 9), (s.signs[g], 0, 7))]
    return [(s.d, 0, 16), *words, *_each(s.k, 4)]


def iq2_s(s: Symbols) -> list[Field]:
    return [(s.d, 0, 16), *_each(s.point, 8), *_each(s.signs, 8), *_each(s.point, 2, 8), *_each(s.k, 4)]


def iq3_xxs(s: Symbols) -> list[Field]:
    fields = [(s.d, 0, 16), *_each(s.point, 8)]
    for b in range(8):
        fields += [*_each(s.signs[4 * b : 4 * b + 4], 7), (s.k[b], 0, 4)]
    return fields


def iq3_s(s: Symbols) -> list[Field]:
    return [(s.d, 0, 16), *_each(s.point, 8), *_each(s.point, 1, 8), *_each(s.signs, 8), *_each(s.k, 4)]


def iq1_s(s: Symbols) -> list[Field]:
    fields = [(s.d, 0, 16), *_each(s.point, 8)]
    for b in range(8):
        fields += [*_each(s.point[4 * b : 4 * b + 4], 3, 8), (s.k[b], 0, 3), (s.shift[4 * b], 0, 1)]
    return fields


def iq1_m(s: Symbols) -> list[Field]:
    fields = _each(s.point, 8)
    for point, shift in zip(s.point, s.shift, strict=True):
        fields += [(point, 8, 3), (shift, 0, 1)]
    for i in range(4):
        fields += [*_each(s.k[4 * i : 4 * i + 4], 3), (s.d, 4 * i, 4)]
    return fields


def layout(fields: list[Field], block_bytes: int) -> npt.NDArray[np.int32]:
    """The fields as an array (n, 3). ValueError unless they fill a block."""
    if sum(width for _, _, width in fields) != 8 * block_bytes:
        raise ValueError(f"fields hold {sum(width for _, _, width in fields)} bits, the block {8 * block_bytes}")
    return np.array(fields, np.int32)
