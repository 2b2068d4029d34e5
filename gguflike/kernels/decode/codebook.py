"""Decoding of the IQ types, whose codes point into tables. Arguments as in simple.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.blocks import codebooks
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.lanes import f16_to_f32, splat, to_float, where
from gguflike.kernels.vector.memory import load_f16, load_u8, load_u8x16, load_u16, load_u32, store_ahead
from gguflike.kernels.vector.unpack import i8x16_of, lookup, mask_of


def _words(points: npt.NDArray[np.int8]) -> npt.NDArray[np.uint64]:
    """The points of a codebook as one word each (8 or 4 bytes, the first coordinate lowest)."""
    dtype = np.uint64 if points.shape[1] == 8 else np.uint32
    return np.ascontiguousarray(points).view(dtype).reshape(-1).astype(np.uint64)


_IQ2_XXS, _IQ2_XS, _IQ2_S = _words(codebooks.iq2_xxs()), _words(codebooks.iq2_xs()), _words(codebooks.iq2_s())
_IQ3_XXS, _IQ3_S = _words(codebooks.iq3_xxs()), _words(codebooks.iq3_s())
_IQ1 = _words(codebooks.iq1())
_LEVELS = codebooks.IQ4_LEVELS
_SIGNS = codebooks.SIGN_PATTERNS.astype(np.uint64)
_0, _1, _2, _3, _4, _7, _8 = (np.uint64(n) for n in (0, 1, 2, 3, 4, 7, 8))
_9, _14, _15, _21, _28, _32 = (np.uint64(n) for n in (9, 14, 15, 21, 28, 32))
_127, _256, _511, _768, _1792 = (np.uint64(n) for n in (127, 256, 511, 768, 1792))
_DELTA = np.float32(0.125)


@jit
def decode_iq4_nl(start: int, stop: int, source: int, target: int) -> None:
    levels = _LEVELS.ctypes.data
    for block in range(start, stop):
        at, out = source + block * 18, target + block * 128
        d = load_f16(at)
        q = load_u8x16(at + 2)
        store_ahead(out, to_float(lookup(levels, q & 15)) * d)
        store_ahead(out + 64, to_float(lookup(levels, q >> 4)) * d)


@jit
def decode_iq4_xs(start: int, stop: int, source: int, target: int) -> None:
    levels = _LEVELS.ctypes.data
    for block in range(start, stop):
        at, out = source + block * 136, target + block * 1024
        d = load_f16(at)
        high, low = load_u16(at + 2), load_u32(at + 4)
        for sub in range(8):
            scale = d * np.float32(np.int64((low & _15) | (high & _3) << _4) - 32)
            high, low = high >> _2, low >> _4
            q = load_u8x16(at + 8 + 16 * sub)
            store_ahead(out + 128 * sub, to_float(lookup(levels, q & 15)) * scale)
            store_ahead(out + 128 * sub + 64, to_float(lookup(levels, q >> 4)) * scale)


@jit
def _store_signed(out: int, low: Any, high: Any, negative: Any, scale: Any) -> None:
    """16 weights: the bytes of two codebook words times ``scale``, minus where the low 16 bits of ``negative`` say."""
    values = to_float(i8x16_of(low, high)) * scale
    store_ahead(out, where(mask_of(negative), -values, values))


@jit
def decode_iq2_xxs(start: int, stop: int, source: int, target: int) -> None:
    for block in range(start, stop):
        at, out = source + block * 66, target + block * 1024
        d = load_f16(at)
        for sub in range(8):
            codes, word = load_u32(at + 2 + 8 * sub), load_u32(at + 6 + 8 * sub)
            scale = d * (np.float32(0.5) + np.float32(word >> _28)) * np.float32(0.25)
            for part in range(2):
                low = _IQ2_XXS[codes & np.uint64(255)]
                high = _IQ2_XXS[codes >> _8 & np.uint64(255)]
                signs = _SIGNS[word & _127] | _SIGNS[word >> _7 & _127] << _8
                _store_signed(out + 128 * sub + 64 * part, low, high, signs, scale)
                codes, word = codes >> np.uint64(16), word >> _14


@jit
def decode_iq2_xs(start: int, stop: int, source: int, target: int) -> None:
    for block in range(start, stop):
        at, out = source + block * 74, target + block * 1024
        d = load_f16(at)
        for sub in range(16):
            s = (load_u8(at + 66 + sub // 2) >> np.uint64(4 * (sub % 2))) & _15
            scale = d * (np.float32(0.5) + np.float32(s)) * np.float32(0.25)
            first, second = load_u16(at + 2 + 4 * sub), load_u16(at + 4 + 4 * sub)
            signs = _SIGNS[first >> _9] | _SIGNS[second >> _9] << _8
            _store_signed(out + 64 * sub, _IQ2_XS[first & _511], _IQ2_XS[second & _511], signs, scale)


@jit
def decode_iq2_s(start: int, stop: int, source: int, target: int) -> None:
    for block in range(start, stop):
        at, out = source + block * 82, target + block * 1024
        d = load_f16(at)
        for sub in range(16):
            shift = np.uint64(4 * (sub % 2))
            s = (load_u8(at + 74 + sub // 2) >> shift) & _15
            scale = d * (np.float32(0.5) + np.float32(s)) * np.float32(0.25)
            tops = load_u8(at + 66 + sub // 2) >> shift
            first = load_u8(at + 2 + 2 * sub) | (tops << _8 & _768)
            second = load_u8(at + 3 + 2 * sub) | (tops << np.uint64(6) & _768)
            _store_signed(out + 64 * sub, _IQ2_S[first], _IQ2_S[second], load_u16(at + 34 + 2 * sub), scale)


@jit
def decode_iq3_xxs(start: int, stop: int, source: int, target: int) -> None:
    for block in range(start, stop):
        at, out = source + block * 98, target + block * 1024
        d = load_f16(at)
        for sub in range(8):
            word = load_u32(at + 66 + 4 * sub)
            scale = d * (np.float32(0.5) + np.float32(word >> _28)) * np.float32(0.5)
            for part in range(2):
                codes = at + 2 + 8 * sub + 4 * part
                low = _IQ3_XXS[load_u8(codes)] | _IQ3_XXS[load_u8(codes + 1)] << _32
                high = _IQ3_XXS[load_u8(codes + 2)] | _IQ3_XXS[load_u8(codes + 3)] << _32
                signs = _SIGNS[word & _127] | _SIGNS[word >> _7 & _127] << _8
                _store_signed(out + 128 * sub + 64 * part, low, high, signs, scale)
                word = word >> _14


@jit
def decode_iq3_s(start: int, stop: int, source: int, target: int) -> None:
    for block in range(start, stop):
        at, out = source + block * 110, target + block * 1024
        d = load_f16(at)
        for sub in range(8):
            s = (load_u8(at + 106 + sub // 2) >> np.uint64(4 * (sub % 2))) & _15
            scale = d * np.float32(_1 + _2 * s)
            tops = load_u8(at + 66 + sub) << _8
            for part in range(2):
                codes = at + 2 + 8 * sub + 4 * part
                low = _IQ3_S[load_u8(codes) | (tops & _256)] | _IQ3_S[load_u8(codes + 1) | (tops >> _1 & _256)] << _32
                high = (
                    _IQ3_S[load_u8(codes + 2) | (tops >> _2 & _256)]
                    | _IQ3_S[load_u8(codes + 3) | (tops >> _3 & _256)] << _32
                )
                _store_signed(out + 128 * sub + 64 * part, low, high, load_u16(at + 74 + 4 * sub + 2 * part), scale)
                tops = tops >> _4


@jit
def decode_iq1_s(start: int, stop: int, source: int, target: int) -> None:
    for block in range(start, stop):
        at, out = source + block * 50, target + block * 1024
        d = load_f16(at)
        for sub in range(8):
            word = load_u16(at + 34 + 2 * sub)
            scale = d * np.float32(_2 * (word >> np.uint64(12) & _7) + _1)
            delta = -_DELTA if word >> _15 else _DELTA
            tops = word << _8
            for part in range(2):
                low = _IQ1[load_u8(at + 2 + 4 * sub + 2 * part) | (tops & _1792)]
                high = _IQ1[load_u8(at + 3 + 4 * sub + 2 * part) | (tops >> _3 & _1792)]
                store_ahead(out + 128 * sub + 64 * part, (to_float(i8x16_of(low, high)) + delta) * scale)
                tops = tops >> np.uint64(6)


@jit
def decode_iq1_m(start: int, stop: int, source: int, target: int) -> None:
    for block in range(start, stop):
        at, out = source + block * 56, target + block * 1024
        d_bits = _0
        for i in range(4):  # the top 4 bits of each word of scales, lowest first
            d_bits |= load_u16(at + 48 + 2 * i) >> np.uint64(12) << np.uint64(4 * i)
        d = f16_to_f32(np.uint16(d_bits))
        for sub in range(16):
            s = (load_u16(at + 48 + sub // 4 * 2) >> np.uint64(sub % 4 * 3)) & _7
            scale = d * np.float32(_2 * s + _1)
            tops = load_u8(at + 32 + sub)  # two nibbles: 3-bit top of the code, sign of the delta
            low = _IQ1[load_u8(at + 2 * sub) | (tops << _8 & _1792)]
            high = _IQ1[load_u8(at + 2 * sub + 1) | (tops << _4 & _1792)]
            # The delta's sign fills the 8 lanes of its half.
            negative = (_0 - (tops >> _3 & _1) & np.uint64(0x00FF)) | (_0 - (tops >> _7) & np.uint64(0xFF00))
            delta = where(mask_of(negative), splat(-_DELTA), splat(_DELTA))
            store_ahead(out + 64 * sub, (to_float(i8x16_of(low, high)) + delta) * scale)
