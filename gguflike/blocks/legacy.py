"""One scale for a short run of weights: Q4_0 to Q8_1, Q1_0, Q2_0, Q8_K."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.blocks.bits import bit_planes, column, signs_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks.bits import Blocks, Floats


def decode_q4_0(blocks: Blocks) -> Floats:
    """Decodes Q4_0 to float32 (n, 32): ``d * (q - 8)``."""
    return column(blocks["d"]) * (bit_planes(blocks["qs"], 4, 16).astype(np.float32) - np.float32(8))


def decode_q4_1(blocks: Blocks) -> Floats:
    """Decodes Q4_1 to float32 (n, 32): ``d * q + m``."""
    return column(blocks["d"]) * bit_planes(blocks["qs"], 4, 16).astype(np.float32) + column(blocks["m"])


def _five_bit_codes(blocks: Blocks) -> npt.NDArray[Any]:
    """Joins codes 0..31: low nibbles from ``qs``, the fifth bit of weight j from bit j of ``qh``."""
    high = bit_planes(blocks["qh"], 1, 1)  # (n, 32)
    return bit_planes(blocks["qs"], 4, 16) | (high << np.uint8(4))


def decode_q5_0(blocks: Blocks) -> Floats:
    """Decodes Q5_0 to float32 (n, 32): ``d * (q - 16)``."""
    return column(blocks["d"]) * (_five_bit_codes(blocks).astype(np.float32) - np.float32(16))


def decode_q5_1(blocks: Blocks) -> Floats:
    """Decodes Q5_1 to float32 (n, 32): ``d * q + m``."""
    return column(blocks["d"]) * _five_bit_codes(blocks).astype(np.float32) + column(blocks["m"])


def decode_q8(blocks: Blocks) -> Floats:
    """Decodes Q8_0, Q8_1 (whose ``s`` is only a help for dot products) and Q8_K (whose ``bsums`` is too)."""
    codes: Floats = blocks["qs"].astype(np.float32)
    return codes * column(blocks["d"])


def decode_q1_0(blocks: Blocks) -> Floats:
    """Decodes Q1_0 to float32 (n, 128): ``d * (2 * q - 1)``."""
    return column(blocks["d"]) * -signs_of(blocks["qs"])


def decode_q2_0(blocks: Blocks) -> Floats:
    """Decodes Q2_0 to float32 (n, 64): ``d * (q - 1)``."""
    return column(blocks["d"]) * (bit_planes(blocks["qs"], 2, 1).astype(np.float32) - np.float32(1))
