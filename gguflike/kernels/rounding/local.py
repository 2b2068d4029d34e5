"""The problem of a few columns when all others stay as they are: sixteen candidates for their scales at once.

With H_J the columns' part of H and G_J theirs of G = E H, the best real values are v* = v + G_J H_J^-1; any values w
cost (v* - w) H_J (v* - w)^T more than these. A candidate is a scale and a minimum for each sub-block; it has a lane, in
which the codes are rounded to it with error feedback.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.rounding import Levels, nearest_level
from gguflike.kernels.encode.tiles import F32, Floats, Tile
from gguflike.kernels.engine.jit import inner, jit, lean
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.rounding.factor import LEAST
from gguflike.kernels.vector.arrays import load, load_splat, store
from gguflike.kernels.vector.lanes import fma, splat
from gguflike.kernels.vector.sizes import LANES

Indices = npt.NDArray[np.int64]
PANEL = 4  # columns whose targets are summed up together


class Local(NamedTuple):
    """The parts of H for blocks of ``width`` columns, one after the other.

    ``order`` int64 (k,): the columns of each block by decreasing diagonal value, and ``group`` their sub-blocks,
    counted within the block. ``b`` float32 (k, width), ``d`` (k,): in this order a block's H_J = B diag(d) B^T; ``b``
    has B above its diagonal, and its transpose below. ``inverse`` float32 (k, width): of each H_J, its columns as they
    stand.
    """

    width: int
    order: Indices
    group: Indices
    b: Floats
    d: Floats
    inverse: Floats


class Candidates(NamedTuple):
    """Scales of sixteen candidates and how they fare: tiles, which have a lane for each.

    ``factors``, their ``inverses`` and ``shifts`` have a row for each sub-block, ``levels``, those chosen, and
    ``errors``, from the best values, one for each column; ``costs``, ``d`` and ``m`` have one. ``wanted`` (width,) are
    the best values, ``steps`` their distance from the present ones.
    """

    factors: Tile
    inverses: Tile
    shifts: Tile
    levels: Tile
    errors: Tile
    costs: Tile
    d: Tile
    m: Tile
    wanted: Floats
    steps: Floats


@inner
def _tile(rows: int) -> Tile:
    return np.empty(rows * LANES, np.float32)


@inner
def make_candidates(width: int) -> Candidates:
    """Room for the candidates of blocks of up to ``width`` columns."""
    return Candidates(
        _tile(width), _tile(width), _tile(width), _tile(width), _tile(width), _tile(1), _tile(1), _tile(1),
        np.empty(width, np.float32), np.empty(width, np.float32),
    )  # fmt: skip


@jit
def _factor_blocks(start: int, stop: int, hessian: Floats, local: Local) -> None:
    width, order = local.width, local.order
    for block in range(start, stop):
        first = block * width
        part = local.b[first : first + width]
        for i in range(width):
            for j in range(width):
                part[i, j] = hessian[order[first + i], order[first + j]]
        for i in range(width - 1, -1, -1):
            row = part[i]
            pivot = max(row[i], LEAST * hessian[order[first + i], order[first + i]])
            local.d[first + i] = pivot
            for a in range(i):
                other, factor = part[a], row[a] / pivot
                for j in range(a + 1):
                    other[j] -= factor * row[j]
            for j in range(i):
                row[j] /= pivot
            row[i] = 1
        for i in range(width):
            for j in range(i):
                part[j, i] = part[i, j]
        _invert(first, local)


@inner
def _invert(first: int, local: Local) -> None:
    """Fill ``local.inverse`` of a block: B^-T D^-1 B^-1, in float64."""
    width = local.width
    solved, found = np.eye(width), np.zeros((width, width))
    for i in range(width - 1, 0, -1):
        row = solved[i]
        for a in range(i):
            other, factor = solved[a], np.float64(local.b[first + a, i])
            for j in range(i, width):
                other[j] -= factor * row[j]
    for i in range(width):
        row, weight = solved[i], 1 / np.float64(local.d[first + i])
        for a in range(i, width):
            other, factor = found[a], weight * row[a]
            for j in range(i, width):
                other[j] += factor * row[j]
    for i in range(width):
        for j in range(width):
            at = local.order[first + i]
            local.inverse[at, local.order[first + j] - first] = found[i, j]


def factor_blocks(hessian: Floats, width: int, size: int, threads: int | None) -> Local:
    """Factor the parts of ``hessian`` float32 (k, k) for each ``width`` columns, of which ``size`` share a scale."""
    k = len(hessian)
    within = np.argsort(-hessian.diagonal().reshape(-1, width), axis=1, kind="stable")
    order = (np.arange(0, k, width)[:, None] + within).reshape(-1)
    parts = np.empty((k, width), np.float32), np.empty(k, np.float32), np.empty((k, width), np.float32)
    local = Local(width, order, within.reshape(-1) // size, *parts)
    run_rows(_factor_blocks, k // width, hessian, local, threads=threads)
    return local


@lean
def bend(x: Floats, matrix: Floats, first: int, begin: int, out: Floats) -> None:
    """Fill ``out`` with the product of x, whose size four divides, and as many rows of ``matrix`` from ``first`` and
    columns from ``begin`` on."""
    width = len(x)
    end = begin + width
    for j in range(width):
        out[j] = 0
    for i in range(0, width, 4):
        at = first + i
        a, b, c, d = (
            matrix[at, begin:end], matrix[at + 1, begin:end], matrix[at + 2, begin:end], matrix[at + 3, begin:end]
        )  # fmt: skip
        p, q, s, t = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(width):
            out[j] += (p * a[j] + q * b[j]) + (s * c[j] + t * d[j])


@lean
def best_steps(first: int, local: Local, g: Floats, steps: Floats) -> F32:
    """Fill ``steps`` (width,) with v* - v of the block from ``first`` on; returns what v costs more than v*."""
    width = local.width
    bend(g[first : first + width], local.inverse, first, 0, steps)
    cost = np.float32(0)
    for i in range(width):
        cost += steps[i] * g[first + i]
    return cost


@lean
def round_candidates(first: int, local: Local, levels: Levels, c: Candidates) -> None:
    """Round the block from ``first`` on to each lane's factors and shifts: ``c.levels`` and ``c.costs``."""
    width = local.width
    cost = splat(0.0)
    for panel in range(0, width, PANEL):
        row0, row1, row2, row3 = (
            local.b[first + panel], local.b[first + panel + 1], local.b[first + panel + 2], local.b[first + panel + 3],
        )  # fmt: skip
        target0, target1 = splat(c.wanted[panel]), splat(c.wanted[panel + 1])
        target2, target3 = splat(c.wanted[panel + 2]), splat(c.wanted[panel + 3])
        for i in range(panel):
            error = load(c.errors, i)
            target0 = fma(error, load_splat(row0, i), target0)
            target1 = fma(error, load_splat(row1, i), target1)
            target2 = fma(error, load_splat(row2, i), target2)
            target3 = fma(error, load_splat(row3, i), target3)
        store(c.errors, panel + 1, target1)
        store(c.errors, panel + 2, target2)
        store(c.errors, panel + 3, target3)
        target = target0
        for i in range(panel, panel + PANEL):
            if i > panel:
                target, row = load(c.errors, i), local.b[first + i]
                for j in range(panel, i):
                    target = fma(load(c.errors, j), load_splat(row, j), target)
            sub = local.group[first + i]
            shift = load(c.shifts, sub)
            level = nearest_level(target + shift, load(c.inverses, sub), levels)
            rounded = fma(level, load(c.factors, sub), -shift)
            store(c.levels, i, level)
            store(c.errors, i, splat(c.wanted[i]) - rounded)
            left = target - rounded
            cost = fma(left * left, splat(local.d[first + i]), cost)
    store(c.costs, 0, cost)


@lean
def best_lane(costs: Tile) -> int:
    """The lane that costs least; the last where none costs a finite amount."""
    lane, least = LANES - 1, np.float32(np.inf)
    for i in range(LANES):
        if costs[i] < least:
            lane, least = i, costs[i]
    return lane
