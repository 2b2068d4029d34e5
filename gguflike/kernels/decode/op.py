"""The op of a decoding kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguflike.kernels.decode.args import DECODE
from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.vector.types import Address


def decode_op(kernel: Any) -> Callable[[Address, Address, int, int], None]:
    """Return the op that decodes by the jitted kernel ``kernel``. Items are blocks; words: ``DECODE``."""

    def decode(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(DECODE, args)
        kernel(start, stop, a.source, a.target)

    return decode
