"""Goes to gguflike/kernels/decode/toy.py."""

from __future__ import annotations

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.memory import load_f16, load_u8, store_f32

TOY = FORMATS["TOY"].offsets


@jit
def decode_toy(start: int, stop: int, source: int, target: int) -> None:
    """Decodes TOY: ``d * (q - 8)``."""
    for block in range(start, stop):
        at, out = source + block * TOY.block_bytes, target + block * TOY.float_bytes
        d = load_f16(at + TOY.d)
        for i in range(32):
            code = (np.int64(load_u8(at + TOY.qs + i // 2)) >> (4 * (i % 2))) & 15
            store_f32(out + 4 * i, np.float32(code - 8) * d)
