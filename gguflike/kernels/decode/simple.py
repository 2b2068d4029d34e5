"""Decoding of types with one scale per block: legacy, ternary and 4-bit float types.

Every kernel decodes blocks ``start`` to ``stop`` of the blocks at address ``source`` into the float32 values at
address ``target``. The block layouts and formulas are those of ``gguflike/blocks``, field by field.
"""

from __future__ import annotations

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.blocks.float4 import E2M1_DOUBLED, half_ue4m3
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.lanes import splat, splat_i32, to_float, where
from gguflike.kernels.vector.memory import (
    load_f16,
    load_f32,
    load_i8x16,
    load_u8,
    load_u8x16,
    load_u16,
    load_u32,
    load_u64,
    store_ahead,
)
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import lookup, mask_of, u2x16_of, u8x4_of, u8x16_of

# Byte offsets of the fields of a block.
Q4_0 = FORMATS["Q4_0"].offsets
Q4_1 = FORMATS["Q4_1"].offsets
Q5_0 = FORMATS["Q5_0"].offsets
Q5_1 = FORMATS["Q5_1"].offsets
Q8_0 = FORMATS["Q8_0"].offsets
Q8_1 = FORMATS["Q8_1"].offsets
Q8_K = FORMATS["Q8_K"].offsets
Q1_0 = FORMATS["Q1_0"].offsets
Q2_0 = FORMATS["Q2_0"].offsets
TQ1_0 = FORMATS["TQ1_0"].offsets
TQ2_0 = FORMATS["TQ2_0"].offsets
MXFP4 = FORMATS["MXFP4"].offsets
NVFP4 = FORMATS["NVFP4"].offsets

_U16, _U32 = np.uint64(16), np.uint64(32)
_UE4M3 = half_ue4m3(np.arange(256, dtype=np.uint8))
_POWERS_OF_3 = np.repeat(np.array([1, 3, 9, 27], dtype=np.uint8), 4).view(np.uint64)


@jit
def decode_q4_0(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q4_0: ``d * (q - 8)``."""
    for block in range(start, stop):
        at, out = source + block * Q4_0.block_bytes, target + block * Q4_0.float_bytes
        d = load_f16(at + Q4_0.d)
        q = load_u8x16(at + Q4_0.qs)
        store_ahead(out, to_float((q & 15) - 8) * d)
        store_ahead(out + 64, to_float((q >> 4) - 8) * d)


@jit
def decode_q4_1(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q4_1: ``d * q + m``."""
    for block in range(start, stop):
        at, out = source + block * Q4_1.block_bytes, target + block * Q4_1.float_bytes
        d, m = load_f16(at + Q4_1.d), load_f16(at + Q4_1.m)
        q = load_u8x16(at + Q4_1.qs)
        store_ahead(out, to_float(q & 15) * d + m)
        store_ahead(out + 64, to_float(q >> 4) * d + m)


@jit
def decode_q5_0(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q5_0: ``d * (q - 16)``."""
    for block in range(start, stop):
        at, out = source + block * Q5_0.block_bytes, target + block * Q5_0.float_bytes
        d = load_f16(at + Q5_0.d)
        high = load_u32(at + Q5_0.qh)
        q = load_u8x16(at + Q5_0.qs)
        # Without the fifth bit a code stands 16 lower.
        store_ahead(out, to_float((q & 15) - where(mask_of(high), splat_i32(0), splat_i32(16))) * d)
        store_ahead(out + 64, to_float((q >> 4) - where(mask_of(high >> _U16), splat_i32(0), splat_i32(16))) * d)


@jit
def decode_q5_1(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q5_1: ``d * q + m``."""
    for block in range(start, stop):
        at, out = source + block * Q5_1.block_bytes, target + block * Q5_1.float_bytes
        d, m = load_f16(at + Q5_1.d), load_f16(at + Q5_1.m)
        high = load_u32(at + Q5_1.qh)
        q = load_u8x16(at + Q5_1.qs)
        store_ahead(out, to_float((q & 15) + where(mask_of(high), splat_i32(16), splat_i32(0))) * d + m)
        store_ahead(out + 64, to_float((q >> 4) + where(mask_of(high >> _U16), splat_i32(16), splat_i32(0))) * d + m)


@jit
def decode_q8_0(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q8_0: ``d * q``."""
    for block in range(start, stop):
        at, out = source + block * Q8_0.block_bytes, target + block * Q8_0.float_bytes
        d = load_f16(at + Q8_0.d)
        store_ahead(out, to_float(load_i8x16(at + Q8_0.qs)) * d)
        store_ahead(out + 64, to_float(load_i8x16(at + Q8_0.qs + 16)) * d)


@jit
def decode_q8_1(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q8_1: ``d * q``."""
    for block in range(start, stop):
        at, out = source + block * Q8_1.block_bytes, target + block * Q8_1.float_bytes
        d = load_f16(at + Q8_1.d)
        store_ahead(out, to_float(load_i8x16(at + Q8_1.qs)) * d)
        store_ahead(out + 64, to_float(load_i8x16(at + Q8_1.qs + 16)) * d)


@jit
def decode_q8_k(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q8_K: ``d * q``."""
    for block in range(start, stop):
        at, out = source + block * Q8_K.block_bytes, target + block * Q8_K.float_bytes
        d = load_f32(at + Q8_K.d)
        for i in range(16):
            store_ahead(out + 64 * i, to_float(load_i8x16(at + Q8_K.qs + 16 * i)) * d)


@jit
def decode_q1_0(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q1_0: ``d * (2 * q - 1)``."""
    for block in range(start, stop):
        at, out = source + block * Q1_0.block_bytes, target + block * Q1_0.float_bytes
        d = splat(load_f16(at + Q1_0.d))
        for i in range(8):
            store_ahead(out + 64 * i, where(mask_of(load_u16(at + Q1_0.qs + 2 * i)), d, -d))


@jit
def decode_q2_0(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes Q2_0: ``d * (q - 1)``."""
    for block in range(start, stop):
        at, out = source + block * Q2_0.block_bytes, target + block * Q2_0.float_bytes
        d = load_f16(at + Q2_0.d)
        for i in range(4):
            store_ahead(out + 64 * i, to_float((u2x16_of(load_u32(at + Q2_0.qs + 4 * i)) & 3) - 1) * d)


@jit
def decode_tq1_0(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes TQ1_0: ``d * (q - 1)``."""
    for block in range(start, stop):
        at, out = source + block * TQ1_0.block_bytes, target + block * TQ1_0.float_bytes
        d = load_f16(at + TQ1_0.d)
        # The leading base-3 digit is the integer part of 3 * byte / 256; the fraction holds the others.
        first, second = load_u8x16(at + TQ1_0.qs) * 3, load_u8x16(at + TQ1_0.qs + 16) * 3
        third = load_u8x16(at + TQ1_0.qs + 32) * 3
        for digit in range(5):
            store_ahead(out + 128 * digit, to_float((first >> 8) - 1) * d)
            store_ahead(out + 128 * digit + 64, to_float((second >> 8) - 1) * d)
            first, second = (first & 255) * 3, (second & 255) * 3
        for digit in range(5):
            store_ahead(out + 640 + 64 * digit, to_float((third >> 8) - 1) * d)
            third = (third & 255) * 3
        powers = u8x16_of(_POWERS_OF_3[0], _POWERS_OF_3[1])
        last = (u8x4_of(load_u32(at + TQ1_0.qh)) * powers) & 255
        store_ahead(out + 960, to_float((last * 3 >> 8) - 1) * d)


@jit
def decode_tq2_0(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes TQ2_0: ``d * (q - 1)``."""
    for block in range(start, stop):
        at, out = source + block * TQ2_0.block_bytes, target + block * TQ2_0.float_bytes
        d = load_f16(at + TQ2_0.d)
        for group in range(2):
            for plane in range(4):
                for part in range(2):
                    q = (load_u8x16(at + TQ2_0.qs + 32 * group + 16 * part) >> (2 * plane)) & 3
                    store_ahead(out + 512 * group + 128 * plane + 64 * part, to_float(q - 1) * d)


@jit
def decode_mxfp4(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes MXFP4: ``2**(e - 128) * level[q]``."""
    levels = E2M1_DOUBLED.ctypes.data
    for block in range(start, stop):
        at, out = source + block * MXFP4.block_bytes, target + block * MXFP4.float_bytes
        e = np.uint32(load_u8(at + MXFP4.e))
        # Half of the E8M0 scale: 2**(e - 128), subnormal for e < 2.
        bits = np.uint32(1 << 21) << e if e < np.uint32(2) else (e - np.uint32(1)) << np.uint32(23)
        d = np.uint32(bits).view(np.float32)
        q = load_u8x16(at + MXFP4.qs)
        store_ahead(out, to_float(lookup(levels, q & 15)) * d)
        store_ahead(out + 64, to_float(lookup(levels, q >> 4)) * d)


@jit
def decode_nvfp4(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes NVFP4: ``ue4m3(d) / 2 * level[q]``."""
    levels = E2M1_DOUBLED.ctypes.data
    for block in range(start, stop):
        at, out = source + block * NVFP4.block_bytes, target + block * NVFP4.float_bytes
        for i in range(4):
            codes = load_u64(at + NVFP4.qs + 8 * i)
            q = u8x16_of(codes, codes >> np.uint64(4)) & 15
            store_ahead(out + 64 * i, to_float(lookup(levels, q)) * _UE4M3[load_u8(at + NVFP4.d + i)])
