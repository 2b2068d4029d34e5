"""Super-blocks of integer sub-block scales: Q3_K, Q6_K, IQ4_XS. Value = d * scale[i] * level.

First each sub-block gets its own best real scale. Then, for a few float16 ``d`` that map the largest of them to the ends
of the integer range, every sub-block picks the integer scale near its own of least squared error, with its codes rounded
anew for each, and ``d`` is refitted in closed form; the best of all, by the error of what is stored, is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.kernels._jit import jit, run_rows
from gguflike.kernels.dispatch import register
from gguflike.kernels.encode.layout import Slot, layout, planes, strided, whole
from gguflike.kernels.encode.scale import IQ4_LEVELS, best_scale, codebook, extreme, moments, spread, squared_error
from gguflike.kernels.encode.search import (
    clamp_tile,
    code_of,
    f16_bits,
    groups_of,
    load_blocks,
    load_weights,
    nearest,
    pack,
    prepare,
    reciprocal,
    round_to_int,
    stored_scale,
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


@jit
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
        error = squared_error(tile, weights, i * size, size, d * middle, lo, hi, book)
        for k in range(len(window)):
            other = minimum(maximum(middle + window[k], lanes(least)), lanes(most))
            e = squared_error(tile, weights, i * size, size, d * other, lo, hi, book)
            scale = where(e < error, other, scale)
            error = minimum(e, error)
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
    words: Any, slots: Any, block_bytes: int,
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
    scratch = make_int_tile(len(words))
    starts = np.empty(LANES, np.int64)
    for group in range(start, stop):
        load_blocks(group, blocks, BLOCK, x, tile, starts)
        load_weights(group, blocks, BLOCK, weights, wtile, starts)
        clamp_tile(tile, BLOCK, magnitude(extreme(tile, 0, BLOCK)))
        for i in range(subs):
            store(ideal, i, extreme(tile, i * size, size) / plain)
        best_d = stored_scale(extreme(ideal, 0, subs) / peaks[0])
        error, above, below = choose_scales(
            tile, wtile, size, ideal, best_d, window[:0], best, least, most, lo, hi, book
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
        pack(group, blocks, symbols, words, slots, block_bytes, out, scratch)


@dataclass(frozen=True)
class SuperScaleFormat:
    """One type of this family. Integer scales are ``least .. most``, stored as scale + ``bias``; levels as in scale.py."""

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
        levels = (f32(self.lo), f32(self.hi), f32(self.offset), self.book, plan.words, plan.slots, plan.block_bytes)

        @register("encode", self.name)
        def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None = None) -> None:
            searching = method != "absmax"
            run_rows(
                encode_groups, groups_of(x.size // BLOCK), x.reshape(-1), prepare(weights) if searching else None,
                out.reshape(-1), self.size, f32(self.plain), self.targets if searching else self.targets[:0], self.rounds,
                peaks, window, self.tries, f32(self.least), f32(self.most), self.bias, *levels, threads=threads,
            )  # fmt: skip


CODES = np.arange(BLOCK)
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


for _format in (
    SuperScaleFormat(
        "Q3_K", 16, -4, np.concatenate([spread(-4.9, -2.8, 9), spread(2.8, 4.0, 6)]), (-32, -30.5, -29, 31, 29.5),
        (-1, 1), -32, 31, 32, -4, 3, 4,
        [planes(strided(256, 8, 32), 1, right=2), planes(strided(256, 4, 32), 2), _q3_scales(), whole([272], 2)],
    ),
    SuperScaleFormat(
        "Q6_K", 16, -32, np.concatenate([spread(-33.5, -27, 9), spread(27, 32, 6)]), (-128, -124, 127),
        (-2, -1, 1, 2), -128, 127, 0, -32, 31, 32,
        [planes(strided(256, 2, 64), 4), planes(strided(256, 4, 32), 2, right=4), whole(SCALES), whole([272], 2)],
    ),
    SuperScaleFormat(
        "IQ4_XS", 32, -127, np.concatenate([spread(-140, -100, 9), spread(100, 130, 6)]), (-32, -30.5, 31),
        (-1, 1), -32, 31, 32, -127, 113, 0,
        [whole([264], 2), _iq4_xs_scales(), planes(strided(256, 2, 16), 4)],
        book=codebook(IQ4_LEVELS),
    ),
):  # fmt: skip
    _format.register()
