"""Products of rows with a square matrix, and the cost of rows under it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.kernels.engine.jit import jit, lean
from gguflike.kernels.engine.threads import run_rows

Floats = npt.NDArray[np.float32]
TILE = 8  # rows that share what is read of the matrix


@lean
def accumulate(x: Floats, matrix: Floats, first: int, last: int, begin: int, end: int, out: Floats) -> None:
    """Add ``x[:, first:last] @ matrix[first:last, begin:end]`` to ``out``, whose rows are those of ``x``."""
    width = end - begin
    i = first
    while i + 4 <= last:
        a, b, c, d = matrix[i, begin:end], matrix[i + 1, begin:end], matrix[i + 2, begin:end], matrix[i + 3, begin:end]
        for r in range(x.shape[0]):
            p, q, s, t = x[r, i], x[r, i + 1], x[r, i + 2], x[r, i + 3]
            if p == 0 and q == 0 and s == 0 and t == 0:
                continue
            row = out[r]
            for j in range(width):
                row[j] += (p * a[j] + q * b[j]) + (s * c[j] + t * d[j])
        i += 4
    for k in range(i, last):
        a = matrix[k, begin:end]
        for r in range(x.shape[0]):
            p, row = x[r, k], out[r]
            for j in range(width):
                row[j] += p * a[j]


@jit
def _product(start: int, stop: int, x: Floats, matrix: Floats, out: Floats) -> None:
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        out[first:last] = 0
        accumulate(x[first:last], matrix, 0, x.shape[1], 0, matrix.shape[1], out[first:last])


@jit
def _costs(start: int, stop: int, errors: Floats, hessian: Floats, out: npt.NDArray[np.float64]) -> None:
    k = errors.shape[1]
    products = np.empty((TILE, k), np.float32)
    for first in range(start, stop, TILE):
        last = min(first + TILE, stop)
        rows = errors[first:last]
        products[:] = 0
        accumulate(rows, hessian, 0, k, 0, k, products)
        for r in range(last - first):
            total = 0.0
            for j in range(k):
                total += np.float64(rows[r, j]) * np.float64(products[r, j])
            out[first + r] = total


def product(x: Floats, matrix: Floats, threads: int | None) -> Floats:
    """``x @ matrix`` for float32 (n, k) and (k, m), each sum in one order whatever the threads and the processor."""
    out = np.empty((x.shape[0], matrix.shape[1]), np.float32)
    run_rows(_product, x.shape[0], x, matrix, out, threads=threads, least=TILE)
    return out


def costs(errors: Floats, hessian: Floats, threads: int | None) -> npt.NDArray[np.float64]:
    """The cost e H e^T of each row of ``errors`` float32 (n, k), float64 (n,)."""
    out = np.empty(errors.shape[0], np.float64)
    run_rows(_costs, errors.shape[0], errors, hessian, out, threads=threads, least=TILE)
    return out
