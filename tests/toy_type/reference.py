"""Goes to gguflike/blocks/toy.py: the readable reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gguflike.blocks.bits import bit_planes, column

if TYPE_CHECKING:
    from gguflike.blocks.bits import Blocks, Floats


def decode_toy(blocks: Blocks) -> Floats:
    """TOY: codes of 4 bits in the order of the weights, low half of a byte first."""
    return column(blocks["d"]) * (bit_planes(blocks["qs"], 4, 1).astype(np.float32) - np.float32(8))
