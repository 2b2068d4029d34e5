"""Unpacking of bit fields, shared by the reference codecs.

ggml packs codes in planes: ``run`` consecutive bytes hold ``8 // width`` runs of ``run`` codes each, the first run in
the lowest bits. With ``run=1`` that is plain little-endian order within each byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[Any]  # structured, shape (n,), dtype of the row
Floats = npt.NDArray[np.float32]


def bit_planes(packed: npt.NDArray[Any], width: int, run: int) -> npt.NDArray[np.uint8]:
    """Codes of ``width`` bits: uint8 (n, bytes) -> uint8 (n, bytes * 8 // width), in the order of the weights."""
    n = packed.shape[0]
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    runs = packed.reshape(n, -1, 1, run)  # (n, groups, 1, run)
    codes = (runs >> shifts[:, None]) & np.uint8((1 << width) - 1)  # (n, groups, 8 // width, run)
    return codes.reshape(n, -1)


def signs_of(packed: npt.NDArray[Any]) -> Floats:
    """-1 for a set bit and +1 for a clear one, lowest bit first: uint8 (n, bytes) -> float32 (n, bytes * 8)."""
    return np.float32(1) - np.float32(2) * bit_planes(packed, 1, 1).astype(np.float32)


def column(scale: npt.NDArray[Any]) -> Floats:
    """A float16 or float32 scale per block, as float32 of shape (n, 1)."""
    return scale.astype(np.float32)[:, None]


def spread(per_group: Floats, size: int) -> Floats:
    """Repeats each group's value for its ``size`` weights: (n, groups) -> (n, groups * size)."""
    return np.repeat(per_group, size, axis=1)
