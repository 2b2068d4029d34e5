"""Sizes that every kernel shares. Imports neither numba nor llvmlite."""

from __future__ import annotations

LANES = 16  # float32 or int32 in a vector of 64 bytes
I16_LANES = 2 * LANES  # int16 in one
BLOCK = 32  # columns that share an activation scale
