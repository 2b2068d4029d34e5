"""Kernels: the best codebook points at given scales.

Sixteen groups (of 8 or 4 weights) are searched side by side, one per lane, and exhaustively: every point of the
codebook competes under the true weights. ``f`` is the encoder's scratch memory (lattice_block.py), a float32 tile;
places in it are numbers of vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels._jit import inner
from gguflike.kernels.encode.lattice_tables import QUAD, SECOND_BITS
from gguflike.kernels.encode.permute import load_from
from gguflike.kernels.lanes import LANES, bits, fma, from_bits, int_lanes, lanes, load, maximum, store, where

_SECOND = (1 << SECOND_BITS) - 1
_NEXT = np.uint64(LANES)
_QUAD = np.uint64(QUAD)


@inner
def _products4(points: Any, start: int, stop: int, f: Any, source: int, table: int) -> None:
    a, b, c, d = load(f, source), load(f, source + 1), load(f, source + 2), load(f, source + 3)
    for p in range(start, stop):
        low = fma(a, lanes(points[p, 0]), b * lanes(points[p, 1]))
        store(f, table + p, fma(c, lanes(points[p, 2]), fma(d, lanes(points[p, 3]), low)))


@inner
def _products2(points: Any, start: int, stop: int, f: Any, source: int, table: int) -> None:
    a, b = load(f, source), load(f, source + 1)
    for p in range(start, stop):
        store(f, table + p, fma(a, lanes(points[p, 0]), b * lanes(points[p, 1])))


@inner
def fill_table(points: Any, firsts: int, f: Any, source: int, table: int) -> None:
    """Inner products of 16 groups with half points: float32 (halves, dim/2), of which ``firsts`` are first halves.

    The groups' values stand in vectors ``source ..``, coordinate by coordinate; the products go to ``table ..``.
    """
    halves, half = points.shape
    if half == 4:
        _products4(points, 0, firsts, f, source, table)
        _products4(points, firsts, halves, f, source + 4, table)
    else:
        _products2(points, 0, firsts, f, source, table)
        _products2(points, firsts, halves, f, source + 2, table)


@inner
def nearest(
    quads: Any,
    members: Any,
    seconds: int,
    f: Any,
    dots: int,
    norms: int,
    u: int,
    scales: int,
    score: int,
    n: Any,
    code: int,
) -> None:
    """Best point for each of 16 groups at two scales: the one of largest score 2 <w y, p> - scale * <w, p**2>.

    ``dots`` and ``norms``: tables of these products for half points. ``u``: scratch, two vectors per second half.
    ``scales``: two vectors. Two vectors of scores go to ``score``, two of codes (first half << SECOND_BITS | second
    half) to ``n`` at ``code``.

    A second half's number travels in the low bits of its score. This costs 2**-16 of the score's precision and makes
    the inner loop a bare maximum.
    """
    firsts = quads.shape[0]
    minus0, minus1 = -load(f, scales), -load(f, scales + 1)
    for p in range(seconds):
        dot, norm = load(f, dots + firsts + p), load(f, norms + firsts + p)
        store(f, u + 2 * p, from_bits((bits(fma(norm, minus0, dot)) & ~_SECOND) | p))
        store(f, u + 2 * p + 1, from_bits((bits(fma(norm, minus1, dot)) & ~_SECOND) | p))
    best0 = lanes(np.float32(-np.inf))
    best1 = best0
    first0, first1 = int_lanes(0), int_lanes(0)
    second0, second1 = best0, best0
    table = f[u * LANES :]
    m = np.uint64(0)
    for p in range(firsts):
        i = np.uint64(members[m])
        v0, v1 = load_from(table, i), load_from(table, i + _NEXT)
        for _ in range(quads[p]):
            i = np.uint64(members[m])
            j = np.uint64(members[m + np.uint64(1)])
            k = np.uint64(members[m + np.uint64(2)])
            h = np.uint64(members[m + np.uint64(3)])
            pair = maximum(load_from(table, i), load_from(table, j))
            v0 = maximum(v0, maximum(pair, maximum(load_from(table, k), load_from(table, h))))
            i, j, k, h = i + _NEXT, j + _NEXT, k + _NEXT, h + _NEXT
            pair = maximum(load_from(table, i), load_from(table, j))
            v1 = maximum(v1, maximum(pair, maximum(load_from(table, k), load_from(table, h))))
            m += _QUAD
        dot, norm = load(f, dots + p), load(f, norms + p)
        number = int_lanes(p)
        total = v0 + fma(norm, minus0, dot)
        better = total > best0
        best0, first0, second0 = where(better, total, best0), where(better, number, first0), where(better, v0, second0)
        total = v1 + fma(norm, minus1, dot)
        better = total > best1
        best1, first1, second1 = where(better, total, best1), where(better, number, first1), where(better, v1, second1)
    store(f, score, best0)
    store(f, score + 1, best1)
    store(n, code, (first0 << SECOND_BITS) | (bits(second0) & _SECOND))
    store(n, code + 1, (first1 << SECOND_BITS) | (bits(second1) & _SECOND))
