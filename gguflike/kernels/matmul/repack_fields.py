"""What repacking takes out of one block of each type: scales in their places, and codes where planes differ.

``block`` addresses the file's block, ``record`` the record, ``lane`` is the row in its group, ``codes`` addresses a
byte per weight (repack.py). Places of scales are those of records.py, 16 lanes to each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.blocks import codebooks
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.vector.packed import u8, u16, u32
from gguflike.kernels.vector.simd import I8, I16, Emitter, address, operation, void

Fields = Callable[[int, int, int, int], None]


@operation(void, address, address)
def _put8(e: Emitter, place: Any, value: Any) -> None:
    e.store(e.b.trunc(value, I8), place)


@operation(void, address, address)
def _put16(e: Emitter, place: Any, value: Any) -> None:
    e.store(e.b.trunc(value, I16), place)


@inner
def _byte(place: int) -> Any:
    return np.int64(u8(place))


@inner
def _short(place: int) -> Any:
    return np.int64(u16(place))


@inner
def _word(place: int) -> Any:
    return np.int64(u32(place))


def _one_half(at: int) -> Fields:
    """One float16 at byte ``at`` of the block."""

    def do(block: int, record: int, lane: int, codes: int) -> None:
        _put16(record + 2 * lane, _short(block + at))

    return do


def _two_halves(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block))
    _put16(record + 32 + 2 * lane, _short(block + 2))


def _fifth_bits(at: int, halves: int) -> Fields:
    """Q5_0 and Q5_1: float16 values, then 32 bits, bit j the fifth of weight j."""

    def do(block: int, record: int, lane: int, codes: int) -> None:
        for i in range(halves):
            _put16(record + 32 * i + 2 * lane, _short(block + 2 * i))
        bits = _word(block + at)
        for j in range(32):
            _put8(codes + j, ((bits >> j) & 1) << 4)

    return do


def _q2_k(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block + 80))
    _put16(record + 32 + 2 * lane, _short(block + 82))
    for i in range(16):
        _put8(record + 64 + 16 * i + lane, _byte(block + i))


def _q3_k(block: int, record: int, lane: int, codes: int) -> None:
    """16 scales of 6 bits: low nibbles in 8 bytes, the two high bits in 4."""
    _put16(record + 2 * lane, _short(block + 108))
    for i in range(16):
        low = (_byte(block + 96 + i % 8) >> (4 * (i // 8))) & 15
        high = (_byte(block + 104 + i % 4) >> (2 * (i // 4))) & 3
        _put8(record + 32 + 16 * i + lane, (low | (high << 4)) - 32)


def _q45_k(block: int, record: int, lane: int, codes: int) -> None:
    """Q4_K and Q5_K: 8 scales and 8 minima of 6 bits in 12 bytes, the top bits of the last 4 in the first 4."""
    _put16(record + 2 * lane, _short(block))
    _put16(record + 32 + 2 * lane, _short(block + 2))
    scales, minima = record + 64 + lane, record + 192 + lane
    for i in range(4):
        d, m, both = _byte(block + 4 + i), _byte(block + 8 + i), _byte(block + 12 + i)
        _put8(scales + 16 * i, d & 63)
        _put8(minima + 16 * i, m & 63)
        _put8(scales + 16 * (i + 4), (both & 15) | ((d >> 2) & 48))
        _put8(minima + 16 * (i + 4), (both >> 4) | ((m >> 2) & 48))


def _q6_k(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block + 208))
    for i in range(16):
        _put8(record + 32 + 16 * i + lane, _byte(block + 192 + i))


def _iq4_xs(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block))
    for i in range(8):
        low = (_byte(block + 4 + i // 2) >> (4 * (i % 2))) & 15
        high = (_short(block + 2) >> (2 * i)) & 3
        _put8(record + 32 + 16 * i + lane, (low | (high << 4)) - 32)


def _mxfp4(block: int, record: int, lane: int, codes: int) -> None:
    _put8(record + lane, _byte(block))


def _nvfp4(block: int, record: int, lane: int, codes: int) -> None:
    for i in range(4):
        scale = _byte(block + i)
        # 127 is the NaN of the type and decodes to 0, as ggml has it; the top bit has no meaning.
        _put8(record + 16 * i + lane, 0 if scale == 127 else scale & 127)


def _packed_bits(bits: int) -> Fields:
    """Q1_0, Q2_0: a float16, then codes in the order of the weights, lowest bits first, in 16 bytes."""
    per_byte = 8 // bits

    def do(block: int, record: int, lane: int, codes: int) -> None:
        _put16(record + 2 * lane, _short(block))
        for i in range(16 * per_byte):
            _put8(codes + i, (_byte(block + 2 + i // per_byte) >> (bits * (i % per_byte))) & ((1 << bits) - 1))

    return do


def _tq1_0(block: int, record: int, lane: int, codes: int) -> None:
    """Base-3 fractions: 32 bytes of 5 digits, 16 of 5, 4 of 4; first the first digits of all bytes of a part."""
    _put16(record + 2 * lane, _short(block + 52))
    for first, count, digits in ((0, 32, 5), (32, 16, 5), (48, 4, 4)):
        for i in range(count):
            fraction = _byte(block + first + i)
            for digit in range(digits):
                _put8(codes + 5 * first + count * digit + i, (3 * fraction) >> 8)
                fraction = (3 * fraction) & 255


# Codebooks as codes of records.py's levels: a point's coordinates, one a byte, in one word.


def _points(grid: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """int8 (points, dimension) -> int64 (points,): byte i is the rank of coordinate i among the levels."""
    ranks = np.searchsorted(np.unique(grid), grid).astype(np.uint64)
    shifts = np.arange(grid.shape[1], dtype=np.uint64) * np.uint64(8)
    packed: npt.NDArray[Any] = (ranks << shifts).sum(axis=1, dtype=np.uint64).view(np.int64)
    return packed


_IQ2_XXS, _IQ2_XS, _IQ2_S = _points(codebooks.iq2_xxs()), _points(codebooks.iq2_xs()), _points(codebooks.iq2_s())
_IQ3_XXS, _IQ3_S, _IQ1 = _points(codebooks.iq3_xxs()), _points(codebooks.iq3_s()), _points(codebooks.iq1())
_SIGNS = codebooks.SIGN_PATTERNS.astype(np.int64)


@inner
def _put_point(codes: int, point: int, signs: int, sign_bit: int, count: int) -> None:
    """``count`` codes: a point's coordinates, with ``sign_bit`` where the bit in ``signs`` is set."""
    for i in range(count):
        _put8(codes + i, ((point >> (8 * i)) & 255) | (((signs >> i) & 1) * sign_bit))


def _iq2_xxs(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block))
    for i in range(8):
        points, rest = _word(block + 2 + 8 * i), _word(block + 6 + 8 * i)
        _put8(record + 32 + 16 * i + lane, 2 * (rest >> 28) + 1)
        for j in range(4):
            point = _IQ2_XXS[(points >> (8 * j)) & 255]
            _put_point(codes + 32 * i + 8 * j, point, _SIGNS[(rest >> (7 * j)) & 127], 4, 8)


@inner
def _nibble_scales(source: int, target: int, count: int) -> None:
    """2 s + 1 of ``count`` 4-bit scales s, low half first."""
    for i in range(count):
        _put8(target + 16 * i, 2 * ((_byte(source + i // 2) >> (4 * (i % 2))) & 15) + 1)


def _iq2_xs(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block))
    _nibble_scales(block + 66, record + 32 + lane, 16)
    for i in range(32):
        code = _short(block + 2 + 2 * i)
        _put_point(codes + 8 * i, _IQ2_XS[code & 511], _SIGNS[code >> 9], 4, 8)


def _iq2_s(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block))
    _nibble_scales(block + 74, record + 32 + lane, 16)
    for i in range(32):
        high = (_byte(block + 66 + i // 4) >> (2 * (i % 4))) & 3
        _put_point(codes + 8 * i, _IQ2_S[_byte(block + 2 + i) | (high << 8)], _byte(block + 34 + i), 4, 8)


def _iq3_xxs(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block))
    for i in range(8):
        rest = _word(block + 66 + 4 * i)
        _put8(record + 32 + 16 * i + lane, 2 * (rest >> 28) + 1)
        for j in range(8):
            signs = _SIGNS[(rest >> (7 * (j // 2))) & 127] >> (4 * (j % 2))
            _put_point(codes + 32 * i + 4 * j, _IQ3_XXS[_byte(block + 2 + 8 * i + j)], signs, 8, 4)


def _iq3_s(block: int, record: int, lane: int, codes: int) -> None:
    _put16(record + 2 * lane, _short(block))
    _nibble_scales(block + 106, record + 32 + lane, 8)
    for i in range(64):
        high = (_byte(block + 66 + i // 8) >> (i % 8)) & 1
        signs = _byte(block + 74 + i // 2) >> (4 * (i % 2))
        _put_point(codes + 4 * i, _IQ3_S[_byte(block + 2 + i) | (high << 8)], signs, 8, 4)


def _iq1_s(block: int, record: int, lane: int, codes: int) -> None:
    """Per 32 weights 16 bits: four 3-bit tops of codes, a 3-bit scale, the sign of the delta."""
    _put16(record + 2 * lane, _short(block))
    for i in range(8):
        rest = _short(block + 34 + 2 * i)
        _put8(record + 32 + 16 * i + lane, 2 * ((rest >> 12) & 7) + 1)
        signs = -(rest >> 15)
        for j in range(4):
            code = _byte(block + 2 + 4 * i + j) | (((rest >> (3 * j)) & 7) << 8)
            _put_point(codes + 32 * i + 8 * j, _IQ1[code], signs, 4, 8)


def _iq1_m(block: int, record: int, lane: int, codes: int) -> None:
    """Per 8 weights a 4-bit top: 3 bits of the code, the sign of the delta. d is spread over four words of scales."""
    d = 0
    for i in range(4):
        word = _short(block + 48 + 2 * i)
        d |= (word >> 12) << (4 * i)
        for j in range(4):
            _put8(record + 32 + 16 * (4 * i + j) + lane, 2 * ((word >> (3 * j)) & 7) + 1)
    _put16(record + 2 * lane, d)
    for i in range(32):
        top = (_byte(block + 32 + i // 2) >> (4 * (i % 2))) & 15
        _put_point(codes + 8 * i, _IQ1[_byte(block + i) | ((top & 7) << 8)], -(top >> 3), 4, 8)


FIELDS: Mapping[str, Fields] = {
    "Q4_0": _one_half(0),
    "Q4_1": _two_halves,
    "Q5_0": _fifth_bits(2, 1),
    "Q5_1": _fifth_bits(4, 2),
    "Q8_0": _one_half(0),
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q45_k,
    "Q5_K": _q45_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _one_half(0),
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
    "TQ1_0": _tq1_0,
    "TQ2_0": _one_half(64),
    "Q1_0": _packed_bits(1),
    "Q2_0": _packed_bits(2),
    "IQ2_XXS": _iq2_xxs,
    "IQ2_XS": _iq2_xs,
    "IQ2_S": _iq2_s,
    "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s,
    "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m,
}
