"""Types without blocks: IEEE floats, bfloat16 and integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks.bits import Blocks, Floats

# The largest values that rounding to nearest does not carry to infinity: just below half a step above the largest
# finite one.
F16_LARGEST = float(np.nextafter(np.float32(65520.0), np.float32(0)))
BF16_LARGEST = float(np.nextafter(np.float32(1.99609375 * 2.0**127), np.float32(0)))


def decode_native(blocks: Blocks) -> npt.NDArray[Any]:
    """Gives the stored values of F64, I8, I16, I32 or I64 themselves, of shape (n, 1)."""
    values: npt.NDArray[Any] = blocks["x"][:, None]
    return values.astype(values.dtype.newbyteorder("="))


def decode_float(blocks: Blocks) -> Floats:
    """Gives the stored values of F32 or F16 as float32 (n, 1), exactly."""
    values: Floats = blocks["x"].astype(np.float32)
    return values[:, None]


def decode_bf16(blocks: Blocks) -> Floats:
    """Decodes BF16 to float32 (n, 1): ``float32 with x as its upper 16 bits``."""
    bits = blocks["x"].astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)[:, None]


def encode_f32(values: Floats) -> npt.NDArray[Any]:
    """Stores float32 as F32, without a copy on little-endian machines."""
    return values.astype("<f4", copy=False)


def encode_f16(values: Floats) -> npt.NDArray[Any]:
    """Stores float32 as F16, rounded to nearest, ties to even."""
    return values.astype("<f2")


def encode_bf16(values: Floats) -> npt.NDArray[Any]:
    """Stores finite float32 as BF16, the upper half of its bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    upper: npt.NDArray[Any] = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")
    return upper
