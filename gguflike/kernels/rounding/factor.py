"""The factors H = B D B^T, B unit upper triangular, and systems of equations with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.kernels.engine.jit import jit, lean
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.vector.arrays import load, load_splat, store
from gguflike.kernels.vector.lanes import fma, splat
from gguflike.kernels.vector.sizes import LANES

Floats = npt.NDArray[np.float32]
PANEL = 64  # pivots that are taken together
SQUARE = 512  # of a matrix that is transposed in its place
LEAST = np.float32(1e-6)  # what is left of a diagonal value at least: less is noise of float32


@jit
def _panel(first: int, last: int, h: Floats, least: Floats) -> None:
    """Factor rows ``first .. last`` of what is left of the lower triangle; row i becomes column i of B sqrt(D)."""
    for i in range(last - 1, first - 1, -1):
        row = h[i]
        root = np.sqrt(max(row[i], least[i]))
        for j in range(i):
            row[j] /= root
        row[i] = root
        for a in range(first, i):
            other, factor = h[a], row[a]
            for j in range(a + 1):
                other[j] -= factor * row[j]


@jit
def _update(start: int, stop: int, first: int, last: int, h: Floats) -> None:
    """Take what rows ``first .. last`` explain from the rows before them. Range: rows, the longest first."""
    for index in range(start, stop):
        a = first - 1 - index
        row, n = h[a], a + 1
        i = first
        while i + 4 <= last:
            w, x, y, z = h[i], h[i + 1], h[i + 2], h[i + 3]
            p, q, s, t = w[a], x[a], y[a], z[a]
            for j in range(n):
                row[j] -= (p * w[j] + q * x[j]) + (s * y[j] + t * z[j])
            i += 4
        for k in range(i, last):
            w = h[k]
            p = w[a]
            for j in range(n):
                row[j] -= p * w[j]


@jit
def _solve(start: int, stop: int, b: Floats, d: Floats, y: Floats) -> None:
    """Replace rows of ``y`` by those x for which x B D B^T is y. Range: groups of sixteen rows."""
    k = len(d)
    tile = np.empty(k * LANES, np.float32)
    for group in range(start, stop):
        first = group * LANES
        count = min(LANES, y.shape[0] - first)
        tile[:] = 0
        for r in range(count):
            row = y[first + r]
            for j in range(k):
                tile[j * LANES + r] = row[j]
        _solve_right(tile, b)
        for j in range(k):
            store(tile, j, load(tile, j) / splat(d[j]))
        _solve_left(tile, b)
        for r in range(count):
            row = y[first + r]
            for j in range(k):
                row[j] = tile[j * LANES + r]


@lean
def _solve_right(tile: Floats, b: Floats) -> None:
    """Replace y in the lanes of a tile by the x for which x B^T is y."""
    k = b.shape[0]
    for i in range(k - 1, -1, -1):
        row = b[i]
        s, t, u, v = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        j = i + 1
        while j + 4 <= k:
            s = fma(load(tile, j), load_splat(row, j), s)
            t = fma(load(tile, j + 1), load_splat(row, j + 1), t)
            u = fma(load(tile, j + 2), load_splat(row, j + 2), u)
            v = fma(load(tile, j + 3), load_splat(row, j + 3), v)
            j += 4
        while j < k:
            s = fma(load(tile, j), load_splat(row, j), s)
            j += 1
        store(tile, i, load(tile, i) - ((s + t) + (u + v)))


@lean
def _solve_left(tile: Floats, b: Floats) -> None:
    """Replace y in the lanes of a tile by the x for which x B is y."""
    k = b.shape[0]
    i = 0
    while i < k:
        count = min(4, k - i)
        for p in range(i, i + count):  # those that are taken together
            solved = -load(tile, p)
            for j in range(p + 1, i + count):
                store(tile, j, fma(solved, load_splat(b[p], j), load(tile, j)))
        if count == 4:
            s, t, u, v = -load(tile, i), -load(tile, i + 1), -load(tile, i + 2), -load(tile, i + 3)
            row0, row1, row2, row3 = b[i], b[i + 1], b[i + 2], b[i + 3]
            for j in range(i + 4, k):
                left = fma(s, load_splat(row0, j), fma(t, load_splat(row1, j), load(tile, j)))
                store(tile, j, fma(u, load_splat(row2, j), fma(v, load_splat(row3, j), left)))
        i += count


def factor(hessian: Floats, threads: int | None) -> tuple[Floats, Floats]:
    """Factor a symmetric positive definite float32 (k, k): D (k,), and B (k, k), in the same memory.

    B has ones on its diagonal and zeros below it. A diagonal value of which less than a millionth is left, once what
    later columns explain of it is gone, keeps a millionth: such a column is a combination of others.
    """
    k = len(hessian)
    least = LEAST * hessian.diagonal()
    for last in range(k, 0, -PANEL):
        first = max(0, last - PANEL)
        _panel(first, last, hessian, least)
        run_rows(_update, first, first, last, hessian, threads=threads, least=16)
    roots = hessian.diagonal().copy()
    starts = range(0, k, SQUARE)
    for i in starts:
        for j in starts[i // SQUARE :]:
            above, below = hessian[i : i + SQUARE, j : j + SQUARE], hessian[j : j + SQUARE, i : i + SQUARE]
            turned = below.T / roots[j : j + SQUARE]
            below[:] = 0
            above[:] = np.triu(turned) if i == j else turned
    np.fill_diagonal(hessian, 1)
    return hessian, roots * roots


def solve(b: Floats, d: Floats, y: Floats, threads: int | None) -> None:
    """Replace each row of ``y`` float32 (n, k) by the x for which x H is that row, H = B D B^T as ``factor`` gives."""
    run_rows(_solve, -(-len(y) // LANES), b, d, y, threads=threads)
