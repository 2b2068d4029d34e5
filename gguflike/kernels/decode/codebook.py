"""Decoding of the IQ types, whose codes point into tables. Arguments as in simple.py."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS, codebooks
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.vector.lanes import f16_to_f32, splat, to_float, where
from gguflike.kernels.vector.memory import load_f16, load_u8, load_u8x16, load_u16, load_u32, store_ahead
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import i8x16_of, lookup, mask_of

# Byte offsets of the fields of a block.
IQ4_NL = FORMATS["IQ4_NL"].offsets
IQ4_XS = FORMATS["IQ4_XS"].offsets
IQ2_XXS = FORMATS["IQ2_XXS"].offsets
IQ2_XS = FORMATS["IQ2_XS"].offsets
IQ2_S = FORMATS["IQ2_S"].offsets
IQ3_XXS = FORMATS["IQ3_XXS"].offsets
IQ3_S = FORMATS["IQ3_S"].offsets
IQ1_S = FORMATS["IQ1_S"].offsets
IQ1_M = FORMATS["IQ1_M"].offsets


def _words(points: npt.NDArray[np.int8]) -> npt.NDArray[np.uint64]:
    """Packs each point of a codebook into one word: 8 or 4 bytes, the first coordinate lowest."""
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
def decode_iq4_nl(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ4_NL: ``d * level[q]``."""
    levels = _LEVELS.ctypes.data
    for block in range(start, stop):
        at, out = source + block * IQ4_NL.block_bytes, target + block * IQ4_NL.float_bytes
        d = load_f16(at + IQ4_NL.d)
        q = load_u8x16(at + IQ4_NL.qs)
        store_ahead(out, to_float(lookup(levels, q & 15)) * d)
        store_ahead(out + 64, to_float(lookup(levels, q >> 4)) * d)


@jit
def decode_iq4_xs(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ4_XS: ``d * (scale - 32) * level[q]``."""
    levels = _LEVELS.ctypes.data
    for block in range(start, stop):
        at, out = source + block * IQ4_XS.block_bytes, target + block * IQ4_XS.float_bytes
        d = load_f16(at + IQ4_XS.d)
        high, low = load_u16(at + IQ4_XS.scales_h), load_u32(at + IQ4_XS.scales_l)
        for sub in range(8):
            scale = d * np.float32(np.int64((low & _15) | (high & _3) << _4) - 32)
            high, low = high >> _2, low >> _4
            q = load_u8x16(at + IQ4_XS.qs + 16 * sub)
            store_ahead(out + 128 * sub, to_float(lookup(levels, q & 15)) * scale)
            store_ahead(out + 128 * sub + 64, to_float(lookup(levels, q >> 4)) * scale)


@jit
def _store_signed(out: Address, low: np.uint64, high: np.uint64, negative: np.uint64, scale: np.float32) -> None:
    """Stores the 16 bytes of two codebook words times ``scale``, negated where bits of ``negative`` are set."""
    values = to_float(i8x16_of(low, high)) * scale
    store_ahead(out, where(mask_of(negative), -values, values))


@jit
def decode_iq2_xxs(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ2_XXS: ``d * (0.5 + scale) / 4 * grid[q] * sign``."""
    for block in range(start, stop):
        at, out = source + block * IQ2_XXS.block_bytes, target + block * IQ2_XXS.float_bytes
        d = load_f16(at + IQ2_XXS.d)
        for sub in range(8):
            codes, word = load_u32(at + IQ2_XXS.qs + 8 * sub), load_u32(at + IQ2_XXS.qs + 4 + 8 * sub)
            scale = d * (np.float32(0.5) + np.float32(word >> _28)) * np.float32(0.25)
            for part in range(2):
                low = _IQ2_XXS[codes & np.uint64(255)]
                high = _IQ2_XXS[codes >> _8 & np.uint64(255)]
                signs = _SIGNS[word & _127] | _SIGNS[word >> _7 & _127] << _8
                _store_signed(out + 128 * sub + 64 * part, low, high, signs, scale)
                codes, word = codes >> np.uint64(16), word >> _14


@jit
def decode_iq2_xs(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ2_XS: ``d * (0.5 + scale) / 4 * grid[q] * sign``."""
    for block in range(start, stop):
        at, out = source + block * IQ2_XS.block_bytes, target + block * IQ2_XS.float_bytes
        d = load_f16(at + IQ2_XS.d)
        for sub in range(16):
            s = (load_u8(at + IQ2_XS.scales + sub // 2) >> np.uint64(4 * (sub % 2))) & _15
            scale = d * (np.float32(0.5) + np.float32(s)) * np.float32(0.25)
            first, second = load_u16(at + IQ2_XS.qs + 4 * sub), load_u16(at + IQ2_XS.qs + 2 + 4 * sub)
            signs = _SIGNS[first >> _9] | _SIGNS[second >> _9] << _8
            _store_signed(out + 64 * sub, _IQ2_XS[first & _511], _IQ2_XS[second & _511], signs, scale)


@jit
def decode_iq2_s(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ2_S: ``d * (0.5 + scale) / 4 * grid[q] * sign``."""
    for block in range(start, stop):
        at, out = source + block * IQ2_S.block_bytes, target + block * IQ2_S.float_bytes
        d = load_f16(at + IQ2_S.d)
        for sub in range(16):
            shift = np.uint64(4 * (sub % 2))
            s = (load_u8(at + IQ2_S.scales + sub // 2) >> shift) & _15
            scale = d * (np.float32(0.5) + np.float32(s)) * np.float32(0.25)
            tops = load_u8(at + IQ2_S.qh + sub // 2) >> shift
            first = load_u8(at + IQ2_S.qs + 2 * sub) | (tops << _8 & _768)
            second = load_u8(at + IQ2_S.qs + 1 + 2 * sub) | (tops << np.uint64(6) & _768)
            _store_signed(out + 64 * sub, _IQ2_S[first], _IQ2_S[second], load_u16(at + IQ2_S.qs + 32 + 2 * sub), scale)


@jit
def decode_iq3_xxs(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ3_XXS: ``d * (0.5 + scale) / 2 * grid[q] * sign``."""
    for block in range(start, stop):
        at, out = source + block * IQ3_XXS.block_bytes, target + block * IQ3_XXS.float_bytes
        d = load_f16(at + IQ3_XXS.d)
        for sub in range(8):
            word = load_u32(at + IQ3_XXS.qs + 64 + 4 * sub)
            scale = d * (np.float32(0.5) + np.float32(word >> _28)) * np.float32(0.5)
            for part in range(2):
                codes = at + IQ3_XXS.qs + 8 * sub + 4 * part
                low = _IQ3_XXS[load_u8(codes)] | _IQ3_XXS[load_u8(codes + 1)] << _32
                high = _IQ3_XXS[load_u8(codes + 2)] | _IQ3_XXS[load_u8(codes + 3)] << _32
                signs = _SIGNS[word & _127] | _SIGNS[word >> _7 & _127] << _8
                _store_signed(out + 128 * sub + 64 * part, low, high, signs, scale)
                word = word >> _14


@jit
def decode_iq3_s(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ3_S: ``d * (1 + 2 * scale) * grid[q] * sign``."""
    for block in range(start, stop):
        at, out = source + block * IQ3_S.block_bytes, target + block * IQ3_S.float_bytes
        d = load_f16(at + IQ3_S.d)
        for sub in range(8):
            s = (load_u8(at + IQ3_S.scales + sub // 2) >> np.uint64(4 * (sub % 2))) & _15
            scale = d * np.float32(_1 + _2 * s)
            tops = load_u8(at + IQ3_S.qh + sub) << _8
            for part in range(2):
                codes = at + IQ3_S.qs + 8 * sub + 4 * part
                low = _IQ3_S[load_u8(codes) | (tops & _256)] | _IQ3_S[load_u8(codes + 1) | (tops >> _1 & _256)] << _32
                high = (
                    _IQ3_S[load_u8(codes + 2) | (tops >> _2 & _256)]
                    | _IQ3_S[load_u8(codes + 3) | (tops >> _3 & _256)] << _32
                )
                signs = load_u16(at + IQ3_S.signs + 4 * sub + 2 * part)
                _store_signed(out + 128 * sub + 64 * part, low, high, signs, scale)
                tops = tops >> _4


@jit
def decode_iq1_s(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ1_S: ``d * (2 * scale + 1) * (grid[q] + delta)``."""
    for block in range(start, stop):
        at, out = source + block * IQ1_S.block_bytes, target + block * IQ1_S.float_bytes
        d = load_f16(at + IQ1_S.d)
        for sub in range(8):
            word = load_u16(at + IQ1_S.qh + 2 * sub)
            scale = d * np.float32(_2 * (word >> np.uint64(12) & _7) + _1)
            delta = -_DELTA if word >> _15 else _DELTA
            tops = word << _8
            for part in range(2):
                low = _IQ1[load_u8(at + IQ1_S.qs + 4 * sub + 2 * part) | (tops & _1792)]
                high = _IQ1[load_u8(at + IQ1_S.qs + 1 + 4 * sub + 2 * part) | (tops >> _3 & _1792)]
                store_ahead(out + 128 * sub + 64 * part, (to_float(i8x16_of(low, high)) + delta) * scale)
                tops = tops >> np.uint64(6)


@jit
def decode_iq1_m(start: int, stop: int, source: Address, target: Address) -> None:
    """Decodes IQ1_M: ``d * (2 * scale + 1) * (grid[q] + delta)``."""
    for block in range(start, stop):
        at, out = source + block * IQ1_M.block_bytes, target + block * IQ1_M.float_bytes
        d_bits = _0
        for i in range(4):  # the top 4 bits of each word of scales, lowest first
            d_bits |= load_u16(at + IQ1_M.scales + 2 * i) >> np.uint64(12) << np.uint64(4 * i)
        d = f16_to_f32(np.uint16(d_bits))
        for sub in range(16):
            s = (load_u16(at + IQ1_M.scales + sub // 4 * 2) >> np.uint64(sub % 4 * 3)) & _7
            scale = d * np.float32(_2 * s + _1)
            tops = load_u8(at + IQ1_M.qh + sub)  # two nibbles: 3-bit top of the code, sign of the delta
            low = _IQ1[load_u8(at + IQ1_M.qs + 2 * sub) | (tops << _8 & _1792)]
            high = _IQ1[load_u8(at + IQ1_M.qs + 2 * sub + 1) | (tops << _4 & _1792)]
            # The delta's sign fills the 8 lanes of its half.
            negative = (_0 - (tops >> _3 & _1) & np.uint64(0x00FF)) | (_0 - (tops >> _7) & np.uint64(0xFF00))
            delta = where(mask_of(negative), splat(-_DELTA), splat(_DELTA))
            store_ahead(out + 64 * sub, (to_float(i8x16_of(low, high)) + delta) * scale)
