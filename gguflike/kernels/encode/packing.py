"""Where the bits of a block go, as data: one ``Packing`` per block type, from the order of fields that ggml declares.

A block's fields are lists of bytes, and a byte is a list of slots: bits of a symbol (a row of the encoder's symbol
tile) and where they stand in the byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.tiles import Ints

Slot: TypeAlias = tuple[int, int, int, int]  # symbol, right shift, mask, left shift within the byte
Byte: TypeAlias = list[Slot]
Field: TypeAlias = list[Byte]
ALL = -1  # the mask of a symbol that has no other bits


class Packing(NamedTuple):
    """How symbols make up a block.

    ``words`` int32 (n, 5): byte offset, width in bytes, first slot, end of slots, whether every slot takes all bits of
    its symbol.
    ``slots`` int32 (m, 4): symbol, right shift, mask, left shift within the word.
    ``copies`` int32 (block bytes // 16,): of each 16 bytes, the first of four consecutive symbols that are their four
    words as they stand, else -1.
    """

    words: Ints
    slots: Ints
    copies: Ints
    block_bytes: int


def plan_packing(fields: Iterable[Field]) -> Packing:
    """The packing of a block whose bytes are those of ``fields``, in order, written in the widest words that fit."""
    stream = [byte for field in fields for byte in field]
    words: list[tuple[int, ...]] = []
    slots: list[Slot] = []
    at = 0
    while at < len(stream):
        width = next(w for w in (4, 2, 1) if len(stream) - at >= w)
        first = len(slots)
        slots += _merged(
            [(row, right, mask, left + 8 * b) for b in range(width) for row, right, mask, left in stream[at + b]]
        )
        entire = all(right == 0 and mask == ALL for _, right, mask, _ in slots[first:])
        words.append((at, width, first, len(slots), entire))
        at += width
    sole = [slots[first][0] if end == first + 1 and entire else ALL for _, _, first, end, entire in words]
    copies = [_consecutive(sole[4 * i : 4 * i + 4]) for i in range(len(stream) // 16)]
    return Packing(np.array(words, np.int32), np.array(slots, np.int32), np.array(copies, np.int32), len(stream))


def _merged(slots: list[Slot]) -> list[Slot]:
    """The slots of a word, with consecutive bytes of one symbol merged into one slot."""
    result: list[Slot] = []
    for row, right, mask, left in slots:
        if result and mask == 255:
            before, start, bits, to = result[-1]
            width = bits.bit_length()
            if (before, start + width, to + width) == (row, right, left) and bits == (1 << width) - 1:
                mask, right, left = bits | mask << width, start, to
                result.pop()
        result.append((row, right, ALL if mask == (1 << 32) - 1 else mask, left))
    return result


def _consecutive(rows: list[int]) -> int:
    """The first of ``rows`` if each is one more than the one before, else -1."""
    return rows[0] if rows[0] >= 0 and rows == list(range(rows[0], rows[0] + len(rows))) else -1


def whole_bytes(symbols: Iterable[int], size: int = 1) -> Field:
    """Each symbol as ``size`` little-endian bytes; it may have higher bits (the sign of a negative one)."""
    return [[(symbol, 8 * b, 255, 0)] for symbol in symbols for b in range(size)]


def bit_planes(codes: npt.NDArray[np.int64], width: int, right: int | None = None) -> Field:
    """Byte i holds codes[0, i], codes[1, i], ... in ``width`` bits each, from its low end up.

    ``codes``: (codes per byte, bytes) array of symbols. With ``right``, only bits ``right .. right+width-1`` of the
    codes; without, the codes have no more than ``width`` bits.
    """
    mask, right = (ALL, 0) if right is None else ((1 << width) - 1, right)
    return [[(int(row), right, mask, width * k) for k, row in enumerate(column)] for column in codes.T]


def interleaved(count: int, per_byte: int, span: int, first: int = 0) -> npt.NDArray[np.int64]:
    """Symbols for ``bit_planes``: each run of ``span`` bytes holds ``per_byte`` consecutive runs of ``span`` codes."""
    grid = np.arange(first, first + count).reshape(-1, per_byte, span)  # (run, code in byte, byte)
    return np.ascontiguousarray(grid.transpose(1, 0, 2)).reshape(per_byte, -1)


def consecutive_bits(symbols: Iterable[int], width: int, right: int | None = None) -> Field:
    """Consecutive codes from the low end of each byte up, ``8 // width`` to a byte; ``right`` as in ``bit_planes``."""
    grid = np.array(list(symbols)).reshape(-1, 8 // width)
    return bit_planes(grid.T, width, right)
