"""Blocks of e2m1 floats (0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives): MXFP4 and NVFP4.

MXFP4 scales 32 weights by a power of two (e8m0): the few exponents that could be best are tried, by exact error.
NVFP4 scales each 16 weights by an unsigned e4m3 float: its 126 values lie so close that the best of those from below
half of the largest weight's on is the optimum in practice.

As in ggml, levels are doubled (0, 1, 2, 3, 4, 6, 8, 12) and scales halved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks.float4 import E2M1_DOUBLED
from gguflike.kernels.encode.driver import Codec, block_encoder, codec, encode_blocks
from gguflike.kernels.encode.packing import plan_packing, planes, strided, whole
from gguflike.kernels.encode.rounding import (
    Levels,
    clamp_tile,
    code_of,
    codebook,
    nearest_level,
    normalize,
    power_of_two,
    reciprocal,
    weighted,
)
from gguflike.kernels.encode.scale import extreme
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.lanes import (
    bits,
    fma,
    from_bits,
    magnitude,
    minimum,
    splat,
    splat_i32,
    to_float,
    to_int,
    where,
)
from gguflike.kernels.vector.sizes import LANES

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int32]
MX, NV, NV_SUB = 32, 64, 16
MX_TOP = 252  # a larger exponent could decode to infinity
NV_TOP = 126  # 127 is NaN
SIGN = 8


class MXFP4(NamedTuple):
    """``tries``: offsets from the plain rule's ``exponents``, one per block."""

    exponents: Ints
    tries: Ints
    levels: Levels


class NVFP4(NamedTuple):
    """``tries``: offsets from the code of largest / 6."""

    tries: Ints
    levels: Levels


@lean
def float4_error(tile: Any, importance: Any, first: int, count: int, d: Any, levels: Any) -> Any:
    """Squared error with the levels nearest at (halved) scale ``d``."""
    inverse = reciprocal(d)
    total = splat(0.0)
    for j in range(first, first + count):
        size = magnitude(load(tile, j))
        rest = size - d * nearest_level(size, inverse, levels)
        total = fma(rest, weighted(importance, j, rest), total)
    return total


@lean
def store_codes(tile: Any, symbols: Any, first: int, count: int, d: Any, levels: Any) -> None:
    """Codes at scale ``d``: three bits of magnitude, then the sign, zero without."""
    inverse = reciprocal(d)
    for j in range(first, first + count):
        x = load(tile, j)
        code = code_of(nearest_level(magnitude(x), inverse, levels), levels)
        store(symbols, j, where((x < 0.0) & (code > 0), code + SIGN, code))


@lean(forceinline=True)
def clipped(value: Any, least: int, most: int) -> Any:
    """Int lanes limited to least .. most."""
    low = where(value < least, splat_i32(least), value)
    return where(low > most, splat_i32(most), low)


@codec(MXFP4)
def mxfp4_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: MXFP4) -> None:
    """Symbols: the codes, the exponent."""
    lift = normalize(tile, MX, magnitude(extreme(tile, 0, MX)))
    base = load(s.exponents, batch)
    best = base
    d = power_of_two(clipped(base - 128 + lift, -126, 127))
    error = float4_error(tile, importance, 0, MX, d, s.levels)
    for t in range(len(s.tries)):
        e = clipped(base + s.tries[t], 0, MX_TOP)
        other = power_of_two(clipped(e - 128 + lift, -126, 127))
        found = float4_error(tile, importance, 0, MX, other, s.levels)
        better = found < error
        best = where(better, e, best)
        d = where(better, other, d)
        error = minimum(found, error)
    store_codes(tile, symbols, 0, MX, d, s.levels)
    store(symbols, MX, best)


@lean(forceinline=True)
def e4m3_value(code: Any) -> Any:
    """Value of an unsigned e4m3 code 0 .. 126 (bias 7; subnormals in steps of 2**-9), halved."""
    normal = from_bits((code + (119 << 3)) << 20)
    return where(code < 8, to_float(code) * np.float32(2.0**-10), normal)


@lean(forceinline=True)
def e4m3_code(value: Any) -> Any:
    """The code whose value (not halved) is nearest to ``value`` >= 0, halves up; saturates."""
    capped = minimum(value, splat(448.0))
    normal = ((bits(capped) + (1 << 19)) >> 20) - (120 << 3)
    small = to_int(fma(capped, splat(512.0), splat(0.5)))
    return clipped(where(capped < np.float32(2.0**-6), small, normal), 0, NV_TOP)


@codec(NVFP4)
def nvfp4_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: NVFP4) -> None:
    """Symbols: the codes, the codes of the scales."""
    levels = s.levels
    clamp_tile(tile, NV, magnitude(extreme(tile, 0, NV)))
    for i in range(NV // NV_SUB):
        first = i * NV_SUB
        base = e4m3_code(magnitude(extreme(tile, first, NV_SUB)) / np.float32(6.0))
        best = base
        error = float4_error(tile, importance, first, NV_SUB, e4m3_value(base), levels)
        for t in range(len(s.tries)):
            code = clipped(base + s.tries[t], 0, NV_TOP)
            found = float4_error(tile, importance, first, NV_SUB, e4m3_value(code), levels)
            best = where(found < error, code, best)
            error = minimum(found, error)
        store_codes(tile, symbols, first, NV_SUB, e4m3_value(best), levels)
        store(symbols, NV + i, best)


def plain_exponents(x: Array) -> Ints:
    """Per block of 32, the e8m0 exponent of ggml's rule: floor(log2(largest)) - 2 + 127, and 0 for a zero block.

    Padded to whole groups of blocks.
    """
    largest = np.abs(x.reshape(-1, MX)).max(axis=1)
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(largest)) - 2 + 127
    exponents = np.clip(np.where(largest > 0, exponent, 0), 0, MX_TOP).astype(np.int32)
    return np.pad(exponents, (0, -len(exponents) % LANES), mode="edge")


_LEVELS = codebook(E2M1_DOUBLED[:8])
_MX = plan_packing([whole([MX]), planes(strided(MX, 2, 16), 4)])
_MX_TRIES = np.array([1, -1, -2, -3], np.int32)
# Codes a factor of two apart differ by 8, and at twice the scale the levels are a subset of those at the scale itself.
_NV_SEARCH = NVFP4(np.array([*range(1, 8), *range(-1, -12, -1)], np.int32), _LEVELS)


def encode_mxfp4(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
    """``absmax`` is ggml's rule: the largest weight is 4 to 8 times the scale, where 6 is the last level."""
    tries = _MX_TRIES[:0] if method == "absmax" else _MX_TRIES
    encode_blocks(x, importance, out, MX, Codec(MXFP4(plain_exponents(x), tries, _LEVELS), MX + 1, _MX), threads)


# The textbook rule is ggml's: the scale nearest to a sixth of the largest weight.
encode_nvfp4 = block_encoder(
    NV,
    NV + 4,
    [whole(range(NV, NV + 4)), planes(strided(NV, 2, 8), 4)],
    _NV_SEARCH,
    absmax=_NV_SEARCH._replace(tries=_NV_SEARCH.tries[:0]),
)
