"""Where the bits of a block go, as data: one ``Layout`` per block type, from the field order that ggml declares.

A layout names symbols (rows of the encoder's symbol tile) and places runs of their bits in the block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Slot = tuple[int, int, int, int]  # symbol row, right shift, mask, bit position in the byte


@dataclass(frozen=True)
class Layout:
    """``words`` int32 (n, 4): byte offset, width in bytes, first slot, end. ``slots`` int32 (m, 4): row, right shift,
    mask, left shift. ``rows``: number of symbols."""

    words: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    rows: int
    block_bytes: int


def layout(fields: Iterable[list[list[Slot]]]) -> Layout:
    """Lay the bytes of ``fields`` (each a list of bytes, each byte a list of slots) out in order, in the widest words."""
    stream = [byte for field in fields for byte in field]
    words, slots, at = [], [], 0
    while at < len(stream):
        width = next(w for w in (4, 2, 1) if len(stream) - at >= w)
        first = len(slots)
        for b in range(width):
            slots += [(row, right, mask, left + 8 * b) for row, right, mask, left in stream[at + b]]
        words.append((at, width, first, len(slots)))
        at += width
    rows = 1 + max(slot[0] for slot in slots)
    return Layout(np.array(words, np.int32), np.array(slots, np.int32), rows, len(stream))


def whole(rows: Iterable[int], size: int = 1) -> list[list[Slot]]:
    """Each symbol as ``size`` little-endian bytes."""
    return [[(row, 8 * b, 255, 0)] for row in rows for b in range(size)]


def planes(codes: npt.NDArray[np.int64], width: int, right: int = 0) -> list[list[Slot]]:
    """Byte i holds bits ``right .. right+width-1`` of codes[0, i], codes[1, i], ... from its low end up.

    ``codes``: (codes per byte, bytes) array of symbol rows.
    """
    mask = (1 << width) - 1
    return [[(int(row), right, mask, width * k) for k, row in enumerate(column)] for column in codes.T]


def strided(count: int, per_byte: int, span: int, first: int = 0) -> npt.NDArray[np.int64]:
    """Symbol rows for ``planes``: each run of ``span`` bytes holds ``per_byte`` consecutive runs of ``span`` codes."""
    grid = np.arange(first, first + count).reshape(-1, per_byte, span)  # (run, code in byte, byte)
    return grid.transpose(1, 0, 2).reshape(per_byte, -1)


def bit_string(rows: Iterable[int], width: int, right: int = 0) -> list[list[Slot]]:
    """Consecutive codes from the low end of each byte up (``8 // width`` codes per byte)."""
    grid = np.array(list(rows)).reshape(-1, 8 // width)
    return planes(grid.T, width, right)
