"""What the searches share: rounding to codes and to float16 scales, and keeping squares within float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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

MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to the nearest integer, ties to even
LARGEST = np.float32(2.0**40)  # beyond what any float16-scaled block can hold; keeps sums of squares finite
F16_MAX = np.float32(65504.0)
F16_MIN_NORMAL = np.float32(2.0**-14)
F16_MIN = np.float32(2.0**-24)
HALF = np.float32(0.5)
SIGN = -(1 << 31)  # the sign bit of int32 lanes


class Levels(NamedTuple):
    """What codes stand for: the integers ``lo .. hi`` (None: all), stored with ``offset`` added, or a codebook.

    ``book`` is None or float32: the levels in ascending order, then the midpoints between them.
    """

    lo: np.float32 | None
    hi: np.float32 | None
    offset: np.float32
    book: npt.NDArray[np.float32] | None


def integers(lo: int, hi: int, first: int = 0) -> Levels:
    """The integers ``lo .. hi``, stored from ``first`` on."""
    return Levels(np.float32(lo), np.float32(hi), np.float32(first - lo), None)


def codebook(levels: npt.NDArray[np.int8]) -> Levels:
    """These levels, in ascending order."""
    values = np.array(levels, np.float32)
    book = np.concatenate([values, (values[1:] + values[:-1]) / 2])
    return Levels(values[0], values[-1], np.float32(0), book)


# Numba drops the branch not taken only where it hangs on an argument, hence those of ``levels`` beside it.


@lean(forceinline=True)
def nearest_level(x: Any, inverse: Any, levels: Levels) -> Any:
    """The level nearest to ``x * inverse``."""
    return _nearest_level(x, inverse, levels, levels.book, levels.lo)


@lean(forceinline=True)
def _nearest_level(x: Any, inverse: Any, levels: Any, book: Any, lo: Any) -> Any:
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
def code_of(level: Any, levels: Levels) -> Any:
    """The stored code of a level that ``nearest_level`` returned: level + offset, or its place in the codebook."""
    return _code_of(level, levels, levels.book)


@lean(forceinline=True)
def _code_of(level: Any, levels: Levels, book: Any) -> Any:
    if book is None:
        return to_int(level + levels.offset)
    code = splat_i32(0)
    for k in range(1, (len(book) + 1) // 2):
        code = where(level >= book[k], code + 1, code)
    return code


@lean(forceinline=True)
def importance_of(tile: Any, j: Any) -> Any:
    """Importance of weight ``j`` in each lane; 1 where there is no importance."""
    if tile is None:
        return splat(1.0)
    return load(tile, j)


@lean(forceinline=True)
def weighted(tile: Any, j: Any, value: Any) -> Any:
    """``value`` times the importance of weight ``j``."""
    if tile is None:
        return value
    return value * load(tile, j)


@lean
def clamp_tile(tile: Any, size: int, largest: Any) -> None:
    """Bring values beyond ``LARGEST`` to it: they take the outermost code either way."""
    if any_lane(largest > LARGEST):
        for j in range(size):
            store(tile, j, minimum(maximum(load(tile, j), -LARGEST), LARGEST))


@lean(forceinline=True)
def power_of_two(exponent: Any) -> Any:
    """2**exponent for int lanes in -126 .. 127."""
    return from_bits((exponent + 127) << 23)


@lean(forceinline=True)
def times_power(value: Any, exponent: Any) -> Any:
    """value * 2**exponent for int lanes in -252 .. 254, in two exact steps (but for underflow)."""
    half = exponent >> 1
    return value * power_of_two(half) * power_of_two(exponent - half)


@lean
def normalize(tile: Any, size: int, largest: Any) -> Any:
    """Scale each lane by the power of two that brings ``largest`` into [1, 2): squares neither vanish nor overflow.

    Returns the exponent. For the types whose scales reach as far as float32 itself.
    """
    exponent = 127 - ((bits(largest) >> 23) & 255)
    for j in range(size):
        store(tile, j, times_power(load(tile, j), exponent))
    return exponent


@lean(forceinline=True)
def reciprocal(d: Any) -> Any:
    """1 / d, and 0 for d == 0. ``d`` is 0 or at least 2**-100 in magnitude."""
    return where(d == 0.0, splat(0.0), 1.0 / where(d == 0.0, splat(1.0), d))


@lean(forceinline=True)
def round_to_f16(value: Any) -> Any:
    """Nearest value that float16 holds, ties to even; saturates instead of overflowing."""
    raw = bits(value)
    normal = from_bits((raw + ((raw >> 13) & 1) + 0xFFF) & ~0x1FFF)
    size = magnitude(value)
    small = (size + HALF) - HALF  # the last place of 0.5 is float16's smallest step
    small = from_bits(bits(small) | (raw & SIGN))
    rounded = where(size < F16_MIN_NORMAL, small, normal)
    return minimum(maximum(rounded, -F16_MAX), F16_MAX)


@lean(forceinline=True)
def stored_scale(d: Any) -> Any:
    """The float16 value that stands for scale ``d``: never infinite, and zero only where ``d`` is.

    A scale that would round to zero takes the smallest step instead: its codes are rounded anew, so it cannot do harm.
    """
    rounded = round_to_f16(d)
    lost = (rounded == 0.0) & (d != 0.0)
    return where(lost, where(d < 0.0, splat(-F16_MIN), splat(F16_MIN)), rounded)


@lean(forceinline=True)
def f16_bits(value: Any) -> Any:
    """The 16 bits of a value on the float16 grid."""
    raw = bits(value)
    size = magnitude(value)
    normal = ((raw & 0x7FFFFFFF) - (112 << 23)) >> 13
    small = to_int(size * np.float32(2.0**24))
    return where(size < F16_MIN_NORMAL, small, normal) | ((raw >> 16) & 0x8000)


@lean(forceinline=True)
def round_to_int(value: Any) -> Any:
    """Nearest integer as float32; |value| < 2**22."""
    return (value + MAGIC) - MAGIC
