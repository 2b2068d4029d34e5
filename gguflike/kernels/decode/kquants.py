"""Decoding of the K types: super-blocks of 256 weights with small integer scales per sub-block.

Arguments as in simple.py. Weights are written in ascending order: memory is the limit, and it likes one stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.lanes import to_float
from gguflike.kernels.vector.memory import (
    load_f16,
    load_f32,
    load_i8x16,
    load_u8x16,
    load_u32,
    load_u64,
    spill,
    store_ahead,
)
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import u8x16_of

# Byte offsets of the fields of a block.
Q2_K = FORMATS["Q2_K"].offsets
Q3_K = FORMATS["Q3_K"].offsets
Q4_K = FORMATS["Q4_K"].offsets
Q5_K = FORMATS["Q5_K"].offsets
Q6_K = FORMATS["Q6_K"].offsets

_LOW6, _TOP2, _LOW2 = np.uint64(0x3F3F3F3F), np.uint64(0x30303030), np.uint64(0x03030303)
_LOW4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_2, _4, _6, _8, _32, _255 = (np.uint64(n) for n in (2, 4, 6, 8, 32, 255))


@jit
def decode_q2_k(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q2_K: ``d * scale * q - dmin * min``."""
    for block in range(start, stop):
        at, out = source + block * Q2_K.block_bytes, target + block * Q2_K.float_bytes
        nibbles = load_u8x16(at + Q2_K.scales)
        scales = spill(to_float(nibbles & 15) * load_f16(at + Q2_K.d))
        mins = spill(to_float(nibbles >> 4) * load_f16(at + Q2_K.dmin))
        for group in range(2):
            for plane in range(4):
                for part in range(2):
                    sub = 8 * group + 2 * plane + part
                    q = (load_u8x16(at + Q2_K.qs + 32 * group + 16 * part) >> (2 * plane)) & 3
                    store_ahead(out + 64 * sub, to_float(q) * load_f32(scales + 4 * sub) - load_f32(mins + 4 * sub))


@jit
def decode_q3_k(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q3_K: ``d * (scale - 32) * (q - 4)``."""
    for block in range(start, stop):
        at, out = source + block * Q3_K.block_bytes, target + block * Q3_K.float_bytes
        nibbles, tops = load_u64(at + Q3_K.scales), load_u32(at + Q3_K.scales + 8)
        low = (nibbles & _LOW4) | (tops & _LOW2 | (tops >> _2 & _LOW2) << _32) << _4
        high = (nibbles >> _4 & _LOW4) | (tops >> _4 & _LOW2 | (tops >> _6 & _LOW2) << _32) << _4
        scales = spill(to_float(u8x16_of(low, high) - 32) * load_f16(at + Q3_K.d))
        for group in range(2):
            for plane in range(4):
                for part in range(2):
                    sub = 8 * group + 2 * plane + part
                    q = (load_u8x16(at + Q3_K.qs + 32 * group + 16 * part) >> (2 * plane)) & 3
                    kept = (load_u8x16(at + Q3_K.hmask + 16 * part) >> (4 * group + plane)) & 1
                    store_ahead(out + 64 * sub, to_float(q + (kept << 2) - 4) * load_f32(scales + 4 * sub))


@jit
def six_bit_scales(packed: Address) -> Any:
    """Unpacks the 8 scales of Q4_K and Q5_K from the 12 bytes at an address to the bytes of one word."""
    first, nibbles = load_u32(packed), load_u32(packed + 8)
    return (first & _LOW6) | ((nibbles & _LOW4) | (first >> _2 & _TOP2)) << _32


@jit
def six_bit_mins(packed: Address) -> Any:
    """Unpacks the 8 mins of Q4_K and Q5_K from the 12 bytes at an address to the bytes of one word."""
    second, nibbles = load_u32(packed + 4), load_u32(packed + 8)
    return (second & _LOW6) | ((nibbles >> _4 & _LOW4) | (second >> _2 & _TOP2)) << _32


@jit
def decode_q4_k(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q4_K: ``d * scale * q - dmin * min``."""
    for block in range(start, stop):
        at, out = source + block * Q4_K.block_bytes, target + block * Q4_K.float_bytes
        d, dmin = load_f16(at + Q4_K.d), load_f16(at + Q4_K.dmin)
        scales, mins = six_bit_scales(at + Q4_K.scales), six_bit_mins(at + Q4_K.scales)
        for pair in range(4):
            scale0, minimum0 = d * np.float32(scales & _255), dmin * np.float32(mins & _255)
            scales, mins = scales >> _8, mins >> _8
            scale1, minimum1 = d * np.float32(scales & _255), dmin * np.float32(mins & _255)
            scales, mins = scales >> _8, mins >> _8
            q0, q1 = load_u8x16(at + Q4_K.qs + 32 * pair), load_u8x16(at + Q4_K.qs + 16 + 32 * pair)
            store_ahead(out + 256 * pair, to_float(q0 & 15) * scale0 - minimum0)
            store_ahead(out + 256 * pair + 64, to_float(q1 & 15) * scale0 - minimum0)
            store_ahead(out + 256 * pair + 128, to_float(q0 >> 4) * scale1 - minimum1)
            store_ahead(out + 256 * pair + 192, to_float(q1 >> 4) * scale1 - minimum1)


@jit
def decode_q5_k(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q5_K: ``d * scale * q - dmin * min``."""
    for block in range(start, stop):
        at, out = source + block * Q5_K.block_bytes, target + block * Q5_K.float_bytes
        d, dmin = load_f16(at + Q5_K.d), load_f16(at + Q5_K.dmin)
        scales, mins = six_bit_scales(at + Q5_K.scales), six_bit_mins(at + Q5_K.scales)
        high0, high1 = load_u8x16(at + Q5_K.qh), load_u8x16(at + Q5_K.qh + 16)
        for pair in range(4):
            scale0, minimum0 = d * np.float32(scales & _255), dmin * np.float32(mins & _255)
            scales, mins = scales >> _8, mins >> _8
            scale1, minimum1 = d * np.float32(scales & _255), dmin * np.float32(mins & _255)
            scales, mins = scales >> _8, mins >> _8
            low0, low1 = load_u8x16(at + Q5_K.qs + 32 * pair), load_u8x16(at + Q5_K.qs + 16 + 32 * pair)
            store_ahead(out + 256 * pair, to_float(low0 & 15 | (high0 & 1) << 4) * scale0 - minimum0)
            store_ahead(out + 256 * pair + 64, to_float(low1 & 15 | (high1 & 1) << 4) * scale0 - minimum0)
            store_ahead(out + 256 * pair + 128, to_float(low0 >> 4 | (high0 & 2) << 3) * scale1 - minimum1)
            store_ahead(out + 256 * pair + 192, to_float(low1 >> 4 | (high1 & 2) << 3) * scale1 - minimum1)
            high0, high1 = high0 >> 2, high1 >> 2


@jit
def decode_q6_k(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q6_K: ``d * scale * (q - 32)``."""
    for block in range(start, stop):
        at, out = source + block * Q6_K.block_bytes, target + block * Q6_K.float_bytes
        scales = spill(to_float(load_i8x16(at + Q6_K.scales)) * load_f16(at + Q6_K.d))
        for group in range(2):
            for plane in range(4):  # 32 weights each: low nibbles of 64 bytes, then the high ones
                for part in range(2):
                    low = load_u8x16(at + Q6_K.ql + 64 * group + 32 * (plane % 2) + 16 * part) >> (plane // 2 * 4) & 15
                    high = load_u8x16(at + Q6_K.qh + 32 * group + 16 * part) >> (2 * plane) & 3
                    sub = 8 * group + 2 * plane + part
                    store_ahead(out + 64 * sub, to_float((low | high << 4) - 32) * load_f32(scales + 4 * sub))
