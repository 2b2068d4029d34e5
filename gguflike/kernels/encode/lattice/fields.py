"""Where the numbers of a block go: bit fields from the lowest bit up, for each block type with a lattice codebook.

A field is (symbol, right shift, width in bits). Symbols are elements of the int32 tile that ``search.write_symbols``
fills; ``Symbols`` names them in the order of the weights. A *quad*, four fields of consecutive octets or sub-blocks
that follow each other in the block, is joined to one symbol by vectors before any bit is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.lattice.scratch import OCTETS, SUPER
from gguflike.kernels.encode.tiles import Ints
from gguflike.kernels.vector.sizes import LANES

Field = tuple[int, int, int]


class Symbols:
    """The symbols of a block with points of ``dim`` weights and sub-blocks of ``size``: elements of the tile."""

    def __init__(self, dim: int, size: int) -> None:
        per_octet, columns = 8 // dim, SUPER // dim // LANES
        column = [point // per_octet // LANES * per_octet + point % per_octet for point in range(SUPER // dim)]
        place = [c * LANES + point // per_octet % LANES for point, c in enumerate(column)]
        self.point: Sequence[int] = place  # the number of the point, and in bit 11 its delta
        self.signs: Sequence[int] = range(columns * LANES, columns * LANES + OCTETS)
        self.k: Sequence[int] = range((columns + 2) * LANES, (columns + 2) * LANES + SUPER // size)
        self.d: int = (columns + 3) * LANES
        self.vectors: int = columns + 4  # rows of the tile; quads follow


def _each(symbols: Iterable[int], width: int, right: int = 0) -> list[Field]:
    """A field of ``width`` bits of each symbol, from bit ``right`` on."""
    return [(symbol, right, width) for symbol in symbols]


def iq2_xxs(s: Symbols) -> list[Field]:
    """The fields of IQ2_XXS."""
    fields = [(s.d, 0, 16)]
    for b in range(8):
        points, signs = s.point[4 * b : 4 * b + 4], s.signs[4 * b : 4 * b + 4]
        fields += _each(points, 8) + _each(signs, 7) + [(s.k[b], 0, 4)]
    return fields


def iq2_xs(s: Symbols) -> list[Field]:
    """The fields of IQ2_XS."""
    words = [field for g in range(32) for field in ((s.point[g], 0, 9), (s.signs[g], 0, 7))]
    return [(s.d, 0, 16), *words, *_each(s.k, 4)]


def iq2_s(s: Symbols) -> list[Field]:
    """The fields of IQ2_S."""
    return [(s.d, 0, 16), *_each(s.point, 8), *_each(s.signs, 8), *_each(s.point, 2, 8), *_each(s.k, 4)]


def iq3_xxs(s: Symbols) -> list[Field]:
    """The fields of IQ3_XXS."""
    fields = [(s.d, 0, 16), *_each(s.point, 8)]
    for b in range(8):
        fields += [*_each(s.signs[4 * b : 4 * b + 4], 7), (s.k[b], 0, 4)]
    return fields


def iq3_s(s: Symbols) -> list[Field]:
    """The fields of IQ3_S."""
    return [(s.d, 0, 16), *_each(s.point, 8), *_each(s.point, 1, 8), *_each(s.signs, 8), *_each(s.k, 4)]


def iq1_s(s: Symbols) -> list[Field]:
    """The fields of IQ1_S."""
    fields = [(s.d, 0, 16), *_each(s.point, 8)]
    for b in range(8):
        fields += [*_each(s.point[4 * b : 4 * b + 4], 3, 8), (s.k[b], 0, 3), (s.point[4 * b], 11, 1)]
    return fields


def iq1_m(s: Symbols) -> list[Field]:
    """The fields of IQ1_M."""
    fields = [*_each(s.point, 8), *_each(s.point, 4, 8)]
    for i in range(4):
        fields += [*_each(s.k[4 * i : 4 * i + 4], 3), (s.d, 4 * i, 4)]
    return fields


def join_quads(fields: list[Field], vectors: int) -> tuple[list[Field], Ints]:
    """Replace fields by quads where four make one; returns (fields, kinds of quads).

    The kinds, int32 (n, 3), are (row of symbols, right shift, width of each): the quads of that row and the next, eight
    of them, stand in the first lanes of row ``vectors`` + their kind's index.
    """
    joined: list[Field] = []
    kinds: list[tuple[int, int, int]] = []
    while fields:
        symbol, right, width = fields[0]
        run = [(symbol + i, right, width) for i in range(4)]
        if symbol % 4 == 0 and width <= 8 and fields[:4] == run:
            pair, octet = divmod(symbol, 2 * LANES)
            kind = (2 * pair, right, width)
            if kind not in kinds:
                kinds.append(kind)
            joined.append(((vectors + kinds.index(kind)) * LANES + octet // 4, 0, 4 * width))
            fields = fields[4:]
        else:
            joined.append(fields[0])
            fields = fields[1:]
    return joined, np.array(kinds, np.int32).reshape(-1, 3)


def plan_bits(fields: list[Field], block_bytes: int) -> npt.NDArray[np.uint32]:
    """The fields as uint32 (n, 6) for ``search.write_bits``.

    Each row is symbol, right shift, mask; then the left shift of the field in the bits held, the byte of the block that
    these begin at (of the last 4 at most), and by how much they move right after the field. ValueError unless the
    fields fill a block.
    """
    if sum(width for _, _, width in fields) != 8 * block_bytes:
        raise ValueError(f"fields hold {sum(width for _, _, width in fields)} bits, the block {8 * block_bytes}")
    rows, bit, to = [], 0, 0
    for symbol, right, width in [*fields, (0, 0, 0)]:  # the last one writes what the one before it leaves
        following = min((bit + width) // 32 * 4, block_bytes - 4)
        rows.append((symbol, right, (1 << width) - 1, bit - 8 * to, to, 8 * (following - to)))
        bit, to = bit + width, following
    return np.array(rows, np.uint32)
