"""Where the bits of a block go, as data: one ``Packing`` per block type, from the field order that ggml declares.

A layout names symbols (rows of the encoder's symbol tile) and places runs of their bits in the block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Slot = tuple[int, int, int, int]  # symbol row, right shift, mask, bit position in the byte
ALL = -1  # mask of a symbol that has no other bits


class Packing(NamedTuple):
    """Where each word of a block comes from.

    ``words`` int32 (n, 5): byte offset, width in bytes, first slot, end, whether every slot takes all of its symbol.
    ``slots`` int32 (m, 4): row, right shift, mask, left shift within the word.
    ``fours`` int32 (block bytes // 16,): the first of four rows that are the four words as they stand, else -1.
    """

    words: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    fours: npt.NDArray[np.int32]
    block_bytes: int


def layout(fields: Iterable[list[list[Slot]]]) -> Packing:
    """Lay out the bytes of ``fields`` (lists of bytes, each a list of slots) in order, in the widest words."""
    stream = [byte for field in fields for byte in field]
    words: list[tuple[int, ...]] = []
    slots: list[Slot] = []
    at = 0
    while at < len(stream):
        width = next(w for w in (4, 2, 1) if len(stream) - at >= w)
        first = len(slots)
        slots += _joined(
            [(row, right, mask, left + 8 * b) for b in range(width) for row, right, mask, left in stream[at + b]]
        )
        entire = all(right == 0 and mask == ALL for _, right, mask, _ in slots[first:])
        words.append((at, width, first, len(slots), entire))
        at += width
    unweighted = [slots[first][0] if end == first + 1 and entire else ALL for _, _, first, end, entire in words]
    fours = [_run(unweighted[4 * f : 4 * f + 4]) for f in range(len(stream) // 16)]
    return Packing(np.array(words, np.int32), np.array(slots, np.int32), np.array(fours, np.int32), len(stream))


def _joined(slots: list[Slot]) -> list[Slot]:
    """Bytes of one symbol that follow each other, as one slot."""
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


def _run(rows: list[int]) -> int:
    """The first row if each is one more than the one before, else -1."""
    return rows[0] if rows[0] >= 0 and rows == list(range(rows[0], rows[0] + len(rows))) else -1


def whole(rows: Iterable[int], size: int = 1) -> list[list[Slot]]:
    """Each symbol as ``size`` little-endian bytes; it may have higher bits (the sign of a negative one)."""
    return [[(row, 8 * b, 255, 0)] for row in rows for b in range(size)]


def planes(codes: npt.NDArray[np.int64], width: int, right: int | None = None) -> list[list[Slot]]:
    """Byte i holds codes[0, i], codes[1, i], ... in ``width`` bits each, from its low end up.

    ``codes``: (codes per byte, bytes) array of symbol rows. With ``right``, only bits ``right .. right+width-1`` of the
    codes; without, the codes have no more than ``width`` bits.
    """
    mask, right = (ALL, 0) if right is None else ((1 << width) - 1, right)
    return [[(int(row), right, mask, width * k) for k, row in enumerate(column)] for column in codes.T]


def strided(count: int, per_byte: int, span: int, first: int = 0) -> npt.NDArray[np.int64]:
    """Symbol rows for ``planes``: each run of ``span`` bytes holds ``per_byte`` consecutive runs of ``span`` codes."""
    grid = np.arange(first, first + count).reshape(-1, per_byte, span)  # (run, code in byte, byte)
    return np.ascontiguousarray(grid.transpose(1, 0, 2)).reshape(per_byte, -1)


def bit_string(rows: Iterable[int], width: int, right: int | None = None) -> list[list[Slot]]:
    """Consecutive codes from the low end of each byte up (``8 // width`` codes per byte)."""
    grid = np.array(list(rows)).reshape(-1, 8 // width)
    return planes(grid.T, width, right)
