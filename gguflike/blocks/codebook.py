"""Codes that point into a table of levels or of short vectors: the IQ types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.blocks import codebooks
from gguflike.blocks.bits import bit_planes, column, repeat, signs_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks.bits import Blocks, Floats

IQ1_DELTA = np.float32(0.125)  # IQ1 levels are {-1, 0, 1} moved up or down by this


def decode_iq4_nl(blocks: Blocks) -> Floats:
    """Decodes IQ4_NL to float32 (n, 32): ``d * level[q]``."""
    levels = codebooks.IQ4_LEVELS[bit_planes(blocks["qs"], 4, 16)]
    return column(blocks["d"]) * levels.astype(np.float32)


def decode_iq4_xs(blocks: Blocks) -> Floats:
    """Decodes IQ4_XS to float32 (n, 256): ``d * (scale - 32) * level[q]``."""
    high = (blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)) & np.uint16(3)  # (n, 8)
    scales = bit_planes(blocks["scales_l"], 4, 1) | (high.astype(np.uint8) << np.uint8(4))
    scale = column(blocks["d"]) * (scales.astype(np.float32) - np.float32(32))
    levels = codebooks.IQ4_LEVELS[bit_planes(blocks["qs"], 4, 16)]
    return repeat(scale, 32) * levels.astype(np.float32)


def _vectors(grid: npt.NDArray[Any], codes: npt.NDArray[Any]) -> Floats:
    """Looks up codebook vectors, side by side: codes (n, k) -> float32 (n, k * dimension)."""
    return grid[codes].astype(np.float32).reshape(len(codes), codes.shape[1] * grid.shape[1])


def _scale_and_signs(words: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Splits uint32 (n, 8) into the 4-bit scales on top, (n, 8), and signs, (n, 256).

    Below the scale stand four 7-bit numbers of sign patterns, each for 8 weights.
    """
    patterns = (words[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32)) & np.uint32(127)  # (n, 8, 4)
    signs = signs_of(codebooks.SIGN_PATTERNS[patterns].reshape(len(words), 32))
    return (words >> np.uint32(28)).astype(np.float32), signs


def _quarter_scale(d: npt.NDArray[Any], scales: npt.NDArray[Any]) -> Floats:
    """Gives d * (0.5 + s) / 4, the scales of the IQ2 types: float16 (n,), 4-bit (n, k) -> float32 (n, k)."""
    return column(d) * (np.float32(0.5) + scales.astype(np.float32)) * np.float32(0.25)


def decode_iq2_xxs(blocks: Blocks) -> Floats:
    """Decodes IQ2_XXS to float32 (n, 256): ``d * (0.5 + scale) / 4 * grid[q] * sign``."""
    words = np.ascontiguousarray(blocks["qs"]).view("<u4").reshape(-1, 8, 2)  # (n, 8, 2): codes, then scale and signs
    codes = np.ascontiguousarray(words[:, :, 0]).view(np.uint8)  # (n, 32)
    scales, signs = _scale_and_signs(words[:, :, 1])
    return repeat(_quarter_scale(blocks["d"], scales), 32) * _vectors(codebooks.iq2_xxs(), codes) * signs


def decode_iq2_xs(blocks: Blocks) -> Floats:
    """Decodes IQ2_XS to float32 (n, 256): ``d * (0.5 + scale) / 4 * grid[q] * sign``."""
    codes = blocks["qs"]  # (n, 32): 9-bit vector, 7-bit sign pattern
    signs = signs_of(codebooks.SIGN_PATTERNS[codes >> 9])
    scale = _quarter_scale(blocks["d"], bit_planes(blocks["scales"], 4, 1))  # (n, 16)
    return repeat(scale, 16) * _vectors(codebooks.iq2_xs(), codes & np.uint16(511)) * signs


def decode_iq2_s(blocks: Blocks) -> Floats:
    """Decodes IQ2_S to float32 (n, 256): ``d * (0.5 + scale) / 4 * grid[q] * sign``."""
    low, signs = blocks["qs"][:, :32], signs_of(blocks["qs"][:, 32:])
    codes = low.astype(np.uint16) | (bit_planes(blocks["qh"], 2, 1).astype(np.uint16) << np.uint16(8))
    scale = _quarter_scale(blocks["d"], bit_planes(blocks["scales"], 4, 1))
    return repeat(scale, 16) * _vectors(codebooks.iq2_s(), codes) * signs


def decode_iq3_xxs(blocks: Blocks) -> Floats:
    """Decodes IQ3_XXS to float32 (n, 256): ``d * (0.5 + scale) / 2 * grid[q] * sign``."""
    codes = blocks["qs"][:, :64]  # vectors of 4
    scales, signs = _scale_and_signs(np.ascontiguousarray(blocks["qs"][:, 64:]).view("<u4"))
    scale = column(blocks["d"]) * (np.float32(0.5) + scales) * np.float32(0.5)
    return repeat(scale, 32) * _vectors(codebooks.iq3_xxs(), codes) * signs


def decode_iq3_s(blocks: Blocks) -> Floats:
    """Decodes IQ3_S to float32 (n, 256): ``d * (1 + 2 * scale) * grid[q] * sign``."""
    codes = blocks["qs"].astype(np.uint16) | (bit_planes(blocks["qh"], 1, 1).astype(np.uint16) << np.uint16(8))
    scale = column(blocks["d"]) * (1 + 2 * bit_planes(blocks["scales"], 4, 1)).astype(np.float32)
    return repeat(scale, 32) * _vectors(codebooks.iq3_s(), codes) * signs_of(blocks["signs"])


def _delta(negative: npt.NDArray[Any]) -> Floats:
    """Gives what IQ1 adds to the levels: -1/8 where ``negative``, else 1/8."""
    return np.where(negative, -IQ1_DELTA, IQ1_DELTA)


def decode_iq1_s(blocks: Blocks) -> Floats:
    """Decodes IQ1_S to float32 (n, 256): ``d * (2 * scale + 1) * (grid[q] + delta)``."""
    qh = blocks["qh"]  # (n, 8): four 3-bit tops of codes, 3-bit scale, sign of the delta
    tops = (qh[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16)) & np.uint16(7)  # (n, 8, 4)
    codes = blocks["qs"].astype(np.uint16) | (tops.reshape(-1, 32) << np.uint16(8))
    scale = column(blocks["d"]) * (2 * ((qh >> 12) & 7) + 1).astype(np.float32)
    shifted = _vectors(codebooks.iq1(), codes) + repeat(_delta(qh >> 15), 32)
    return repeat(scale, 32) * shifted


def decode_iq1_m(blocks: Blocks) -> Floats:
    """Decodes IQ1_M to float32 (n, 256): ``d * (2 * scale + 1) * (grid[q] + delta)``."""
    words = np.ascontiguousarray(blocks["scales"]).view("<u2")  # (n, 4): four 3-bit scales, 4 bits of d on top
    d = ((words >> np.uint16(12)) << np.arange(0, 16, 4, dtype=np.uint16)).sum(axis=1, dtype=np.uint16).view(np.float16)
    scales = (words[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16)) & np.uint16(7)  # (n, 4, 4)
    scale = column(d) * (2 * scales.reshape(-1, 16) + 1).astype(np.float32)
    qh = bit_planes(blocks["qh"], 4, 1)  # (n, 32): 3-bit top of the code, sign of the delta
    codes = blocks["qs"].astype(np.uint16) | ((qh & np.uint8(7)).astype(np.uint16) << np.uint16(8))
    shifted = _vectors(codebooks.iq1(), codes) + repeat(_delta(qh >> 3), 8)
    return repeat(scale, 16) * shifted
