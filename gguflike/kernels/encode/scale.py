"""Blocks of one float16 scale: Q8_0, Q8_1, Q4_0, Q5_0, Q2_0, IQ4_NL. Value = d * level, levels uniform or a codebook.

The search tries scales that map the largest weight to a row of targets (of both signs where it pays, since the level
ranges are lopsided), takes for each the codes nearest to the weights and the squared error that the best scale for
these codes leaves, then alternates codes and closed-form scale from the best one. The outcome competes with absmax by
exact error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import inner, jit, run_rows
from gguflike.kernels.dispatch import register
from gguflike.kernels.encode.layout import Slot, bit_string, layout, planes, strided, whole
from gguflike.kernels.encode.search import (
    HALF,
    LARGEST,
    clamp_tile,
    code_of,
    f16_bits,
    groups_of,
    load_blocks,
    load_weights,
    nearest,
    pack,
    reciprocal,
    stored_scale,
    to_f16_grid,
    weight_tile,
    weighted,
)
from gguflike.kernels.lanes import (
    LANES,
    fma,
    lanes,
    load,
    magnitude,
    make_int_tile,
    make_tile,
    maximum,
    minimum,
    store,
    to_float,
    to_int,
    where,
)

Array = npt.NDArray[Any]


@inner
def extreme(tile: Any, first: int, count: int) -> Any:
    """The value of largest magnitude (the first of equals), with its sign."""
    value = lanes(0.0)
    size = lanes(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        value = where(magnitude(x) > size, x, value)
        size = maximum(size, magnitude(x))
    return value


@inner
def moments(tile: Any, weights: Any, first: int, count: int, inverse: Any, lo: Any, hi: Any, book: Any) -> Any:
    """(sum w*x*q, sum w*q*q) over the levels nearest at scale ``1 / inverse``."""
    xq = lanes(0.0)
    qq = lanes(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        q = nearest(x, inverse, lo, hi, book)
        wq = weighted(weights, j, q)
        xq = fma(x, wq, xq)
        qq = fma(q, wq, qq)
    return xq, qq


@inner
def best_scale(
    tile: Any, weights: Any, first: int, count: int, top: Any, targets: Any, rounds: int, lo: Any, hi: Any, book: Any
) -> Any:
    """The scale, unrounded, found by the search described above; ``top`` is the extreme value."""
    inverse_top = reciprocal(top)
    xq, qq = moments(tile, weights, first, count, inverse_top * targets[0], lo, hi, book)
    for t in range(1, len(targets), 2):
        one = inverse_top * targets[t]
        two = inverse_top * targets[t + 1]
        xq1 = lanes(0.0)
        qq1 = lanes(0.0)
        xq2 = lanes(0.0)
        qq2 = lanes(0.0)
        for j in range(first, first + count):
            x = load(tile, j)
            q = nearest(x, one, lo, hi, book)
            wq = weighted(weights, j, q)
            xq1 = fma(x, wq, xq1)
            qq1 = fma(q, wq, qq1)
            q = nearest(x, two, lo, hi, book)
            wq = weighted(weights, j, q)
            xq2 = fma(x, wq, xq2)
            qq2 = fma(q, wq, qq2)
        # The best scale for given codes is xq / qq, and it explains xq**2 / qq of the squares.
        better = xq1 * xq1 * qq > xq * xq * qq1
        xq = where(better, xq1, xq)
        qq = where(better, qq1, qq)
        better = xq2 * xq2 * qq > xq * xq * qq2
        xq = where(better, xq2, xq)
        qq = where(better, qq2, qq)
    d = xq * reciprocal(qq)
    for _ in range(rounds):
        xq, qq = moments(tile, weights, first, count, reciprocal(d), lo, hi, book)
        d = where(qq > 0.0, xq * reciprocal(qq), d)
    return d


@inner
def squared_errors(
    tile: Any, weights: Any, first: int, count: int, d1: Any, d2: Any, lo: Any, hi: Any, book: Any
) -> Any:
    """Sums of w * (x - d * q)**2 with the levels nearest at each of two scales."""
    inverse1 = reciprocal(d1)
    inverse2 = reciprocal(d2)
    total1 = lanes(0.0)
    total2 = lanes(0.0)
    for j in range(first, first + count):
        x = load(tile, j)
        rest1 = fma(-d1, nearest(x, inverse1, lo, hi, book), x)
        rest2 = fma(-d2, nearest(x, inverse2, lo, hi, book), x)
        total1 = fma(rest1, weighted(weights, j, rest1), total1)
        total2 = fma(rest2, weighted(weights, j, rest2), total2)
    return total1, total2


@jit
def search_groups(
    start: int, stop: int, x: Any, weights: Any, out: Any, size: int, plain: Any, signed: bool, targets: Any,
    rounds: int, lo: Any, hi: Any, offset: Any, book: Any, places: Any,
) -> None:  # fmt: skip
    """Encode groups of sixteen blocks by search; ``plain`` and ``signed`` as in ``absmax_groups``.

    Symbols: the codes, the scale, scale * sum of levels.
    """
    blocks = len(x) // size
    tile = make_tile(size)
    wtile = weight_tile(weights, size)
    symbols = make_int_tile(size + 2)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, size, x, tile, starts)
        load_weights(group, blocks, size, weights, wtile, starts)
        top = extreme(tile, 0, size)
        clamp_tile(tile, size, magnitude(top))
        top = minimum(maximum(top, -LARGEST), LARGEST)
        d = stored_scale(best_scale(tile, wtile, 0, size, top, targets, rounds, lo, hi, book))
        absmax = to_f16_grid((top if signed else magnitude(top)) / plain)
        found, textbook = squared_errors(tile, wtile, 0, size, d, absmax, lo, hi, book)
        d = where(textbook < found, absmax, d)
        inverse = reciprocal(d)
        total = lanes(0.0)
        for j in range(size):
            level = nearest(load(tile, j), inverse, lo, hi, book)
            total = total + level
            store(symbols, j, code_of(level, offset, book))
        store(symbols, size, f16_bits(d))
        store(symbols, size + 1, f16_bits(to_f16_grid(total * d)))
        pack(group, blocks, symbols, places, out, scratch)


@jit
def absmax_groups(
    start: int, stop: int, x: Any, out: Any, size: int, plain: Any, signed: bool, lo: Any, hi: Any, offset: Any,
    book: Any, places: Any,
) -> None:  # fmt: skip
    """The textbook rule: the extreme value (``signed``: with its sign) maps to level ``plain``.

    Codes are rounded from the unrounded scale, halves up where the scale is signed and away from zero otherwise, as
    ggml's plain encoders do.
    """
    blocks = len(x) // size
    tile = make_tile(size)
    symbols = make_int_tile(size + 2)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, size, x, tile, starts)
        top = extreme(tile, 0, size)
        if not signed:
            top = magnitude(top)
        d = top / plain
        inverse = where(d == 0.0, lanes(0.0), 1.0 / where(d == 0.0, lanes(1.0), d))
        total = lanes(0.0)
        for j in range(size):
            t = minimum(maximum(load(tile, j) * inverse, lanes(-300.0)), lanes(300.0))
            if book is not None:
                level = nearest(t, lanes(1.0), lo, hi, book)
            elif signed:
                level = to_float(to_int(t + (offset + HALF))) - offset
            else:
                size_t = magnitude(t)
                whole_part = to_float(to_int(size_t))
                whole_part = where(size_t - whole_part >= HALF, whole_part + 1.0, whole_part)
                level = where(t < 0.0, -whole_part, whole_part)
            level = minimum(maximum(level, lo), hi)
            total = total + level
            store(symbols, j, code_of(level, offset, book))
        store(symbols, size, f16_bits(to_f16_grid(d)))
        store(symbols, size + 1, f16_bits(to_f16_grid(total * d)))
        pack(group, blocks, symbols, places, out, scratch)


@dataclass(frozen=True)
class ScaleFormat:
    """One type of this family. Levels are the integers ``lo .. hi``, stored with ``offset`` added, or ``book``."""

    name: str
    size: int
    lo: int
    hi: int
    offset: int
    plain: float
    signed: bool
    targets: npt.NDArray[np.float32]
    weighted_targets: npt.NDArray[np.float32]
    fields: list[list[list[Slot]]]
    rounds: int = 1
    book: npt.NDArray[np.float32] | None = None

    def register(self) -> None:
        """Make this the encoder of the type."""
        f32, plan = np.float32, layout(self.fields)
        levels = (f32(self.lo), f32(self.hi), f32(self.offset), self.book, plan)

        @register("encode", self.name)
        def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
            groups = groups_of(x.size // self.size)
            flat, bytes_out = x.reshape(-1), out.reshape(-1)
            if method == "absmax":
                args = (flat, bytes_out, self.size, f32(self.plain), self.signed, *levels)
                run_rows(absmax_groups, groups, *args, threads=threads)
                return
            targets = self.targets if weights is None else self.weighted_targets
            search = (self.size, f32(self.plain), self.signed, targets, self.rounds)
            run_rows(search_groups, groups, flat, weights, bytes_out, *search, *levels, threads=threads)


def spread(lo: float, hi: float, count: int) -> npt.NDArray[np.float32]:
    """``count`` evenly spaced targets."""
    return np.linspace(lo, hi, count, dtype=np.float32)


def both(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Targets of one sign, then of the other."""
    return np.concatenate([one, other])


def codebook(levels: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Levels in ascending order, then the midpoints between them, as ``nearest`` takes them."""
    values = np.array(levels, np.float32)
    return np.concatenate([values, (values[1:] + values[:-1]) / 2])


# The sixteen levels of IQ4_NL and IQ4_XS, from ggml's table kvalues_iq4nl.
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

_CODES = range(32)
_D, _D_AND_SUM = whole([32], 2), whole([32, 33], 2)
_NIBBLES = planes(strided(32, 2, 16), 4)
_LOW_BITS = planes(strided(32, 2, 16), 4, right=0)
_HIGH_BITS = bit_string(_CODES, 1, right=4)
_NEAR_127 = spread(127, 114, 15)
_NEAR_4_BIT = both(spread(-10.5, -6.2, 15), spread(6, 8.5, 10))
_NEAR_5_BIT = both(spread(-20, -13, 15), spread(13, 17, 10))
_NEAR_BOOK = both(spread(-160, -105, 9), spread(100, 140, 6))
_NEAR_2_BIT = both(spread(1, 4, 15), spread(-1, -4, 16))

# Without importance the optimum lies close to the plain rule's scale, and ggml is fast there: few targets. With it, the
# extreme value may hardly count and be cut off: many, on both sides.
# fmt: off
for _format in (
    ScaleFormat("Q8_0", size=32, lo=-127, hi=127, offset=0, plain=127, signed=False, rounds=0,
                targets=_NEAR_127, weighted_targets=_NEAR_127, fields=[_D, whole(_CODES)]),
    ScaleFormat("Q8_1", size=32, lo=-127, hi=127, offset=0, plain=127, signed=False, rounds=0,
                targets=_NEAR_127, weighted_targets=_NEAR_127, fields=[_D_AND_SUM, whole(_CODES)]),
    ScaleFormat("Q4_0", size=32, lo=-8, hi=7, offset=8, plain=-8, signed=True,
                targets=spread(-8.8, -7, 5), weighted_targets=_NEAR_4_BIT, fields=[_D, _NIBBLES]),
    ScaleFormat("Q5_0", size=32, lo=-16, hi=15, offset=16, plain=-16, signed=True,
                targets=spread(-16.5, -13.5, 7), weighted_targets=_NEAR_5_BIT, fields=[_D, _HIGH_BITS, _LOW_BITS]),
    ScaleFormat("Q2_0", size=64, lo=-1, hi=2, offset=1, plain=1, signed=False, rounds=2,
                targets=_NEAR_2_BIT, weighted_targets=_NEAR_2_BIT, fields=[whole([64], 2), bit_string(range(64), 2)]),
    ScaleFormat("IQ4_NL", size=32, lo=-127, hi=113, offset=0, plain=-127, signed=True,
                targets=_NEAR_BOOK, weighted_targets=_NEAR_BOOK, fields=[_D, _NIBBLES], book=codebook(IQ4_LEVELS)),
):
    _format.register()
# fmt: on
