"""Sizes that every kernel shares. Imports neither numba nor llvmlite."""

from __future__ import annotations

LANES = 16  # float32 or int32 in a vector of 64 bytes
I16_LANES = 2 * LANES  # int16 in one
BLOCK = 32  # columns that share an activation scale

# Of the list of a token's refined blocks (refine.py): where its arrays begin, and each of them, for one block of a row.
LISTS_AT = 64
SUMS_AT, BLOCKS_AT, CODES_AT = 4, 12, 16


def refined_bytes(columns: int) -> int:
    """Bytes of the list of a token of so many columns, in whole cache lines."""
    return LISTS_AT + (columns // BLOCK * (CODES_AT + BLOCK) + 63) // 64 * 64
