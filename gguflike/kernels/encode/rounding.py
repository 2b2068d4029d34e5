"""Rounding to codes and to float16 scales, and what keeps squares within float32: shared by all scalar encoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.tiles import Floats, Importance, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import (
    any_lane,
    bits,
    fma,
    from_bits,
    magnitude,
    maximum,
    minimum,
    splat,
    splat_i32,
    to_int,
    where,
)
from gguflike.kernels.vector.types import F32x16, I32x16

MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to the nearest integer, ties to even
LARGEST = np.float32(2.0**40)  # beyond what any float16-scaled block can hold; keeps sums of squares finite
F16_MAX = np.float32(65504.0)
F16_MIN_NORMAL = np.float32(2.0**-14)
F16_MIN = np.float32(2.0**-24)
HALF = np.float32(0.5)
SIGN = -(1 << 31)  # the sign bit of int32 lanes


class Levels(NamedTuple):
    """The values that codes stand for before the scale: the integers ``lo .. hi`` (None: all), or a codebook.

    An integer's code is the integer plus ``offset``; a codebook level's code is its index. ``book`` is None or float32
    (2 n - 1,): the n levels in ascending order, then the midpoints between neighbours.
    """

    lo: np.float32 | None
    hi: np.float32 | None
    offset: np.float32
    book: Floats | None


def integers(lo: int, hi: int, first: int = 0) -> Levels:
    """The integers ``lo .. hi``, whose codes count up from ``first``."""
    return Levels(np.float32(lo), np.float32(hi), np.float32(first - lo), None)


def codebook(levels: npt.NDArray[np.int8]) -> Levels:
    """A codebook of these levels, which must ascend."""
    values = np.array(levels, np.float32)
    book = np.concatenate([values, (values[1:] + values[:-1]) / 2])
    return Levels(values[0], values[-1], np.float32(0), book)


# Numba drops the branch not taken only where it hangs on an argument, hence those of ``levels`` beside it.


@lean(forceinline=True)
def nearest_level(x: F32x16, inverse: F32x16, levels: Levels) -> F32x16:
    """The level nearest to ``x * inverse``; of two integers as near the even one, of two codebook levels the lower."""
    return _nearest_level(x, inverse, levels, levels.book, levels.lo)


@lean(forceinline=True)
def _nearest_level(x: F32x16, inverse: F32x16, levels: Levels, book: Floats | None, lo: np.float32 | None) -> F32x16:
    """``nearest_level``, with the fields of ``levels`` that decide which branch is compiled."""
    if book is None:
        if lo is None:
            return fma(x, inverse, MAGIC) - MAGIC
        return minimum(maximum(fma(x, inverse, MAGIC), lo + MAGIC), levels.hi + MAGIC) - MAGIC
    t = x * inverse
    count = (len(book) + 1) // 2
    level = splat(book[0])
    for k in range(1, count):
        level = where(t > book[count + k - 1], splat(book[k]), level)
    return level


@lean(forceinline=True)
def code_of(level: F32x16, levels: Levels) -> I32x16:
    """The code of a level that ``nearest_level`` returned."""
    return _code_of(level, levels, levels.book)


@lean(forceinline=True)
def _code_of(level: F32x16, levels: Levels, book: Floats | None) -> I32x16:
    """``code_of``, with the field of ``levels`` that decides which branch is compiled."""
    if book is None:
        return to_int(level + levels.offset)
    code = splat_i32(0)
    for k in range(1, (len(book) + 1) // 2):
        code = where(level >= book[k], code + 1, code)
    return code


@lean(forceinline=True)
def importance_of(importance: Importance, j: int) -> F32x16:
    """The importance of weight ``j``; 1 where there is none."""
    if importance is None:
        return splat(1.0)
    return load(importance, j)


@lean(forceinline=True)
def weighted(importance: Importance, j: int, value: F32x16) -> F32x16:
    """``value`` times the importance of weight ``j``."""
    if importance is None:
        return value
    return value * load(importance, j)


@lean
def clamp_tile(tile: Tile, size: int, largest: F32x16) -> None:
    """Clamp rows ``0 .. size - 1`` to +-``LARGEST``: values beyond it take the outermost code either way.

    ``largest`` is the largest magnitude among them.
    """
    if any_lane(largest > LARGEST):
        for j in range(size):
            store(tile, j, minimum(maximum(load(tile, j), -LARGEST), LARGEST))


@lean(forceinline=True)
def power_of_two(exponent: I32x16) -> F32x16:
    """2**exponent, for exponents from -126 to 127."""
    return from_bits((exponent + 127) << 23)


@lean(forceinline=True)
def times_power(value: F32x16, exponent: I32x16) -> F32x16:
    """value * 2**exponent, for exponents from -252 to 254, in two steps that are exact but for underflow."""
    half = exponent >> 1
    return value * power_of_two(half) * power_of_two(exponent - half)


@lean
def normalize(tile: Tile, size: int, largest: F32x16) -> I32x16:
    """Scale each block by the power of two that brings ``largest`` into [1, 2); returns the exponent.

    So squares neither vanish nor overflow, for types whose scales reach as far as float32 itself.
    """
    exponent = 127 - ((bits(largest) >> 23) & 255)
    for j in range(size):
        store(tile, j, times_power(load(tile, j), exponent))
    return exponent


@lean(forceinline=True)
def reciprocal(d: F32x16) -> F32x16:
    """1 / d, and 0 for d == 0. ``d`` is 0 or at least 2**-100 in magnitude."""
    return where(d == 0.0, splat(0.0), 1.0 / where(d == 0.0, splat(1.0), d))


@lean(forceinline=True)
def round_to_f16(value: F32x16) -> F32x16:
    """The float16 value nearest to ``value``, as float32: ties to even; saturates instead of overflowing."""
    raw = bits(value)
    normal = from_bits((raw + ((raw >> 13) & 1) + 0xFFF) & ~0x1FFF)
    absolute = magnitude(value)
    small = (absolute + HALF) - HALF  # the last place of 0.5 is float16's smallest step
    small = from_bits(bits(small) | (raw & SIGN))
    rounded = where(absolute < F16_MIN_NORMAL, small, normal)
    return minimum(maximum(rounded, -F16_MAX), F16_MAX)


@lean(forceinline=True)
def stored_scale(d: F32x16) -> F32x16:
    """The float16 value that is stored for scale ``d``: never infinite, and zero only where ``d`` is.

    A scale that would round to zero takes the smallest step instead: its codes are rounded anew, so it cannot do harm.
    """
    rounded = round_to_f16(d)
    lost = (rounded == 0.0) & (d != 0.0)
    return where(lost, where(d < 0.0, splat(-F16_MIN), splat(F16_MIN)), rounded)


@lean(forceinline=True)
def f16_bits(value: F32x16) -> I32x16:
    """The 16 bits of a value that float16 holds exactly."""
    raw = bits(value)
    absolute = magnitude(value)
    normal = ((raw & 0x7FFFFFFF) - (112 << 23)) >> 13
    small = to_int(absolute * np.float32(2.0**24))
    return where(absolute < F16_MIN_NORMAL, small, normal) | ((raw >> 16) & 0x8000)


@lean(forceinline=True)
def round_to_int(value: F32x16) -> F32x16:
    """The nearest integer, as float32, for magnitudes below 2**22."""
    return (value + MAGIC) - MAGIC
