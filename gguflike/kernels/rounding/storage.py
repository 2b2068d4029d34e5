"""Between the bytes of codebook types and the numbers that they store, in any order of columns.

The fields of each type are those of the encoders (encode/lattice/fields.py).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat, codebooks
from gguflike.kernels.encode.lattice.codebook import NUMBER_BIT
from gguflike.kernels.encode.lattice.codec import LATTICES
from gguflike.kernels.encode.lattice.fields import Field, Symbols
from gguflike.kernels.encode.lattice.scratch import DELTA_BIT, EVEN_SIGNS, NO_SIGNS
from gguflike.kernels.encode.tiles import Array
from gguflike.kernels.rounding.octets import SUPER, Blocks, Scale
from gguflike.kernels.rounding.tree import OCTET, Tree, make_tree

_DELTA_SHIFT = DELTA_BIT - NUMBER_BIT  # of a point's delta, above its number
OCTETS = SUPER // OCTET


class Storage(NamedTuple):
    """What there is to know of a codebook type: its codebook as a tree, its scales, and where its numbers stand."""

    format: BlockFormat
    tree: Tree
    scale: Scale
    symbols: Symbols
    fields: list[Field]


@cache
def storage(fmt: BlockFormat) -> Storage:
    """The storage of a type, made once."""
    lattice = LATTICES[fmt.name]
    shape = lattice.shape()
    signed = lattice.signs != NO_SIGNS
    tree = make_tree(lattice.grid(), signed, lattice.signs == EVEN_SIGNS, lattice.deltas, shape.shared_delta)
    symbols = Symbols(shape.dim, lattice.size)
    scale = Scale(lattice.size, lattice.factor, lattice.max_k)
    return Storage(fmt, tree, scale, symbols, lattice.fields(symbols))


def unpack(kind: Storage, rows: npt.NDArray[np.uint8]) -> Blocks:
    """What the blocks of uint8 (n, row bytes) store."""
    stored = np.ascontiguousarray(rows.reshape(-1, kind.format.block_bytes).T)  # by bytes: (bytes, blocks)
    n, blocks = len(rows), stored.shape[1]
    table = np.zeros((kind.symbols.vectors * 16, blocks), np.int32)
    bit = 0
    for symbol, right, width in kind.fields:
        first, last = bit >> 3, (bit + width - 1) >> 3
        word = sum(stored[i].astype(np.int32) << 8 * (i - first) for i in range(first, last + 1))
        table[symbol] |= (word >> (bit & 7) & (1 << width) - 1) << right
        bit += width
    tree, symbols = kind.tree, kind.symbols
    points = table[symbols.point].T  # (blocks, points)
    digits = _digits(kind.format.name)[points & (1 << _DELTA_SHIFT) - 1].reshape(blocks, SUPER)
    codes = digits
    if tree.signed:
        signs = table[symbols.signs].T
        minus = codebooks.SIGN_PATTERNS[signs & 127] if tree.plus else signs.astype(np.uint8)
        negative = np.unpackbits(np.ascontiguousarray(minus), axis=1, bitorder="little").astype(bool)
        codes = np.where(negative, tree.base - 1 - digits, tree.base + digits)
    deltas = points[:, :: OCTET // tree.dim] >> _DELTA_SHIFT
    if tree.shared:
        deltas = np.repeat(deltas[:, :: kind.scale.size // OCTET], kind.scale.size // OCTET, axis=1)
    d = table[symbols.d].astype(np.uint16).view(np.float16).astype(np.float32)
    return Blocks(
        d=d.reshape(n, -1),
        k=_by_row(table[symbols.k].T, n),
        deltas=_by_row(deltas, n),
        codes=_by_row(codes, n),
    )


def pack(kind: Storage, blocks: Blocks) -> npt.NDArray[np.uint8]:
    """The bytes of blocks: uint8 (n, row bytes). Where d is 0, nothing else is stored."""
    tree, symbols = kind.tree, kind.symbols
    count = blocks.d.size
    table = np.zeros((symbols.vectors * 16, count), np.int32)
    codes = blocks.codes.reshape(count, SUPER)
    weights = tree.base ** np.arange(tree.dim - 1, -1, -1)
    numbers = tree.numbers[(tree.digits[codes].reshape(count, -1, tree.dim) * weights).sum(axis=2)]
    deltas = np.repeat(blocks.deltas.reshape(count, OCTETS), OCTET // tree.dim, axis=1)
    table[symbols.point] = (numbers | deltas.astype(np.int32) << _DELTA_SHIFT).T
    if tree.signed:
        table[symbols.signs] = np.packbits(codes < tree.base, axis=1, bitorder="little").T
    table[symbols.k] = blocks.k.reshape(count, -1).T
    table[symbols.d] = blocks.d.reshape(count).astype(np.float16).view(np.uint16)
    table *= blocks.d.reshape(count) > 0
    out = np.zeros((kind.format.block_bytes, count), np.uint8)
    bit = 0
    for symbol, right, width in kind.fields:
        word = (table[symbol] >> right & (1 << width) - 1) << (bit & 7)
        for i in range(bit >> 3, (bit + width - 1 >> 3) + 1):
            out[i] |= (word >> 8 * (i - (bit >> 3)) & 255).astype(np.uint8)
        bit += width
    return np.ascontiguousarray(out.T).reshape(len(blocks.d), -1)


def in_order(blocks: Blocks, order: npt.NDArray[np.int64]) -> Blocks:
    """Blocks in the order of storage, with their columns in ``order``."""

    def taken(numbers: Array) -> Array:
        size = len(order) // numbers.shape[1]
        return np.ascontiguousarray(numbers[:, order[::size] // size])

    return Blocks(*(taken(numbers) for numbers in blocks))


def reordered(blocks: Blocks, order: npt.NDArray[np.int64]) -> Blocks:
    """Blocks whose columns stand in ``order``, in the order of storage."""

    def back(numbers: Array) -> Array:
        size = len(order) // numbers.shape[1]
        result = np.empty_like(numbers)
        result[:, order[::size] // size] = numbers
        return result

    return Blocks(*(back(numbers) for numbers in blocks))


def _by_row(numbers: Array, rows: int) -> npt.NDArray[np.uint8]:
    """Numbers (blocks, any) as uint8 (rows, any)."""
    return np.ascontiguousarray(numbers.astype(np.uint8)).reshape(rows, -1)


@cache
def _digits(name: str) -> npt.NDArray[np.int64]:
    """The digits of each point of a type's codebook (points, dim)."""
    grid = LATTICES[name].grid()
    return np.unique(grid, return_inverse=True)[1].reshape(grid.shape)
