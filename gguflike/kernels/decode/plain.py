"""Decoding of types without blocks that run on lanes: F32, F16, BF16. Integers and F64 are numpy casts."""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.address import load_half_lanes, load_lanes
from gguflike.kernels.vector.half import f16_to_f32
from gguflike.kernels.vector.lanes import from_bits
from gguflike.kernels.vector.packed import f32, store1, store16, u16, words16


@jit
def decode_f32(start: int, stop: int, source: int, target: int) -> None:
    whole = start + (stop - start) // 16 * 16
    for i in range(start, whole, 16):
        store16(target + 4 * i, load_lanes(source + 4 * i))
    for i in range(whole, stop):
        store1(target + 4 * i, f32(source + 4 * i))


@jit
def decode_f16(start: int, stop: int, source: int, target: int) -> None:
    whole = start + (stop - start) // 16 * 16
    for i in range(start, whole, 16):
        store16(target + 4 * i, load_half_lanes(source + 2 * i))
    for i in range(whole, stop):
        store1(target + 4 * i, f16_to_f32(np.uint16(u16(source + 2 * i))))


@jit
def decode_bf16(start: int, stop: int, source: int, target: int) -> None:
    whole = start + (stop - start) // 16 * 16
    for i in range(start, whole, 16):
        store16(target + 4 * i, from_bits(words16(source + 2 * i) << 16))
    for i in range(whole, stop):
        store1(target + 4 * i, np.uint32(u16(source + 2 * i) << np.uint64(16)).view(np.float32))
