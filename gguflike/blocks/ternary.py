"""Codes -1, 0, +1 times one scale per 256 weights: TQ1_0 (base 3, 1.69 bits) and TQ2_0 (2 bits)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.blocks.bits import bit_planes, column

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks.bits import Blocks, Floats


def trits(packed: npt.NDArray[Any], digits: int, run: int) -> npt.NDArray[np.uint8]:
    """Unpacks base-3 digits in planes of ``run`` bytes: uint8 (n, bytes) -> (n, bytes * digits), highest first.

    A byte b stands for the fraction b/256 of the digits' range, rounded up, so that digit k is the integer part of
    3 * frac(b * 3**k / 256): all in 8-bit arithmetic, no division.
    """
    n = packed.shape[0]
    powers = (3 ** np.arange(digits)).astype(np.uint8)
    fractions = packed.reshape(n, packed.shape[1] // run, 1, run) * powers[:, None]  # wraps modulo 256 on purpose
    return ((fractions.astype(np.uint16) * np.uint16(3)) >> 8).astype(np.uint8).reshape(n, packed.shape[1] * digits)


def decode_tq1_0(blocks: Blocks) -> Floats:
    """Decodes TQ1_0 to float32 (n, 256): ``d * (q - 1)``."""
    qs = blocks["qs"]
    parts = [trits(qs[:, :32], 5, 32), trits(qs[:, 32:], 5, 16), trits(blocks["qh"], 4, 4)]  # 160 + 80 + 16
    codes = np.concatenate(parts, axis=1)
    return column(blocks["d"]) * (codes.astype(np.float32) - np.float32(1))


def decode_tq2_0(blocks: Blocks) -> Floats:
    """Decodes TQ2_0 to float32 (n, 256): ``d * (q - 1)``.

    Code 3 never comes from an encoder; it decodes to +2 * d.
    """
    codes = bit_planes(blocks["qs"], 2, 32)
    return column(blocks["d"]) * (codes.astype(np.float32) - np.float32(1))
