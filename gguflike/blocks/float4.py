"""4-bit floats (E2M1) with small floating-point scales: MXFP4 and NVFP4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.blocks.bits import bit_planes, repeat

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks.bits import Blocks, Floats

# E2M1 (OCP Microscaling Formats 1.0) doubled, so that the levels are integers; the scales carry the factor 1/2.
E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int8)
UE4M3_NAN = 0x7F


def half_e8m0(exponent: npt.NDArray[Any]) -> Floats:
    """Gives half of the E8M0 scale, 2**(e - 128), exactly: it is subnormal for e < 2.

    The code 255, E8M0's NaN, gives 2**127 as in ggml.
    """
    bits = np.where(
        exponent < 2,
        np.uint32(1 << 21) << exponent.astype(np.uint32),
        (exponent.astype(np.uint32) - np.uint32(1)) << np.uint32(23),
    )
    return bits.astype(np.uint32).view(np.float32)


def half_ue4m3(code: npt.NDArray[Any]) -> Floats:
    """Gives half of an unsigned E4M3 scale (bias 7). The top bit is ignored, and 0x7F (NaN in E4M3) counts as zero."""
    exponent = ((code >> 3) & 15).astype(np.int32)
    mantissa = (code & 7).astype(np.float32)
    normal = np.ldexp(np.float32(1) + mantissa / np.float32(8), exponent - 8)
    subnormal = mantissa * np.float32(2**-10)
    value = np.where(exponent == 0, subnormal, normal).astype(np.float32)
    return np.where(code == UE4M3_NAN, np.float32(0), value)


def decode_mxfp4(blocks: Blocks) -> Floats:
    """Decodes MXFP4 to float32 (n, 32): ``2**(e - 128) * level[q]``."""
    levels = E2M1_DOUBLED[bit_planes(blocks["qs"], 4, 16)]
    return half_e8m0(blocks["e"])[:, None] * levels.astype(np.float32)


def decode_nvfp4(blocks: Blocks) -> Floats:
    """Decodes NVFP4 to float32 (n, 64): ``ue4m3(d) / 2 * level[q]``."""
    levels = E2M1_DOUBLED[bit_planes(blocks["qs"], 4, 8)]  # (n, 64)
    return repeat(half_ue4m3(blocks["d"]), 16) * levels.astype(np.float32)
