"""The online softmax of attention, for a tile of rows at once: each row's chain of dependent steps hides the others'.

Scores are in units of log2 e (attention.py scales the queries so), and weights are powers of two of them. After Milakov
and Gimelshein, "Online normalizer calculation for softmax" (2018): the running maximum and sum of each row rescale what
was added before.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gguflike.kernels.program import ATTENTION_KEYS
from gguflike.kernels.simd import F32, FLOATS, INTS, LANES, Emitter, address, operation, void

LOG2_E = 1.4426950408889634
MASKED = -1e30
ROW = 4 * ATTENTION_KEYS  # bytes of a row of scores

# Chebyshev fit of 2**r on [-0.5, 0.5], lowest power first; its relative error is at most 8e-8.
_POWERS = (1.00000012, 0.693146944, 0.240221217, 0.0555074252, 0.00967545994, 0.00132669706)
_LOWEST = -126.0  # 2**-126 is the smallest normal float32


def exp2(e: Emitter, x: Any) -> Any:
    """2**x for x up to 127; at least 2**-126."""
    lowest = e.const(FLOATS, _LOWEST)
    x = e.b.select(e.b.fcmp_ordered(">", x, lowest), x, lowest)
    whole = e.round(x)
    rest = e.b.fsub(x, whole)
    power = e.const(FLOATS, _POWERS[-1])
    for factor in reversed(_POWERS[:-1]):
        power = e.fma(power, rest, e.const(FLOATS, factor))
    exponent = e.b.shl(e.b.fptosi(whole, INTS), e.const(INTS, 23))
    return e.b.bitcast(e.b.add(e.b.bitcast(power, INTS), exponent), FLOATS)


def _maximum(e: Emitter, a: Any, b: Any) -> Any:
    return e.b.select(e.b.fcmp_ordered(">", a, b), a, b)


def _greatest(e: Emitter, value: Any) -> Any:
    """The greatest lane, in every lane."""
    for step in (8, 4, 2, 1):
        order = ir.Constant(INTS, [lane ^ step for lane in range(LANES)])
        value = _maximum(e, value, e.b.shuffle_vector(value, value, order))
    return value


@operation(void, address, address)
def mask_lanes(e: Emitter, place: Any, keep: Any) -> None:
    """Mask the sixteen scores at ``place`` but the first ``keep``."""
    e.store(e.b.select(e.first_lanes(keep), e.load(FLOATS, place), e.const(FLOATS, MASKED)), place)


def make_softmax(rows: int) -> Any:
    """A kernel (scores, count, running, out, dim) that turns ``count`` scores (a multiple of 16) per row into weights.

    ``running`` holds the rows' maxima, then their sums; ``out`` (rows, dim) is rescaled for the new maxima.
    """

    @operation(void, address, address, address, address, address)
    def softmax(e: Emitter, scores: Any, count: Any, running: Any, out: Any, dim: Any) -> None:
        b, zero, each = e.b, e.int64(0), range(rows)

        def at(index: Any) -> Any:
            return b.add(scores, b.shl(index, e.int64(2)))

        def raise_tops(index: Any, tops: list[Any]) -> list[Any]:
            here = at(index)
            return [_maximum(e, tops[r], e.load(FLOATS, here, ROW * r)) for r in each]

        def weigh(index: Any, sums: list[Any]) -> list[Any]:
            here = at(index)
            weights = [exp2(e, b.fsub(e.load(FLOATS, here, ROW * r), now[r])) for r in each]
            for r in each:
                e.store(weights[r], here, ROW * r)
            return [b.fadd(sums[r], weights[r]) for r in each]

        def rescale(index: Any, nothing: list[Any]) -> list[Any]:
            for r in each:
                here = b.add(out, b.shl(b.add(index, b.mul(dim, e.int64(r))), e.int64(2)))
                e.store(b.fmul(e.load(FLOATS, here), shrink[r]), here)
            return nothing

        before = [e.broadcast(FLOATS, running, 4 * r) for r in each]
        tops = e.loop(zero, count, LANES, before, raise_tops)
        now = [_greatest(e, top) for top in tops]
        shrink = [exp2(e, b.fsub(before[r], now[r])) for r in each]
        sums = e.loop(zero, count, LANES, [e.zero(FLOATS)] * rows, weigh)
        for r in each:
            first = ir.Constant(INTS.element, 0)
            old = b.fmul(e.load(F32, running, 4 * (rows + r)), b.extract_element(shrink[r], first))
            e.store(b.fadd(old, e.sum(sums[r])), running, 4 * (rows + r))
            e.store(b.extract_element(now[r], first), running, 4 * r)
        e.loop(zero, dim, LANES, [], rescale)

    return softmax
