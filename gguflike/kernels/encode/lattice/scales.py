"""The scales of a super-block: which to try, and the d and k that are best for the points found.

A candidate's error is a parabola in the scale (block.py), so all k and all candidates compete at every d tried. *Gain*
is by how much points at a scale lower the squared error of zeros: s (dot - s norm). Scales inside are relative to the
block's largest magnitude (``largest``); a *step* is such a scale for d alone, so that sub-blocks' scales are step *
(2 k + 1). d itself is a float32 that float16 holds exactly.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.encode.lattice.block import sum_sub_blocks
from gguflike.kernels.encode.lattice.scratch import OCTETS, Scratch, Search, Shape
from gguflike.kernels.encode.rounding import F16_MIN, round_to_f16
from gguflike.kernels.encode.tiles import F32, Floats, IntTile, Tile
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
from gguflike.kernels.vector.types import F32x16

_HUGE = np.float32(1e10)  # relative scales above this are equally useless, and their squares stay finite


@lean
def _stored_d(step: F32x16, shape: Shape, largest: float) -> F32x16:
    """The float16 values d nearest to steps, finite and above zero."""
    return maximum(round_to_f16(step * splat(largest) / splat(np.float32(shape.factor))), splat(F16_MIN))


@lean
def _step_of(d: F32x16, shape: Shape, largest: float) -> F32x16:
    """The step that a float16 d amounts to."""
    return minimum(d * np.float32(shape.factor) / splat(largest), splat(_HUGE))


@lean(forceinline=True)
def first_scales(shape: Shape, search: Search, at: Scratch, floats: Tile, ints: IntTile, largest: float) -> F32:
    """Set the scales of the candidates: those of ``search``, then the absmax rule's. Chooses the latter; returns its d.

    Absmax rule: d lets the largest magnitude of the block meet the largest coordinate of a point at the largest k; each
    k is the nearest to what does the same for its sub-block. Others are relative to sqrt(sum w y^2 / sum w).
    """
    d = _stored_d(splat(np.float32(1 / (shape.max_coordinate * (2 * shape.max_k + 1)))), shape, largest)
    step = _step_of(d, shape, largest)
    sum_wyy = sum_sub_blocks(shape, load(floats, at.octet_sums), load(floats, at.octet_sums + 1))
    sum_w = sum_sub_blocks(shape, load(floats, at.octet_sums + 2), load(floats, at.octet_sums + 3))
    root_mean_square = sqrt(sum_wyy / where(sum_w > np.float32(0), sum_w, splat(np.float32(1))))
    for m in range(len(search.scales)):
        store(floats, at.scale + m, maximum(root_mean_square * search.scales[m], step))
    absmax = len(search.scales) + 2 * search.resample
    peak0, peak1 = load(floats, at.octet_sums + 4), load(floats, at.octet_sums + 5)
    peak = maximum(evens(peak0, peak1), odds(peak0, peak1))
    if shape.log_octets == 2:
        peak = maximum(evens(peak, peak), odds(peak, peak))
    k = minimum(peak / (step * np.float32(2 * shape.max_coordinate)), splat(np.float32(shape.max_k)))
    store(ints, at.choice, to_int(k))
    store(ints, at.choice + 1, splat_i32(absmax))
    k = to_float(to_int(k))
    store(floats, at.scale + absmax, (k + k + np.float32(1)) * step)
    return reduce_max(d)


@lean
def _best_k(ideal: F32x16, quarter: F32x16, max_k: int) -> F32x16:
    """The k for which step * (2 k + 1) is nearest to ``ideal`` / 2 >= 0, as float32; ``quarter`` = 1 / (4 step)."""
    return truncate(minimum(ideal * quarter, splat(np.float32(max_k))))


@lean(forceinline=True)
def choose(shape: Shape, at: Scratch, floats: Tile, ints: IntTile, d: float, largest: float, candidates: int) -> None:
    """Choose the k and the candidate of largest gain for every sub-block at a given d."""
    step = _step_of(splat(d), shape, largest)
    quarter = np.float32(0.25) / step
    best = splat(np.float32(-np.inf))
    best_k = best
    best_m = splat_i32(0)
    for m in range(candidates):
        k = _best_k(load(floats, at.ideal + m), quarter, shape.max_k)
        scale = fma(k, step + step, step)
        gain = scale * fma(-scale, load(floats, at.norm + m), load(floats, at.dot + m))
        better = gain > best
        best, best_k = where(better, gain, best), where(better, k, best_k)
        best_m = where(better, splat_i32(m), best_m)
    store(ints, at.choice, to_int(best_k))
    store(ints, at.choice + 1, best_m)


@lean
def _largest_scale(at: Scratch, floats: Tile, candidates: int) -> F32:
    """The largest of the sub-blocks' best scales, each at the candidate of largest gain."""
    scale = splat(np.float32(0))
    best = scale
    for m in range(candidates):
        ideal = load(floats, at.ideal + m)
        gain = load(floats, at.dot + m) * ideal
        scale, best = where(gain > best, ideal, scale), maximum(gain, best)
    return reduce_max(scale) * np.float32(0.5)


@lean(forceinline=True)
def _best_gains(shape: Shape, at: Scratch, floats: Tile, candidates: int, sub_block: int, step: F32x16) -> F32x16:
    """The largest gain of a sub-block over its candidates and all k, at a step per lane."""
    quarter = np.float32(0.25) / step
    best = splat(np.float32(-np.inf))
    for place in range(sub_block, sub_block + candidates * LANES, LANES):
        k = _best_k(load_splat(floats, place + at.ideal * LANES), quarter, shape.max_k)
        scale = fma(k, step + step, step)
        norm, dot = load_splat(floats, place + at.norm * LANES), load_splat(floats, place + at.dot * LANES)
        best = maximum(scale * fma(-scale, norm, dot), best)
    return best


@lean
def search_d(
    shape: Shape, d_grid: Floats, at: Scratch, floats: Tile, largest: float, first: float, candidates: int
) -> tuple[F32, F32]:
    """The d of largest gain over the block, and that gain; twice 0 where zeros are best. One d per lane is tried.

    ``d_grid`` holds the d to try, a multiple of 16 of them, relative to the d at which max_k just reaches the largest
    sub-block's best scale; ``first`` stands in for its first.
    """
    largest_step = _largest_scale(at, floats, candidates) / np.float32(2 * shape.max_k + 1)
    best_gain, best_d = np.float32(0), np.float32(0)
    for row in range(len(d_grid) // LANES):
        store(floats, at.d_candidates, _stored_d(load(d_grid, row) * largest_step, shape, largest))
        if row == 0:
            floats[at.d_candidates * LANES] = first
        d = load(floats, at.d_candidates)
        step = _step_of(d, shape, largest)
        gains = splat(np.float32(0))
        for sub_block in range(OCTETS >> shape.log_octets):
            gains = gains + _best_gains(shape, at, floats, candidates, sub_block, step)
        gain = reduce_max(gains)
        if gain > best_gain:
            best_gain, best_d = gain, reduce_max(where(gains == gain, d, splat(np.float32(0))))
    return best_d, best_gain


@lean
def at_choice(at: Scratch, floats: Tile, ints: IntTile, table: int) -> F32x16:
    """The number that each sub-block has in ``table`` at the candidate chosen for it."""
    return gather(floats, (load(ints, at.choice + 1) + table) * LANES + load(ints, at.lane_numbers))


@lean(forceinline=True)
def resample(shape: Shape, at: Scratch, floats: Tile, ints: IntTile, d: float, largest: float, m: int) -> None:
    """Set the scales of candidates m and m + 1: the chosen ones, and their neighbours towards the best real scale."""
    step = _step_of(splat(d), shape, largest)
    k = to_float(load(ints, at.choice))
    scale = (k + k + np.float32(1)) * step
    above = at_choice(at, floats, ints, at.ideal) > scale + scale
    k = where(above, k + np.float32(1), maximum(k - np.float32(1), splat(np.float32(0))))
    k = minimum(k, splat(np.float32(shape.max_k)))
    store(floats, at.scale + m, scale)
    store(floats, at.scale + m + 1, (k + k + np.float32(1)) * step)


@lean(forceinline=True)
def refit_d(
    shape: Shape, at: Scratch, floats: Tile, ints: IntTile, d: float, largest: float, dot_change: F32x16
) -> F32:  # fmt: skip
    """The float16 nearest to the best d for the chosen points and k, if its gain is larger than that of ``d``.

    With n = 2 k + 1 the gain is step (sum n dot - step sum n^2 norm), largest at step = (sum n dot) / (2 sum n^2 norm).
    ``dot_change`` is what has to be added to ``dot``.
    """
    k = to_float(load(ints, at.choice))
    steps = k + k + np.float32(1)
    dot = reduce_add((at_choice(at, floats, ints, at.dot) + dot_change) * steps)
    norm = reduce_add(at_choice(at, floats, ints, at.norm) * steps * steps)
    if dot <= 0 or norm <= 0:
        return d
    best = _stored_d(splat(dot / (norm + norm)), shape, largest)
    step, old_step = _step_of(best, shape, largest), _step_of(splat(d), shape, largest)
    better = step * (dot - step * norm) > old_step * (dot - old_step * norm)
    return reduce_max(where(better, best, splat(d)))
