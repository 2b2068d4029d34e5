"""Decoding of types without blocks that run on lanes: F32, F16, BF16. Integers and F64 are numpy casts."""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.lanes import f16_to_f32, from_bits
from gguflike.kernels.vector.memory import (
    load_f16x16,
    load_f32,
    load_f32x16,
    load_u16,
    load_u16x16,
    store_ahead,
    store_f32,
)
from gguflike.kernels.vector.types import Address


@jit
def decode_f32(start: int, stop: int, source: Address, target: Address) -> None:
    """Copies float32."""
    whole = start + (stop - start) // 16 * 16
    for i in range(start, whole, 16):
        store_ahead(target + 4 * i, load_f32x16(source + 4 * i))
    for i in range(whole, stop):
        store_f32(target + 4 * i, load_f32(source + 4 * i))


@jit
def decode_f16(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes float16, exactly."""
    whole = start + (stop - start) // 16 * 16
    for i in range(start, whole, 16):
        store_ahead(target + 4 * i, load_f16x16(source + 2 * i))
    for i in range(whole, stop):
        store_f32(target + 4 * i, f16_to_f32(np.uint16(load_u16(source + 2 * i))))


@jit
def decode_bf16(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes bfloat16, exactly: its bits are the upper half of a float32's."""
    whole = start + (stop - start) // 16 * 16
    for i in range(start, whole, 16):
        store_ahead(target + 4 * i, from_bits(load_u16x16(source + 2 * i) << 16))
    for i in range(whole, stop):
        store_f32(target + 4 * i, np.uint32(load_u16(source + 2 * i) << np.uint64(16)).view(np.float32))
