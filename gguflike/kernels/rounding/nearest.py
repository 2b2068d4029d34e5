"""The points of a codebook that are nearest to weights, each octet by itself and no metric but their distance."""

from __future__ import annotations

import numpy as np

from gguflike.kernels.encode.tiles import Floats
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.rounding.octets import SUPER, Blocks, Bytes, Scale
from gguflike.kernels.rounding.tree import OCTET, Tree, make_branch, nearest_octet

_NEARER = 1 - 1e-6  # in squares of distances, by how much to count


@jit
def nearest_points(
    start: int, stop: int, tree: Tree, scale: Scale, blocks: Blocks, weights: Floats, codes: Bytes
) -> None:
    """Choose the points nearest to ``weights`` float32 (n, columns), at the scales and deltas of ``blocks``.

    ``codes`` uint8 (n, columns) receives them; an octet of ``blocks`` stays where none is nearer.
    """
    at, wish, metric = make_branch(), np.empty(OCTET), np.eye(OCTET)
    for row in range(start, stop):
        for begin in range(0, weights.shape[1], OCTET):
            octet = codes[row, begin : begin + OCTET]
            for i in range(OCTET):
                octet[i] = blocks.codes[row, begin + i]
            k = np.int64(blocks.k[row, begin // scale.size])
            s = scale.unit * np.float64(blocks.d[row, begin // SUPER]) * (2 * k + 1)
            if not s > 0:
                continue
            delta, bound = tree.deltas[blocks.deltas[row, begin // OCTET]], 0.0
            for i in range(OCTET):
                wish[i] = weights[row, begin + i] / s - delta
                off = wish[i] - tree.levels[octet[i]]
                bound += off * off
            nearest_octet(tree, wish, metric, bound * _NEARER, at, octet)
