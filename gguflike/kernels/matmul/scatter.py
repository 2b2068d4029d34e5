"""What repacking moves out of one block of each type: scales to their places, and codes where planes are made of them.

A type's ``scatter(block, to)`` reads one row's block at address ``block`` and writes its scales to the row's lane of a
record, and a byte per weight to ``to.codes`` where a plane is made of codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS, codebooks
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.emitter import I8, I16, Emitter
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.memory import load_u8, load_u16, load_u32
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address, Value


class Lane(NamedTuple):
    """Where one row's share of a record is: addresses of its scales, and of the codes, a byte per weight.

    Of several scales or minima of 8 bits, number i stands ``LANES * i`` bytes behind the first. What the type's record
    (records.py) does not have must not be written.
    """

    super_scale: Address  # float16
    super_minimum: Address  # float16
    scales: Address
    minima: Address
    codes: Address


Scatter = Callable[[Address, Lane], None]

# Byte offsets of the fields of a block.
Q4_1 = FORMATS["Q4_1"].offsets
Q5_0 = FORMATS["Q5_0"].offsets
Q5_1 = FORMATS["Q5_1"].offsets
Q2_K = FORMATS["Q2_K"].offsets
Q3_K = FORMATS["Q3_K"].offsets
Q4_K = FORMATS["Q4_K"].offsets
Q5_K = FORMATS["Q5_K"].offsets
Q6_K = FORMATS["Q6_K"].offsets
IQ4_XS = FORMATS["IQ4_XS"].offsets
MXFP4 = FORMATS["MXFP4"].offsets
NVFP4 = FORMATS["NVFP4"].offsets
TQ1_0 = FORMATS["TQ1_0"].offsets
Q1_0 = FORMATS["Q1_0"].offsets
Q2_0 = FORMATS["Q2_0"].offsets
IQ2_XXS = FORMATS["IQ2_XXS"].offsets
IQ2_XS = FORMATS["IQ2_XS"].offsets
IQ2_S = FORMATS["IQ2_S"].offsets
IQ3_XXS = FORMATS["IQ3_XXS"].offsets
IQ3_S = FORMATS["IQ3_S"].offsets
IQ1_S = FORMATS["IQ1_S"].offsets
IQ1_M = FORMATS["IQ1_M"].offsets


@operation(void, int64, int64)
def write_u8(e: Emitter, place: Value, value: Value) -> None:
    """Stores the low 8 bits of an int64."""
    e.store(e.b.trunc(value, I8), place)


@operation(void, int64, int64)
def write_u16(e: Emitter, place: Value, value: Value) -> None:
    """Stores the low 16 bits of an int64."""
    e.store(e.b.trunc(value, I16), place)


@inner
def read_u8(place: Address) -> Any:
    """Loads a byte as int64."""
    return np.int64(load_u8(place))


@inner
def read_u16(place: Address) -> Any:
    """Loads two bytes as int64."""
    return np.int64(load_u16(place))


@inner
def read_u32(place: Address) -> Any:
    """Loads four bytes as int64."""
    return np.int64(load_u32(place))


def _scale_at(at: int) -> Scatter:
    """Make a function that moves the float16 scale at byte ``at`` of the block."""

    def scatter(block: Address, to: Lane) -> None:
        write_u16(to.scales, read_u16(block + at))

    return scatter


scatter_q4_0 = _scale_at(FORMATS["Q4_0"].offsets.d)
scatter_q8_0 = _scale_at(FORMATS["Q8_0"].offsets.d)
scatter_iq4_nl = _scale_at(FORMATS["IQ4_NL"].offsets.d)
scatter_tq2_0 = _scale_at(FORMATS["TQ2_0"].offsets.d)


def scatter_q4_1(block: Address, to: Lane) -> None:
    """Moves a float16 scale and a float16 minimum."""
    write_u16(to.scales, read_u16(block + Q4_1.d))
    write_u16(to.minima, read_u16(block + Q4_1.m))


@inner
def _fifth_bits(place: Address, codes: Address) -> None:
    """Sets bit 4 of 32 codes, bit j of the word at ``place`` that of code j."""
    bits = read_u32(place)
    for j in range(32):
        write_u8(codes + j, ((bits >> j) & 1) << 4)


def scatter_q5_0(block: Address, to: Lane) -> None:
    """Moves a float16 scale and the fifth bits of the codes."""
    write_u16(to.scales, read_u16(block + Q5_0.d))
    _fifth_bits(block + Q5_0.qh, to.codes)


def scatter_q5_1(block: Address, to: Lane) -> None:
    """Moves a float16 scale, a float16 minimum and the fifth bits of the codes."""
    write_u16(to.scales, read_u16(block + Q5_1.d))
    write_u16(to.minima, read_u16(block + Q5_1.m))
    _fifth_bits(block + Q5_1.qh, to.codes)


def scatter_q2_k(block: Address, to: Lane) -> None:
    """Moves d, dmin and 16 bytes, each with a scale and a minimum of 4 bits, as they are."""
    write_u16(to.super_scale, read_u16(block + Q2_K.d))
    write_u16(to.super_minimum, read_u16(block + Q2_K.dmin))
    for i in range(16):
        write_u8(to.scales + LANES * i, read_u8(block + Q2_K.scales + i))


def scatter_q3_k(block: Address, to: Lane) -> None:
    """Moves d and 16 scales of 6 bits: low nibbles in 8 bytes, the two high bits in 4."""
    write_u16(to.super_scale, read_u16(block + Q3_K.d))
    for i in range(16):
        low = (read_u8(block + Q3_K.scales + i % 8) >> (4 * (i // 8))) & 15
        high = (read_u8(block + Q3_K.scales + 8 + i % 4) >> (2 * (i // 4))) & 3
        write_u8(to.scales + LANES * i, (low | (high << 4)) - 32)


@inner
def _six_bit_scales(packed: Address, scales: Address, minima: Address) -> None:
    """Moves 8 scales and 8 minima of 6 bits from 12 bytes, the top bits of the last 4 in the first 4."""
    for i in range(4):
        d, m, both = read_u8(packed + i), read_u8(packed + 4 + i), read_u8(packed + 8 + i)
        write_u8(scales + LANES * i, d & 63)
        write_u8(minima + LANES * i, m & 63)
        write_u8(scales + LANES * (i + 4), (both & 15) | ((d >> 2) & 48))
        write_u8(minima + LANES * (i + 4), (both >> 4) | ((m >> 2) & 48))


def scatter_q4_k(block: Address, to: Lane) -> None:
    """Moves d, dmin, 8 scales and 8 minima."""
    write_u16(to.super_scale, read_u16(block + Q4_K.d))
    write_u16(to.super_minimum, read_u16(block + Q4_K.dmin))
    _six_bit_scales(block + Q4_K.scales, to.scales, to.minima)


def scatter_q5_k(block: Address, to: Lane) -> None:
    """Moves d, dmin, 8 scales and 8 minima."""
    write_u16(to.super_scale, read_u16(block + Q5_K.d))
    write_u16(to.super_minimum, read_u16(block + Q5_K.dmin))
    _six_bit_scales(block + Q5_K.scales, to.scales, to.minima)


def scatter_q6_k(block: Address, to: Lane) -> None:
    """Moves d and 16 scales of 8 bits."""
    write_u16(to.super_scale, read_u16(block + Q6_K.d))
    for i in range(16):
        write_u8(to.scales + LANES * i, read_u8(block + Q6_K.scales + i))


def scatter_iq4_xs(block: Address, to: Lane) -> None:
    """Moves d and 8 scales of 6 bits: low nibbles in 4 bytes, the two high bits in 16 bits."""
    write_u16(to.super_scale, read_u16(block + IQ4_XS.d))
    for i in range(8):
        low = (read_u8(block + IQ4_XS.scales_l + i // 2) >> (4 * (i % 2))) & 15
        high = (read_u16(block + IQ4_XS.scales_h) >> (2 * i)) & 3
        write_u8(to.scales + LANES * i, (low | (high << 4)) - 32)


def scatter_mxfp4(block: Address, to: Lane) -> None:
    """Moves an E8M0 scale."""
    write_u8(to.scales, read_u8(block + MXFP4.e))


def scatter_nvfp4(block: Address, to: Lane) -> None:
    """Moves 4 UE4M3 scales."""
    for i in range(4):
        scale = read_u8(block + NVFP4.d + i)
        # 127 is the NaN of the type and decodes to 0, as ggml has it; the top bit has no meaning.
        write_u8(to.scales + LANES * i, 0 if scale == 127 else scale & 127)


def scatter_q1_0(block: Address, to: Lane) -> None:
    """Moves a float16 scale and 128 codes of 1 bit, in the order of the weights, lowest bits first."""
    write_u16(to.scales, read_u16(block + Q1_0.d))
    for i in range(128):
        write_u8(to.codes + i, (read_u8(block + Q1_0.qs + i // 8) >> (i % 8)) & 1)


def scatter_q2_0(block: Address, to: Lane) -> None:
    """Moves a float16 scale and 64 codes of 2 bits, in the order of the weights, lowest bits first."""
    write_u16(to.scales, read_u16(block + Q2_0.d))
    for i in range(64):
        write_u8(to.codes + i, (read_u8(block + Q2_0.qs + i // 4) >> (2 * (i % 4))) & 3)


def scatter_tq1_0(block: Address, to: Lane) -> None:
    """Moves a float16 scale and 256 codes: base-3 digits, 5 in each of 32 bytes, 5 in 16, 4 in 4.

    First come the first digits of all bytes of a part.
    """
    write_u16(to.scales, read_u16(block + TQ1_0.d))
    for first, count, digits in ((0, 32, 5), (32, 16, 5), (48, 4, 4)):
        for i in range(count):
            fraction = read_u8(block + TQ1_0.qs + first + i)
            for digit in range(digits):
                write_u8(to.codes + 5 * first + count * digit + i, (3 * fraction) >> 8)
                fraction = (3 * fraction) & 255


# Codebooks as codes of the records' levels (kernels/table.py): a point's coordinates, one a byte, in one word.


def _points(grid: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Packs int8 (points, dimension) into int64 (points,): byte i is the rank of coordinate i among the levels."""
    ranks = np.searchsorted(np.unique(grid), grid).astype(np.uint64)
    shifts = np.arange(grid.shape[1], dtype=np.uint64) * np.uint64(8)
    packed: npt.NDArray[Any] = (ranks << shifts).sum(axis=1, dtype=np.uint64).view(np.int64)
    return packed


_IQ2_XXS, _IQ2_XS, _IQ2_S = _points(codebooks.iq2_xxs()), _points(codebooks.iq2_xs()), _points(codebooks.iq2_s())
_IQ3_XXS, _IQ3_S, _IQ1 = _points(codebooks.iq3_xxs()), _points(codebooks.iq3_s()), _points(codebooks.iq1())
_SIGNS = codebooks.SIGN_PATTERNS.astype(np.int64)


@inner
def _put_point(codes: Address, point: int, signs: int, sign_bit: int, count: int) -> None:
    """Writes ``count`` codes: a point's coordinates, with ``sign_bit`` where the bit in ``signs`` is set."""
    for i in range(count):
        write_u8(codes + i, ((point >> (8 * i)) & 255) | (((signs >> i) & 1) * sign_bit))


def scatter_iq2_xxs(block: Address, to: Lane) -> None:
    """Moves d, 8 scales and 32 points: per 32 weights four 8-bit codes, then 7 bits of signs four times and a scale."""
    write_u16(to.super_scale, read_u16(block + IQ2_XXS.d))
    for i in range(8):
        words = block + IQ2_XXS.qs + 8 * i
        points, rest = read_u32(words), read_u32(words + 4)
        write_u8(to.scales + LANES * i, 2 * (rest >> 28) + 1)
        for j in range(4):
            point = _IQ2_XXS[(points >> (8 * j)) & 255]
            _put_point(to.codes + 32 * i + 8 * j, point, _SIGNS[(rest >> (7 * j)) & 127], 4, 8)


@inner
def _nibble_scales(source: Address, target: Address, count: int) -> None:
    """Writes 2 s + 1 of ``count`` 4-bit scales s, low half first."""
    for i in range(count):
        write_u8(target + LANES * i, 2 * ((read_u8(source + i // 2) >> (4 * (i % 2))) & 15) + 1)


def scatter_iq2_xs(block: Address, to: Lane) -> None:
    """Moves d, 16 scales and 32 points: 9 bits of code and 7 of signs each."""
    write_u16(to.super_scale, read_u16(block + IQ2_XS.d))
    _nibble_scales(block + IQ2_XS.scales, to.scales, 16)
    for i in range(32):
        code = read_u16(block + IQ2_XS.qs + 2 * i)
        _put_point(to.codes + 8 * i, _IQ2_XS[code & 511], _SIGNS[code >> 9], 4, 8)


def scatter_iq2_s(block: Address, to: Lane) -> None:
    """Moves d, 16 scales and 32 points: 32 bytes of codes' low bits, 32 of signs; two high bits of each code in qh."""
    write_u16(to.super_scale, read_u16(block + IQ2_S.d))
    _nibble_scales(block + IQ2_S.scales, to.scales, 16)
    for i in range(32):
        low, signs = read_u8(block + IQ2_S.qs + i), read_u8(block + IQ2_S.qs + 32 + i)
        high = (read_u8(block + IQ2_S.qh + i // 4) >> (2 * (i % 4))) & 3
        _put_point(to.codes + 8 * i, _IQ2_S[low | (high << 8)], signs, 4, 8)


def scatter_iq3_xxs(block: Address, to: Lane) -> None:
    """Moves d, 8 scales and 64 points: 64 bytes of codes, then per 32 weights four times 7 signs and a scale."""
    write_u16(to.super_scale, read_u16(block + IQ3_XXS.d))
    for i in range(8):
        rest = read_u32(block + IQ3_XXS.qs + 64 + 4 * i)
        write_u8(to.scales + LANES * i, 2 * (rest >> 28) + 1)
        for j in range(8):
            signs = _SIGNS[(rest >> (7 * (j // 2))) & 127] >> (4 * (j % 2))
            _put_point(to.codes + 32 * i + 4 * j, _IQ3_XXS[read_u8(block + IQ3_XXS.qs + 8 * i + j)], signs, 8, 4)


def scatter_iq3_s(block: Address, to: Lane) -> None:
    """Moves d, 8 scales and 64 points, the ninth bit of each code in qh."""
    write_u16(to.super_scale, read_u16(block + IQ3_S.d))
    _nibble_scales(block + IQ3_S.scales, to.scales, 8)
    for i in range(64):
        high = (read_u8(block + IQ3_S.qh + i // 8) >> (i % 8)) & 1
        signs = read_u8(block + IQ3_S.signs + i // 2) >> (4 * (i % 2))
        _put_point(to.codes + 4 * i, _IQ3_S[read_u8(block + IQ3_S.qs + i) | (high << 8)], signs, 8, 4)


def scatter_iq1_s(block: Address, to: Lane) -> None:
    """Moves d, 8 scales and 32 points; qh holds per 32 weights four 3-bit tops of codes, a scale, the delta's sign."""
    write_u16(to.super_scale, read_u16(block + IQ1_S.d))
    for i in range(8):
        rest = read_u16(block + IQ1_S.qh + 2 * i)
        write_u8(to.scales + LANES * i, 2 * ((rest >> 12) & 7) + 1)
        signs = -(rest >> 15)
        for j in range(4):
            code = read_u8(block + IQ1_S.qs + 4 * i + j) | (((rest >> (3 * j)) & 7) << 8)
            _put_point(to.codes + 32 * i + 8 * j, _IQ1[code], signs, 4, 8)


def scatter_iq1_m(block: Address, to: Lane) -> None:
    """Moves d, 16 scales and 32 points; qh holds per point a nibble, 3 top bits of its code and the delta's sign.

    d is in the top bits of the four words of scales.
    """
    d = 0
    for i in range(4):
        word = read_u16(block + IQ1_M.scales + 2 * i)
        d |= (word >> 12) << (4 * i)
        for j in range(4):
            write_u8(to.scales + LANES * (4 * i + j), 2 * ((word >> (3 * j)) & 7) + 1)
    write_u16(to.super_scale, d)
    for i in range(32):
        top = (read_u8(block + IQ1_M.qh + i // 2) >> (4 * (i % 2))) & 15
        _put_point(to.codes + 8 * i, _IQ1[read_u8(block + IQ1_M.qs + i) | ((top & 7) << 8)], -(top >> 3), 4, 8)
