"""Super-blocks of 256 weights with small integer scales per sub-block: Q2_K to Q6_K."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.blocks.bits import bit_planes, column, repeat

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks.bits import Blocks, Floats

SCALE_OFFSET = np.float32(32)  # 6-bit scales of Q3_K are stored with this bias, as are the codes of Q6_K


def six_bit_scales_mins(packed: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Unpacks the scales and mins (0..63) of Q4_K and Q5_K: uint8 (n, 12) -> two of (n, 8).

    Sub-blocks 0-3 keep scale and min in the low 6 bits of bytes 0-3 and 4-7; the top 2 bits of those bytes are the top
    bits of sub-blocks 4-7, whose low nibbles share bytes 8-11 (scale low, min high).
    """
    first, second, nibbles = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    low6, low4 = np.uint8(63), np.uint8(15)
    scales = np.concatenate([first & low6, (nibbles & low4) | (first >> 6 << 4)], axis=1)
    mins = np.concatenate([second & low6, (nibbles >> 4) | (second >> 6 << 4)], axis=1)
    return scales, mins


def six_bit_scales(packed: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Unpacks the scales of Q3_K, still biased by 32: uint8 (n, 12) -> (n, 16).

    Low nibbles are in bytes 0-7, top bits in bytes 8-11.
    """
    return bit_planes(packed[:, :8], 4, 8) | (bit_planes(packed[:, 8:], 2, 4) << np.uint8(4))


def decode_q2_k(blocks: Blocks) -> Floats:
    """Decodes Q2_K to float32 (n, 256): ``d * scale * q - dmin * min``."""
    scales = blocks["scales"]  # (n, 16), scale in the low nibble, min in the high
    scale = column(blocks["d"]) * (scales & 15).astype(np.float32)
    minimum = column(blocks["dmin"]) * (scales >> 4).astype(np.float32)
    codes = bit_planes(blocks["qs"], 2, 32).astype(np.float32)  # (n, 256)
    return repeat(scale, 16) * codes - repeat(minimum, 16)


def decode_q3_k(blocks: Blocks) -> Floats:
    """Decodes Q3_K to float32 (n, 256): ``d * (scale - 32) * (q - 4)``."""
    scale = column(blocks["d"]) * (six_bit_scales(blocks["scales"]).astype(np.float32) - SCALE_OFFSET)
    low = bit_planes(blocks["qs"], 2, 32).astype(np.float32)
    # A clear mask bit means "subtract 4": the codes run from -4 to 3.
    high = bit_planes(blocks["hmask"], 1, 32).astype(np.float32)
    codes = low + np.float32(4) * high - np.float32(4)
    return repeat(scale, 16) * codes


def decode_q4_k(blocks: Blocks) -> Floats:
    """Decodes Q4_K to float32 (n, 256): ``d * scale * q - dmin * min``."""
    scales, mins = six_bit_scales_mins(blocks["scales"])
    scale = column(blocks["d"]) * scales.astype(np.float32)
    minimum = column(blocks["dmin"]) * mins.astype(np.float32)
    codes = bit_planes(blocks["qs"], 4, 32).astype(np.float32)
    return repeat(scale, 32) * codes - repeat(minimum, 32)


def decode_q5_k(blocks: Blocks) -> Floats:
    """Decodes Q5_K to float32 (n, 256): ``d * scale * q - dmin * min``."""
    scales, mins = six_bit_scales_mins(blocks["scales"])
    scale = column(blocks["d"]) * scales.astype(np.float32)
    minimum = column(blocks["dmin"]) * mins.astype(np.float32)
    codes = bit_planes(blocks["qs"], 4, 32) | (bit_planes(blocks["qh"], 1, 32) << np.uint8(4))
    return repeat(scale, 32) * codes.astype(np.float32) - repeat(minimum, 32)


def decode_q6_k(blocks: Blocks) -> Floats:
    """Decodes Q6_K to float32 (n, 256): ``d * scale * (q - 32)``."""
    scale = column(blocks["d"]) * blocks["scales"].astype(np.float32)  # (n, 16), signed scales
    codes = bit_planes(blocks["ql"], 4, 64) | (bit_planes(blocks["qh"], 2, 32) << np.uint8(4))
    return repeat(scale, 16) * (codes.astype(np.float32) - SCALE_OFFSET)
