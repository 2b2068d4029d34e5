"""Blocks of e2m1 floats (0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives): MXFP4 and NVFP4.

MXFP4 scales 32 weights by a power of two (e8m0): the few exponents that can be best are tried, by squared error.
NVFP4 scales each 16 weights by an unsigned e4m3 float, and tries those from less than half the one that the largest
weight asks for to nearly twice it, which is the optimum in practice.

As in ggml, levels are doubled (0, 1, 2, 3, 4, 6, 8, 12) and scales halved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflike.blocks.float4 import E2M1_DOUBLED
from gguflike.kernels.encode.driver import block_encoder, codec
from gguflike.kernels.encode.packing import bit_planes, interleaved, whole_bytes
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
from gguflike.kernels.encode.tiles import Importance, Ints, IntTile, Tile
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import gather, load, store
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
from gguflike.kernels.vector.types import F32x16, I32x16

MX, NV, NV_SUB = 32, 64, 16
MX_TOP = 252  # a larger exponent could decode to infinity
NV_TOP = 126  # 127 is NaN
SIGN = 8


class MXFP4(NamedTuple):
    """Settings of MXFP4: which ``offsets`` to try from the absmax rule's exponent; ``carries`` as of ``_carries``."""

    carries: Ints
    offsets: Ints
    levels: Levels


class NVFP4(NamedTuple):
    """Settings of NVFP4: which ``offsets`` to try from the e4m3 code of a sixth of the largest magnitude."""

    offsets: Ints
    levels: Levels


@lean
def float4_error(
    tile: Tile, importance: Importance, first: int, count: int, d: F32x16, levels: Levels
) -> F32x16:  # fmt: skip
    """sum w (|x| - d q)^2 with the levels q nearest at the (halved) scale ``d``."""
    inverse = reciprocal(d)
    total = splat(0.0)
    for j in range(first, first + count):
        absolute = magnitude(load(tile, j))
        residual = absolute - d * nearest_level(absolute, inverse, levels)
        total = fma(residual, weighted(importance, j, residual), total)
    return total


@lean
def store_codes(tile: Tile, symbols: IntTile, first: int, count: int, d: F32x16, levels: Levels) -> None:
    """Store the codes at scale ``d``: three bits of magnitude, then the sign; zero has none."""
    inverse = reciprocal(d)
    for j in range(first, first + count):
        x = load(tile, j)
        code = code_of(nearest_level(magnitude(x), inverse, levels), levels)
        store(symbols, j, where((x < 0.0) & (code > 0), code + SIGN, code))


@lean(forceinline=True)
def clamp(value: I32x16, least: int, most: int) -> I32x16:
    """``value`` limited to least .. most."""
    low = where(value < least, splat_i32(least), value)
    return where(low > most, splat_i32(most), low)


@lean(forceinline=True)
def absmax_exponent(largest: F32x16, carries: Ints) -> I32x16:
    """The e8m0 exponent of ggml's rule: floor(log2(largest)) - 2 + 127, and 0 for a zero block."""
    raw = bits(largest)
    exponent = raw >> 23
    return clamp(exponent - 2 + where(raw >= gather(carries, exponent), splat_i32(1), splat_i32(0)), 0, MX_TOP)


@codec(MXFP4)
def mxfp4_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: MXFP4) -> None:
    """Encode MXFP4. Symbols: the codes, the exponent (biased by 127)."""
    largest = magnitude(extreme(tile, 0, MX))
    lift = normalize(tile, MX, largest)
    base = absmax_exponent(largest, s.carries)
    best = base
    best_d = power_of_two(clamp(base - 128 + lift, -126, 127))
    best_error = float4_error(tile, importance, 0, MX, best_d, s.levels)
    for t in range(len(s.offsets)):
        exponent = clamp(base + s.offsets[t], 0, MX_TOP)
        d = power_of_two(clamp(exponent - 128 + lift, -126, 127))
        error = float4_error(tile, importance, 0, MX, d, s.levels)
        better = error < best_error
        best = where(better, exponent, best)
        best_d = where(better, d, best_d)
        best_error = minimum(error, best_error)
    store_codes(tile, symbols, 0, MX, best_d, s.levels)
    store(symbols, MX, best)


@lean(forceinline=True)
def e4m3_value(code: I32x16) -> F32x16:
    """Half the value of an unsigned e4m3 code 0 .. 126 (bias 7; subnormals in steps of 2**-9)."""
    normal = from_bits((code + (119 << 3)) << 20)
    return where(code < 8, to_float(code) * np.float32(2.0**-10), normal)


@lean(forceinline=True)
def e4m3_code(value: F32x16) -> I32x16:
    """The unsigned e4m3 code whose value (not halved) is nearest to ``value`` >= 0, halves up; saturates."""
    capped = minimum(value, splat(448.0))
    normal = ((bits(capped) + (1 << 19)) >> 20) - (120 << 3)
    small = to_int(fma(capped, splat(512.0), splat(0.5)))
    return clamp(where(capped < np.float32(2.0**-6), small, normal), 0, NV_TOP)


@codec(NVFP4)
def nvfp4_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: NVFP4) -> None:
    """Encode NVFP4. Symbols: the codes, then the e4m3 codes of the sub-blocks' scales."""
    levels = s.levels
    clamp_tile(tile, NV, magnitude(extreme(tile, 0, NV)))
    for i in range(NV // NV_SUB):
        first = i * NV_SUB
        base = e4m3_code(magnitude(extreme(tile, first, NV_SUB)) / np.float32(6.0))
        best = base
        best_error = float4_error(tile, importance, first, NV_SUB, e4m3_value(base), levels)
        for t in range(len(s.offsets)):
            code = clamp(base + s.offsets[t], 0, NV_TOP)
            error = float4_error(tile, importance, first, NV_SUB, e4m3_value(code), levels)
            best = where(error < best_error, code, best)
            best_error = minimum(error, best_error)
        store_codes(tile, symbols, first, NV_SUB, e4m3_value(best), levels)
        store(symbols, NV + i, best)


def _carries() -> Ints:
    """For each exponent of a float32, from which bits on its logarithm, rounded to float32 as it is in ggml's rule, is
    that of the next power of two: int32 (256,)."""
    bits_of = (np.arange(1, 256)[:, None] << 23) - np.arange(1, 129)  # those just below the next power of two
    values = bits_of.astype(np.uint32).view(np.float32).astype(np.float64)
    rounded = np.log2(values).astype(np.float32) == np.arange(1, 256)[:, None] - 127
    first = np.where(rounded, bits_of, np.arange(1, 256)[:, None] << 23).min(axis=1)
    return np.append(first, 255 << 23).astype(np.int32)


_LEVELS = codebook(E2M1_DOUBLED[:8])
_MX_OFFSETS = np.array([1, -1, -2, -3], np.int32)
# Codes a factor of two apart differ by 8, and at twice the scale the levels are a subset of those at the scale itself.
_NV_SEARCH = NVFP4(np.array([*range(1, 8), *range(-1, -12, -1)], np.int32), _LEVELS)


# The absmax rule is ggml's: the largest weight is 4 to 8 times the scale; the last level is 6.
_MX_SEARCH = MXFP4(_carries(), _MX_OFFSETS, _LEVELS)
encode_mxfp4 = block_encoder(
    MX,
    MX + 1,
    [whole_bytes([MX]), bit_planes(interleaved(MX, 2, 16), 4)],
    _MX_SEARCH,
    absmax=_MX_SEARCH._replace(offsets=_MX_OFFSETS[:0]),
)
# The absmax rule is ggml's: the scale nearest to a sixth of the largest weight.
encode_nvfp4 = block_encoder(
    NV,
    NV + 4,
    [whole_bytes(range(NV, NV + 4)), bit_planes(interleaved(NV, 2, 8), 4)],
    _NV_SEARCH,
    absmax=_NV_SEARCH._replace(offsets=_NV_SEARCH.offsets[:0]),
)
