"""Scales, minima and codes together: for each block and sub-block, sixteen candidates for its scales compete.

The codes of its columns are rounded anew for each (local.py); the best replaces what is there where it costs less.
Coordinate descent of the codes follows.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.encode.rounding import reciprocal, round_to_f16
from gguflike.kernels.encode.tiles import F32, Floats
from gguflike.kernels.engine.jit import jit, lean
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.rounding.local import (
    Candidates,
    Local,
    bend,
    best_lane,
    best_steps,
    make_candidates,
    round_candidates,
)
from gguflike.kernels.rounding.products import TILE
from gguflike.kernels.rounding.rows import (
    Numbers,
    Rows,
    Tables,
    begin_rows,
    follow,
    make_rows,
    read,
    sweep,
)
from gguflike.kernels.vector.arrays import load, store
from gguflike.kernels.vector.sizes import LANES

BETTER = np.float32(1 - 1e-5)  # of its cost a block must save this much, or float32 might be mistaken
F16_MAX = np.float32(65504)


@lean
def offsets(lane: int, two: bool) -> tuple[int, int]:
    """How many steps the scale and the minimum of a lane are from those in the middle."""
    if two:
        return lane % 3 - 1, lane // 3 - 2
    return lane - 7, 0


@lean
def want(rows: Rows, r: int, begin: int, local: Local, c: Candidates) -> F32:
    """Fill ``c.wanted`` for the block from column ``begin`` on; returns what its present values cost more."""
    cost = best_steps(begin, local, rows.g[r], c.steps)
    for i in range(local.width):
        j = local.order[begin + i]
        c.wanted[i] = c.steps[j - begin] + rows.values[r, j]
    return cost


@lean
def take(
    rows: Rows, numbers: Numbers, t: Tables, first: int, r: int, begin: int, lane: int, local: Local, c: Candidates
) -> None:
    """Take the codes of a lane; ``rows.values`` are the old ones still."""
    for i in range(local.width):
        j, at = local.order[begin + i], local.group[begin + i] * LANES + lane
        level = c.levels[i * LANES + lane]
        rows.moved[r, j] = rows.values[r, j] - (c.factors[at] * level - c.shifts[at])
        position = 0
        if t.step != 0:
            position = int((level - t.levels[0]) / t.step)
        else:
            while t.levels[position] < level:
                position += 1
        numbers.codes[first + r, j] = position


@lean
def choose_integers(
    rows: Rows, numbers: Numbers, t: Tables, first: int, r: int, sub: int, local: Local, c: Candidates, hessian: Floats
) -> None:
    """Choose the integer scale and minimum of a sub-block anew, together with its codes."""
    begin, row = sub * t.size, first + r
    b = begin // (hessian.shape[0] // numbers.d.shape[1])
    scale, minimum = int(numbers.scales[row, sub]), int(numbers.minima[row, sub])
    two, most_scale, most_minimum = len(t.minima) > 1, len(t.scales) - 1, len(t.minima) - 1
    for lane in range(LANES):
        x, y = offsets(lane, two)
        c.factors[lane] = numbers.d[row, b] * t.scales[min(max(scale + x, 0), most_scale)]
        c.shifts[lane] = numbers.m[row, b] * t.minima[min(max(minimum + y, 0), most_minimum)]
    store(c.inverses, 0, reciprocal(load(c.factors, 0)))
    now = want(rows, r, begin, local, c)
    round_candidates(begin, local, t.nearest, c)
    lane = best_lane(c.costs)
    if c.costs[lane] < now * BETTER:
        x, y = offsets(lane, two)
        take(rows, numbers, t, first, r, begin, lane, local, c)
        numbers.scales[row, sub] = min(max(scale + x, 0), most_scale)
        numbers.minima[row, sub] = min(max(minimum + y, 0), most_minimum)
        read(rows, numbers, t, first, r, begin, begin + t.size, hessian)


@lean
def fitted(
    rows: Rows, numbers: Numbers, t: Tables, first: int, r: int, b: int, local: Local, c: Candidates, hessian: Floats
) -> tuple[np.float32, np.float32]:
    """The d and m of a block that cost least with the codes and integers that it has, by least squares under H."""
    width, row = local.width, first + r
    begin = b * width
    u, v, x, y = c.levels[:width], c.levels[width : 2 * width], c.errors[:width], c.errors[width : 2 * width]
    for i in range(width):
        j = begin + i
        u[i] = t.scales[numbers.scales[row, j // t.size]] * t.levels[numbers.codes[row, j]]
        v[i] = -t.minima[numbers.minima[row, j // t.size]]
    bend(u, hessian, begin, begin, x)
    if t.shifted:
        bend(v, hessian, begin, begin, y)
    else:
        y[:] = 0
    ug, vg, uu, uv, vv = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(width):
        g = np.float64(rows.g[r, begin + i])
        ug += np.float64(u[i]) * g
        vg += np.float64(v[i]) * g
        uu += np.float64(u[i]) * np.float64(x[i])
        uv += np.float64(u[i]) * np.float64(y[i])
        vv += np.float64(v[i]) * np.float64(y[i])
    d, m = np.float64(numbers.d[row, b]), np.float64(numbers.m[row, b])
    determinant = uu * vv - uv * uv
    if determinant > 1e-6 * uu * vv:
        d += (vv * ug - uv * vg) / determinant
        m += (uu * vg - uv * ug) / determinant
    elif uu > 0:
        d += ug / uu
    return np.float32(d), np.float32(m)


@lean
def choose_supers(
    rows: Rows, numbers: Numbers, t: Tables, first: int, r: int, b: int, spread: np.float32, local: Local,
    c: Candidates, hessian: Floats,
) -> None:  # fmt: skip
    """Choose the super-scales of a block anew, together with its codes: steps of ``spread`` around the fitted ones."""
    width, row = local.width, first + r
    begin, subs = b * width, local.width // t.size
    d, m = fitted(rows, numbers, t, first, r, b, local, c, hessian)
    if not (np.abs(d) <= F16_MAX and np.abs(m) <= F16_MAX):
        return
    for lane in range(LANES - 1):
        x, y = offsets(lane, t.shifted)
        c.d[lane], c.m[lane] = d * (1 + spread * x), m * (1 + spread * y)
        if not t.signed:
            c.m[lane] = max(c.m[lane], np.float32(0))
    c.d[LANES - 1], c.m[LANES - 1] = numbers.d[row, b], numbers.m[row, b]
    store(c.d, 0, round_to_f16(load(c.d, 0)))
    store(c.m, 0, round_to_f16(load(c.m, 0)))
    for k in range(subs):
        sub = begin // t.size + k
        store(c.factors, k, load(c.d, 0) * t.scales[numbers.scales[row, sub]])
        store(c.shifts, k, load(c.m, 0) * t.minima[numbers.minima[row, sub]])
        store(c.inverses, k, reciprocal(load(c.factors, k)))
    now = want(rows, r, begin, local, c)
    round_candidates(begin, local, t.nearest, c)
    lane = best_lane(c.costs)
    if c.costs[lane] < now * BETTER:
        take(rows, numbers, t, first, r, begin, lane, local, c)
        numbers.d[row, b], numbers.m[row, b] = c.d[lane], c.m[lane]
        read(rows, numbers, t, first, r, begin, begin + width, hessian)


@jit
def _refine(
    start: int, stop: int, weights: Floats, hessian: Floats, t: Tables, numbers: Numbers, block: Local, sub: Local,
    has_super: bool, spreads: Floats, passes: int,
) -> None:  # fmt: skip
    k, width = hessian.shape[0], block.width
    rows, c = make_rows(t.size, hessian), make_candidates(width)
    for first in range(start, stop, TILE):
        count = min(TILE, stop - first)
        for spread in spreads:
            begin_rows(rows, numbers, t, first, count, weights, hessian)
            rows.moved[:] = 0
            if has_super:
                for b in range(k // width):
                    for r in range(count):
                        choose_supers(rows, numbers, t, first, r, b, spread, block, c, hessian)
                    follow(rows, count, b * width, (b + 1) * width, hessian)
                    rows.moved[:, b * width : (b + 1) * width] = 0
            if len(t.scales) > 1:
                for _ in range(2):
                    for s in range(k // t.size):
                        for r in range(count):
                            choose_integers(rows, numbers, t, first, r, s, sub, c, hessian)
                        follow(rows, count, s * t.size, (s + 1) * t.size, hessian)
                        rows.moved[:, s * t.size : (s + 1) * t.size] = 0
        begin_rows(rows, numbers, t, first, count, weights, hessian)
        for _ in range(passes):
            if not sweep(rows, numbers, t, first, count, hessian):
                break


def refine(
    weights: Floats, hessian: Floats, tables: Tables, numbers: Numbers, block: Local, sub: Local, has_super: bool,
    spreads: Floats, passes: int, threads: int | None,
) -> None:  # fmt: skip
    """Improve the numbers of rows in place under ``hessian`` float32 (k, k), ``weights`` float32 (n, k) their target.

    For each of ``spreads`` float32, a round of choices: super-scales by steps of it, where the type has any, then twice
    the integers. Up to ``passes`` passes of coordinate descent follow. ``block`` and ``sub``: H's parts for blocks and
    sub-blocks.
    """
    run_rows(
        _refine, len(weights), weights, hessian, tables, numbers, block, sub, has_super, spreads, passes,
        threads=threads, least=TILE // 2,
    )  # fmt: skip
