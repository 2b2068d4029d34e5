"""Types without blocks: IEEE floats, bfloat16 and integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.blocks.bits import Blocks, Floats


def decode_native(blocks: Blocks) -> npt.NDArray[Any]:
    """F64, I8, I16, I32, I64: the stored values themselves, shape (n, 1)."""
    values: npt.NDArray[Any] = blocks["x"][:, None]
    return values.astype(values.dtype.newbyteorder("="))


def decode_float(blocks: Blocks) -> Floats:
    """F32, F16: the stored values as float32 (exact)."""
    values: Floats = blocks["x"].astype(np.float32)
    return values[:, None]


def decode_bf16(blocks: Blocks) -> Floats:
    """BF16: the upper 16 bits of a float32 (exact)."""
    bits = blocks["x"].astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)[:, None]
