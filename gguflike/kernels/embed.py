"""Embedding lookup: rows of a quantized matrix, decoded for the tokens of a pass.

``by_type.embed:<type>``: items are tokens; argument words: ``EMBED`` (args.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguflike.kernels.args import EMBED
from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.vector.memory import load_i32
from gguflike.kernels.vector.types import Address


def embed_op(decode: Any) -> Callable[[Address, Address, int, int], None]:
    """Return the op that decodes rows by the jitted kernel ``decode``."""

    def embed(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(EMBED, args)
        for token in range(start, stop):
            row = a.rows + load_i32(a.ids + 4 * token) * a.row_bytes
            decode(0, a.blocks, row, a.out + 4 * a.columns * token)

    return embed
