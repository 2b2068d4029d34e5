"""The scales of a super-block: which to sample, and the d and k that are best for the points found.

For fixed points the error of a sub-block is a parabola in its scale, so all k and all samples compete at every d tried.
``Shape``, ``Places`` and the scratch memory ``f``, ``n`` are those of block.py. Scales inside are relative to
the block's largest magnitude; d itself is a float32 that float16 holds exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.encode.lattice.block import OCTETS, Effort, Places, Shape, add_octets
from gguflike.kernels.encode.rounding import F16_MIN, round_to_f16
from gguflike.kernels.engine.jit import lean
from gguflike.kernels.vector.arrays import gather, load, load_splat, store
from gguflike.kernels.vector.lanes import (
    evens,
    fma,
    maximum,
    minimum,
    odds,
    reduce_add,
    reduce_max,
    splat,
    splat_i32,
    sqrt,
    to_float,
    to_int,
    truncate,
    where,
)
from gguflike.kernels.vector.sizes import LANES

_HUGE = np.float32(1e10)  # relative scales above this are equally useless, and their squares stay finite


@lean
def _stored(step: Any, shape: Shape, largest: float) -> Any:
    """The float16 values nearest to relative scale steps, finite and above zero."""
    return maximum(round_to_f16(step * splat(largest) / splat(np.float32(shape.factor))), splat(F16_MIN))


@lean
def _relative(d: Any, shape: Shape, largest: float) -> Any:
    """The scale step that a float16 d amounts to."""
    return minimum(d * np.float32(shape.factor) / splat(largest), splat(_HUGE))


@lean(forceinline=True)
def first_scales(shape: Shape, effort: Effort, at: Places, f: Any, n: Any, largest: float) -> Any:
    """Sample scales: the ladder of each sub-block, then the plain rule's. Picks the latter; returns its d.

    Plain rule: d lets the largest magnitude of the block meet the largest coordinate of a point at the largest k; each
    k is the nearest to what does the same for its sub-block.
    """
    d = _stored(splat(np.float32(1 / (shape.largest * (2 * shape.top + 1)))), shape, largest)
    step = _relative(d, shape, largest)
    energy = add_octets(shape, load(f, at.octets), load(f, at.octets + 1))
    mass = add_octets(shape, load(f, at.octets + 2), load(f, at.octets + 3))
    root = sqrt(energy / where(mass > np.float32(0), mass, splat(np.float32(1))))
    for m in range(len(effort.ladder)):
        store(f, at.scale + m, maximum(root * effort.ladder[m], step))
    plain = len(effort.ladder) + 2 * effort.again
    low, high = load(f, at.octets + 4), load(f, at.octets + 5)
    peak = maximum(evens(low, high), odds(low, high))
    if shape.log_unit == 2:
        peak = maximum(evens(peak, peak), odds(peak, peak))
    k = minimum(peak / (step * np.float32(2 * shape.largest)), splat(np.float32(shape.top)))
    store(n, at.pick, to_int(k))
    store(n, at.pick + 1, splat_i32(plain))
    k = to_float(to_int(k))
    store(f, at.scale + plain, (k + k + np.float32(1)) * step)
    return reduce_max(d)


@lean
def _best_k(ideal: Any, quarter: Any, top: int) -> Any:
    """The k whose scale is nearest to half of ``ideal`` (not negative); ``quarter`` = 1 / (4 step)."""
    return truncate(minimum(ideal * quarter, splat(np.float32(top))))


@lean(forceinline=True)
def choose(shape: Shape, at: Places, f: Any, n: Any, d: float, largest: float, samples: int) -> None:
    """Best k and sample of every sub-block at a given d, into ``pick``."""
    step = _relative(splat(d), shape, largest)
    quarter = np.float32(0.25) / step
    best = splat(np.float32(-np.inf))
    best_k = best
    best_m = splat_i32(0)
    for m in range(samples):
        k = _best_k(load(f, at.ideal + m), quarter, shape.top)
        scale = fma(k, step + step, step)
        gain = scale * fma(-scale, load(f, at.norm + m), load(f, at.dot + m))
        better = gain > best
        best, best_k = where(better, gain, best), where(better, k, best_k)
        best_m = where(better, splat_i32(m), best_m)
    store(n, at.pick, to_int(best_k))
    store(n, at.pick + 1, best_m)


@lean
def _reach(at: Places, f: Any, samples: int) -> Any:
    """The largest of the sub-blocks' best scales."""
    reach = splat(np.float32(0))
    best = reach
    for m in range(samples):
        ideal = load(f, at.ideal + m)
        gain = load(f, at.dot + m) * ideal
        reach, best = where(gain > best, ideal, reach), maximum(gain, best)
    return reduce_max(reach) * np.float32(0.5)


@lean
def search_d(shape: Shape, spread: Any, at: Places, f: Any, largest: float, start: float, samples: int) -> Any:
    """The best d for the samples taken, one candidate per lane; ``start`` stands in for the first.

    ``spread``: candidates, relative to the d that just holds the largest sub-block scale; a multiple of 16 of them.
    Returns it, and how much better it is than zeros; twice 0 if none is.
    """
    base = _reach(at, f, samples) / np.float32(2 * shape.top + 1)
    best_gain, best_d = np.float32(0), np.float32(0)
    for c in range(len(spread) // LANES):
        store(f, at.tries, _stored(load(spread, c) * base, shape, largest))
        if c == 0:
            f[at.tries * LANES] = start
        d = load(f, at.tries)
        step = _relative(d, shape, largest)
        quarter = np.float32(0.25) / step
        gains = splat(np.float32(0))
        for b in range(OCTETS >> shape.log_unit):
            best = splat(np.float32(-np.inf))
            for place in range(b, b + samples * LANES, LANES):
                k = _best_k(load_splat(f, place + at.ideal * LANES), quarter, shape.top)
                scale = fma(k, step + step, step)
                gain = scale * fma(
                    -scale, load_splat(f, place + at.norm * LANES), load_splat(f, place + at.dot * LANES)
                )
                best = maximum(gain, best)
            gains = gains + best
        gain = reduce_max(gains)
        if gain > best_gain:
            best_gain, best_d = gain, reduce_max(where(gains == gain, d, splat(np.float32(0))))
    return best_d, best_gain


@lean
def picked(at: Places, f: Any, n: Any, table: int) -> Any:
    """A number of each sub-block at the sample chosen for it."""
    return gather(f, (load(n, at.pick + 1) + table) * LANES + load(n, at.lane))


@lean(forceinline=True)
def resample(shape: Shape, at: Places, f: Any, n: Any, d: float, largest: float, m: int) -> None:
    """Sample scales m and m + 1: the chosen ones, and their neighbours on the side where the ideal scale lies."""
    step = _relative(splat(d), shape, largest)
    k = to_float(load(n, at.pick))
    scale = (k + k + np.float32(1)) * step
    above = picked(at, f, n, at.ideal) > scale + scale
    k = where(above, k + np.float32(1), maximum(k - np.float32(1), splat(np.float32(0))))
    k = minimum(k, splat(np.float32(shape.top)))
    store(f, at.scale + m, scale)
    store(f, at.scale + m + 1, (k + k + np.float32(1)) * step)


@lean(forceinline=True)
def refit(shape: Shape, at: Places, f: Any, n: Any, d: float, largest: float, change: Any) -> Any:
    """The float16 nearest to the best d for the chosen points and k, if it is better than ``d``.

    ``change``: what to add to the products with the points since they were sampled.
    """
    k = to_float(load(n, at.pick))
    steps = k + k + np.float32(1)
    dots = reduce_add((picked(at, f, n, at.dot) + change) * steps)
    norms = reduce_add(picked(at, f, n, at.norm) * steps * steps)
    if dots <= 0 or norms <= 0:
        return d
    ideal = _stored(splat(dots / (norms + norms)), shape, largest)
    step, now = _relative(ideal, shape, largest), _relative(splat(d), shape, largest)
    better = step * (dots - step * norms) > now * (dots - now * norms)
    return reduce_max(where(better, ideal, splat(d)))
