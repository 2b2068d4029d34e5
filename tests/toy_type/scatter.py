"""Goes to gguflike/kernels/matmul/toy.py."""

from __future__ import annotations

from gguflike.blocks import FORMATS
from gguflike.kernels.matmul.scatter import Lane, read_u8, read_u16, write_u8, write_u16

TOY = FORMATS["TOY"].offsets


def scatter_toy(block: int, to: Lane) -> None:
    """Moves the scale and 32 codes."""
    write_u16(to.scales, read_u16(block + TOY.d))
    for i in range(32):
        write_u8(to.codes + i, (read_u8(block + TOY.qs + i // 2) >> (4 * (i % 2))) & 15)
