"""Super-blocks of integer sub-block scales: Q3_K, Q6_K, IQ4_XS. Value = d * scale[i] * level.

First each sub-block gets its own best real scale. Then, for a few float16 ``d`` that map the largest of them to the
ends of the integer range, every sub-block picks the integer scale near its own of least squared error, its codes
rounded anew for each, and ``d`` is refitted in closed form; the best of all, by the error of what is stored, is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import inner, jit, run_rows
from gguflike.kernels.dispatch import register
from gguflike.kernels.encode.layout import Slot, layout, planes, strided, whole
from gguflike.kernels.encode.scale import (
    IQ4_LEVELS,
    best_scale,
    both,
    codebook,
    extreme,
    moments,
    spread,
    squared_errors,
)
from gguflike.kernels.encode.search import (
    clamp_tile,
    code_of,
    f16_bits,
    groups_of,
    load_blocks,
    load_weights,
    nearest,
    pack,
    reciprocal,
    round_to_int,
    stored_scale,
    to_f16_grid,
    weight_tile,
)
from gguflike.kernels.lanes import (
    LANES,
    lanes,
    load,
    magnitude,
    make_int_tile,
    make_tile,
    maximum,
    minimum,
    store,
    to_int,
    where,
)

Array = npt.NDArray[Any]
BLOCK = 256


@inner
def choose_scales(
    tile: Any, weights: Any, size: int, ideal: Any, d: Any, window: Any, chosen: Any, least: Any, most: Any,
    lo: Any, hi: Any, book: Any,
) -> Any:  # fmt: skip
    """Per sub-block the integer scale of least error within ``window`` of ideal / d, into ``chosen``.

    Returns the error over the super-block and the two sums whose quotient is the best d for these scales and codes.
    """
    inverse = reciprocal(d)
    total = lanes(0.0)
    above = lanes(0.0)
    below = lanes(0.0)
    for i in range(BLOCK // size):
        middle = round_to_int(minimum(maximum(load(ideal, i) * inverse, lanes(least)), lanes(most)))
        scale = middle
        error = lanes(np.float32(np.inf))
        for k in range(0, len(window), 2):
            one = minimum(maximum(middle + window[k], lanes(least)), lanes(most))
            two = minimum(maximum(middle + window[k + 1], lanes(least)), lanes(most))
            e1, e2 = squared_errors(tile, weights, i * size, size, d * one, d * two, lo, hi, book)
            scale = where(e1 < error, one, scale)
            error = minimum(e1, error)
            scale = where(e2 < error, two, scale)
            error = minimum(e2, error)
        xq, qq = moments(tile, weights, i * size, size, reciprocal(d * scale), lo, hi, book)
        total = total + error
        above = above + scale * xq
        below = below + scale * scale * qq
        store(chosen, i, scale)
    return total, above, below


@jit
def encode_groups(
    start: int, stop: int, x: Any, weights: Any, out: Any, size: int, plain: Any, targets: Any, rounds: int, peaks: Any,
    window: Any, tries: int, least: Any, most: Any, bias: int, lo: Any, hi: Any, offset: Any, book: Any,
    places: Any,
) -> None:  # fmt: skip
    """Encode groups of sixteen super-blocks. ``peaks``: integers to which the largest sub-block scale maps, the plain
    rule's first; with no ``targets`` it is the only rule."""
    blocks = len(x) // BLOCK
    subs = BLOCK // size
    tile = make_tile(BLOCK)
    wtile = weight_tile(weights, BLOCK)
    ideal = make_tile(subs)
    chosen = make_tile(subs)
    best = make_tile(subs)
    symbols = make_int_tile(BLOCK + subs + 1)
    scratch = make_int_tile(1)
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, BLOCK, x, tile, starts)
        load_weights(group, blocks, BLOCK, weights, wtile, starts)
        clamp_tile(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
        for i in range(subs):
            store(ideal, i, extreme(tile, i * size, size) / plain)
        best_d = to_f16_grid(extreme(ideal, 0, subs) / peaks[0])
        error, above, below = choose_scales(
            tile, wtile, size, ideal, best_d, window[:2] * np.float32(0.0), best, least, most, lo, hi, book
        )
        if len(targets) > 0:
            for i in range(subs):
                top = extreme(tile, i * size, size)
                store(ideal, i, best_scale(tile, wtile, i * size, size, top, targets, rounds, lo, hi, book))
            peak = extreme(ideal, 0, subs)
            for p in range(len(peaks)):
                d = stored_scale(peak / peaks[p])
                for _ in range(tries):
                    e, above, below = choose_scales(
                        tile, wtile, size, ideal, d, window, chosen, least, most, lo, hi, book
                    )
                    better = e < error
                    error = where(better, e, error)
                    best_d = where(better, d, best_d)
                    for i in range(subs):
                        store(best, i, where(better, load(chosen, i), load(best, i)))
                    d = stored_scale(above * reciprocal(below))
        for i in range(subs):
            scale = load(best, i)
            inverse = reciprocal(best_d * scale)
            for j in range(i * size, i * size + size):
                store(symbols, j, code_of(nearest(load(tile, j), inverse, lo, hi, book), offset, book))
            store(symbols, BLOCK + i, to_int(scale) + bias)
        store(symbols, BLOCK + subs, f16_bits(best_d))
        pack(group, blocks, symbols, places, out, scratch)


@dataclass(frozen=True)
class SuperScaleFormat:
    """One type of this family. Integer scales are ``least .. most``, stored plus ``bias``; levels as in scale.py."""

    name: str
    size: int
    plain: float
    targets: npt.NDArray[np.float32]
    peaks: tuple[float, ...]
    window: tuple[float, ...]
    least: int
    most: int
    bias: int
    lo: int
    hi: int
    offset: int
    fields: list[list[list[Slot]]]
    tries: int = 2
    rounds: int = 1
    book: npt.NDArray[np.float32] | None = None

    def register(self) -> None:
        """Make this the encoder of the type."""
        f32, plan = np.float32, layout(self.fields)
        peaks, window = np.array(self.peaks, f32), np.array(self.window, f32)
        levels = (f32(self.lo), f32(self.hi), f32(self.offset), self.book, plan)

        @register("encode", self.name)
        def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
            searching = method != "absmax"
            targets = self.targets if searching else self.targets[:0]
            search = (self.size, f32(self.plain), targets, self.rounds, peaks, window, self.tries)
            scales = (f32(self.least), f32(self.most), self.bias)
            args = (x.reshape(-1), weights if searching else None, out.reshape(-1), *search, *scales, *levels)
            run_rows(encode_groups, groups_of(x.size // BLOCK), *args, threads=threads)


SCALES = list(range(BLOCK, BLOCK + 16))


def _q3_scales() -> list[list[Slot]]:
    """Twelve bytes: the low nibbles of scales i and i + 8, then the high bits of scales i, i + 4, i + 8, i + 12."""
    low = [[(SCALES[i], 0, 15, 0), (SCALES[i + 8], 0, 15, 4)] for i in range(8)]
    high = [[(SCALES[i + 4 * k], 4, 3, 2 * k) for k in range(4)] for i in range(4)]
    return low + high


def _iq4_xs_scales() -> list[list[Slot]]:
    """High bits of the eight scales, two each, then the low nibbles of neighbours."""
    high = [[(SCALES[4 * b + k], 4, 3, 2 * k) for k in range(4)] for b in range(2)]
    low = [[(SCALES[2 * b], 0, 15, 0), (SCALES[2 * b + 1], 0, 15, 4)] for b in range(4)]
    return high + low


_D16, _D8 = whole([BLOCK + 16], 2), whole([BLOCK + 8], 2)

# fmt: off
for _format in (
    SuperScaleFormat("Q3_K", size=16, plain=-4, least=-32, most=31, bias=32, lo=-4, hi=3, offset=4,
                     targets=both(spread(-4.9, -2.8, 9), spread(2.8, 4.0, 6)), peaks=(-32, -30.5, -29, 31, 29.5),
                     window=(0, -1, 1, 2),
                     fields=[planes(strided(256, 8, 32), 1, right=2), planes(strided(256, 4, 32), 2, right=0),
                             _q3_scales(), _D16]),
    SuperScaleFormat("Q6_K", size=16, plain=-32, least=-128, most=127, bias=0, lo=-32, hi=31, offset=32,
                     targets=both(spread(-33.5, -27, 9), spread(27, 32, 6)), peaks=(-128, -124, 127),
                     window=(0, -1, 1, 2, -2, -3),
                     fields=[planes(strided(256, 2, 64), 4, right=0), planes(strided(256, 4, 32), 2, right=4),
                             whole(SCALES), _D16]),
    SuperScaleFormat("IQ4_XS", size=32, plain=-127, least=-32, most=31, bias=32, lo=-127, hi=113, offset=0,
                     targets=both(spread(-140, -100, 9), spread(100, 130, 6)), peaks=(-32, -30.5, 31),
                     window=(0, -1, 1, 2), book=codebook(IQ4_LEVELS),
                     fields=[_D8, _iq4_xs_scales(), planes(strided(256, 2, 16), 4)]),
):
    _format.register()
# fmt: on
