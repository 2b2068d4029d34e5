"""Unpacking of bit fields, shared by the reference codecs.

ggml packs codes in planes: ``run`` consecutive bytes hold ``8 // width`` runs of ``run`` codes each, the first run in
the lowest bits. With ``run=1`` that is plain little-endian order within each byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Blocks = npt.NDArray[Any]  # structured, shape (n,), dtype of the row
    Floats = npt.NDArray[np.float32]


def bit_planes(packed: npt.NDArray[Any], width: int, run: int) -> npt.NDArray[np.uint8]:
    """Unpacks codes of ``width`` bits: uint8 (n, bytes) -> (n, bytes * 8 // width), in the order of the weights."""
    n = packed.shape[0]
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    runs = packed.reshape(n, packed.shape[1] // run, 1, run)  # (n, chunks, 1, run)
    codes = (runs >> shifts[:, None]) & np.uint8((1 << width) - 1)  # (n, chunks, 8 // width, run)
    return codes.reshape(n, packed.shape[1] * (8 // width))


def signs_of(packed: npt.NDArray[Any]) -> Floats:
    """Gives -1 for a set bit and +1 for a clear one, lowest bit first: uint8 (n, bytes) -> float32 (n, bytes * 8)."""
    return np.float32(1) - np.float32(2) * bit_planes(packed, 1, 1).astype(np.float32)


def column(scale: npt.NDArray[Any]) -> Floats:
    """Gives the float16 or float32 scale of each block as float32 (n, 1)."""
    return scale.astype(np.float32)[:, None]


def repeat(values: Floats, size: int) -> Floats:
    """Repeats each sub-block's value for its ``size`` weights: (n, sub-blocks) -> (n, sub-blocks * size)."""
    return np.repeat(values, size, axis=1)
