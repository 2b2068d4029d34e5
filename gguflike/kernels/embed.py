"""Embedding lookup: rows of a quantized matrix, decoded for the tokens of a pass.

``by_type.embed:<type>``: items are tokens. Words: IDS int32 (tokens,), ROWS address of the file's rows, ROW_BYTES,
BLOCKS (per row), OUT float32 (tokens, COLUMNS), COLUMNS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.vector.memory import load_i32


def embed_op(decode: Any) -> Callable[[int, int, int, int], None]:
    """The op that decodes rows by the jitted kernel ``decode``."""

    def embed(args: int, state: int, start: int, stop: int) -> None:
        ids, rows, row_bytes, blocks = load_word(args), load_word(args + 8), load_word(args + 16), load_word(args + 24)
        out, columns = load_word(args + 32), load_word(args + 40)
        for token in range(start, stop):
            decode(0, blocks, rows + load_i32(ids + 4 * token) * row_bytes, out + 4 * columns * token)

    return embed
