"""Rounding to codebooks under a Hessian: error feedback, and descent, by sub-blocks of octets.

Both come to one problem. A sub-block of weights has a scale s = unit * d * (2 k + 1); its values are v = s (level +
delta). Of all (k, delta, points) the one is wanted with the least |y - F v|^2, F lower triangular:

    error feedback   H = B D B^T with B unit upper triangular (factor.py), and F is the sub-block's part of (B D^1/2)^T;
                     y = F w + (what earlier errors add). Later columns are taken to make up for the error as well as
                     they can, as in GPTQ (Frantar et al. 2022) and LDLQ (Chee et al. 2023).
    descent          F^T F is the sub-block's part of H itself, everything else being fixed; y = F v + F^-T g with v as
                     it is and g the row's gradient (w - v) H there.

Octets are chosen one after the other, each exactly (tree.py), for a few k: those next to the one at hand.

Columns may stand in any order that keeps super-blocks, sub-blocks and octets together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.tiles import Floats
from gguflike.kernels.engine.jit import inner, jit, lean
from gguflike.kernels.rounding.tree import OCTET, Branch, Doubles, Tree, make_branch, nearest_octet

SUPER = 256
_BETTER = 1 - 1e-6  # by how much an error must be less to count: float32 gradients are not more precise

Bytes = npt.NDArray[np.uint8]


class Blocks(NamedTuple):
    """What the blocks of a matrix (n, columns) store.

    d       float32 (n, columns / 256): super-scales, exact in float16, not negative; where 0, all values are 0
    k       uint8 (n, columns / sub-block)
    deltas  uint8 (n, columns / 8): which delta each octet has
    codes   uint8 (n, columns)
    """

    d: Floats
    k: Bytes
    deltas: Bytes
    codes: Bytes


class Scale(NamedTuple):
    """How scales of sub-blocks come about: unit * d * (2 k + 1), k = 0 .. most, ``size`` weights each."""

    size: int
    unit: float
    most: int


class Scratch(NamedTuple):
    """Memory of one sub-block's search."""

    branch: Branch
    wish: Doubles  # (8,)
    unscaled: Doubles  # (32,): y / s
    values: Doubles  # (32,): level + delta, of the trial
    codes: Bytes  # (32,)
    deltas: Bytes  # (4,)
    best_codes: Bytes
    best_deltas: Bytes


@inner
def _make_scratch() -> Scratch:
    return Scratch(
        make_branch(), np.empty(OCTET), np.empty(32), np.empty(32), np.empty(32, np.uint8), np.empty(4, np.uint8),
        np.empty(32, np.uint8), np.empty(4, np.uint8),
    )  # fmt: skip


@lean
def _try_scale(
    tree: Tree, factor: Doubles, target: Doubles, size: int, scale: float, fixed_delta: int, bound: float, at: Scratch
) -> float:
    """Choose the octets of a sub-block at a scale; returns |target - factor v|^2, infinite unless below ``bound``.

    ``target`` float64 (size,), ``factor`` (size, size). ``fixed_delta``: that of all octets, or -1 where each chooses
    its own. What is chosen stands in ``at.codes`` and ``at.deltas``.
    """
    square = scale * scale
    left = bound / square
    for i in range(size):
        at.unscaled[i] = target[i] / scale
    total = 0.0
    for first in range(0, size, OCTET):
        block = factor[first : first + OCTET, first : first + OCTET]
        codes = at.codes[first : first + OCTET]
        cost = np.inf
        chosen = 0
        for delta in range(len(tree.deltas)):
            if fixed_delta >= 0 and delta != fixed_delta:
                continue
            move = tree.deltas[delta]
            for i in range(OCTET):
                wish = at.unscaled[first + i]
                for j in range(first):
                    wish -= factor[first + i, j] * at.values[j]
                for j in range(i + 1):
                    wish -= block[i, j] * move
                at.wish[i] = wish
            found = nearest_octet(tree, at.wish, block, min(cost, left - total), at.branch, codes)
            if found < cost:
                cost, chosen = found, delta
        total += cost
        if not total < left:
            return np.inf
        at.deltas[first // OCTET] = chosen
        for i in range(OCTET):
            at.values[first + i] = tree.levels[codes[i]] + tree.deltas[chosen]
    error: float = total * square
    return error


@lean(forceinline=True)
def _choose(
    tree: Tree, scale: Scale, size: int, factor: Doubles, target: Doubles, d: float, k: int, reach: int, slope: float,
    delta: int, bound: float, at: Scratch,
) -> int:  # fmt: skip
    """Choose k, deltas and octets of ``size`` weights with the least error below ``bound``; returns k, or -1.

    Tried are ``k`` and, as long as the error falls, up to ``reach`` more to the side of the sign of ``slope``; where
    that is 0, to the side that is better for the octets found at ``k``. ``delta``: the only one, or -1. The octets
    stand in ``at.best_codes`` and ``at.best_deltas``.
    """
    best = -1
    side = 1 if slope > 0 else -1
    for trial in range(reach + 1):
        new_k = k + side * trial
        if new_k < 0 or new_k > scale.most:
            break
        s = scale.unit * d * (2 * new_k + 1)
        before = best
        for one in range(len(tree.deltas) if tree.shared else 1):
            if tree.shared and delta >= 0 and delta != one:
                continue
            cost = _try_scale(tree, factor, target, size, s, one if tree.shared else -1, bound, at)
            if cost < bound:
                bound, best = cost, new_k
                for i in range(size):
                    at.best_codes[i] = at.codes[i]
                for i in range(size // OCTET):
                    at.best_deltas[i] = at.deltas[i]
        if trial == 0 and slope == 0:
            side = 1 if _slope(tree, factor, target, size, s, at) > 0 else -1
        elif trial > 0 and best == before:
            break
    return best


@lean
def _slope(tree: Tree, factor: Doubles, target: Doubles, size: int, s: float, at: Scratch) -> float:
    """What is positive where the octets found, with scale ``s``, should have a larger scale: (y - F v) F v."""
    for i in range(size):
        at.values[i] = s * _level(tree, at.best_codes[i], at.best_deltas[i // OCTET])
    slope = 0.0
    for i in range(size):
        product = 0.0
        for j in range(i + 1):
            product += factor[i, j] * at.values[j]
        slope += (target[i] - product) * product
    return slope


@lean(forceinline=True)
def _level(tree: Tree, code: int, delta: int) -> float:
    """A level with its delta."""
    level: float = tree.levels[code] + tree.deltas[delta]
    return level


@jit
def joint_targets(start: int, stop: int, first: int, b: Floats, pulls: Floats, weights: Floats, out: Floats) -> None:
    """What columns ``first .. first + 255`` should best be, all of them together: ``out`` float32 (n, 256).

    ``pulls`` float32 (n, 256): what the errors of earlier columns ask of each (feedback.py), which does not count that
    its neighbours move as well. ``b`` float32 (k, k) of H = B D B^T.
    """
    moves = np.empty(SUPER)
    for row in range(start, stop):
        for i in range(SUPER):
            moves[i] = pulls[row, i]
        for i in range(SUPER):
            move = moves[i]
            for j in range(i + 1, SUPER):
                moves[j] -= move * b[first + i, first + j]
            out[row, i] = weights[row, first + i] + move


@jit
def feed_super_block(
    start: int, stop: int, first: int, tree: Tree, scale: Scale, reach: int, b: Floats, roots: Doubles,
    factors: Doubles, pulls: Floats, weights: Floats, blocks: Blocks, errors: Floats, costs: Doubles,
) -> None:  # fmt: skip
    """Round columns ``first .. first + 255``, each sub-block to what is best when later columns make up for it.

    H = B D B^T with ``b`` float32 (k, k), ``roots`` float64 (k,) of D; ``factors`` float64 (sub-blocks, size, size):
    the diagonal blocks of (B sqrt(D))^T. ``pulls`` as in ``joint_targets``, used up. ``blocks`` are those of the
    super-block alone and have its grid, d and k, which moves by up to ``reach``. ``errors`` float32 (n, 256) receives
    weights - values, ``costs`` float64 (n,) what these columns add to the cost of each row.
    """
    at = _make_scratch()
    size = scale.size
    target = np.empty(size)
    costs[start:stop] = 0
    for begin in range(0, SUPER, size):
        here = first + begin
        factor = factors[here // size]
        for row in range(start, stop):
            d, k = np.float64(blocks.d[row, 0]), np.int64(blocks.k[row, begin // size])
            best = -1
            if d > 0:
                for i in range(size):
                    target[i] = roots[here + i] * pulls[row, begin + i]
                    for j in range(i + 1):
                        target[i] += factor[i, j] * weights[row, here + j]
                best = _choose(tree, scale, size, factor, target, d, k, reach, 0.0, -1, np.inf, at)
            for i in range(size):
                error = weights[row, here + i]
                if best >= 0:
                    error -= np.float32(_take(tree, scale, blocks, at, row, begin + i, i, d, best))
                errors[row, begin + i] = error
            for i in range(size):
                part = roots[here + i] * pulls[row, begin + i]
                for j in range(i + 1):
                    part += factor[i, j] * errors[row, begin + j]
                costs[row] += part * part
            for i in range(size):
                error = errors[row, begin + i]
                for j in range(begin + size, SUPER):
                    pulls[row, j] += error * b[here + i, first + j]


@lean(forceinline=True)
def _take(
    tree: Tree, scale: Scale, blocks: Blocks, at: Scratch, row: int, column: int, i: int, d: float, k: int
) -> float:
    """Store weight ``i`` of the sub-block chosen, and return its value."""
    code, delta = at.best_codes[i], at.best_deltas[i // OCTET]
    blocks.k[row, column // scale.size] = k
    blocks.codes[row, column] = code
    blocks.deltas[row, column // OCTET] = delta
    value: float = scale.unit * d * (2 * k + 1) * _level(tree, code, delta)
    return value


@jit
def descend(
    start: int, stop: int, tree: Tree, scale: Scale, reach: int, hessian: Floats, factors: Doubles,
    blocks: Blocks, gradients: Floats, moved: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    """Give each octet or sub-block in turn what lowers the error, everything else being fixed.

    ``factors`` float64 (octets or sub-blocks, size, size): F with F^T F the diagonal blocks of ``hessian`` float32
    (columns, columns). Of sub-blocks, k moves by up to ``reach``; of octets it must not. ``gradients`` float32 (n,
    columns): (weights - values) hessian, kept up to date. ``moved`` int64 (n,) counts what was changed.
    """
    at = _make_scratch()
    size = factors.shape[1]
    columns = len(hessian)
    target, values = np.empty(size), np.empty(size)
    for begin in range(0, columns, size):
        sub_block, super_block = begin // scale.size, begin // SUPER
        factor = factors[begin // size]
        for row in range(start, stop):
            d = np.float64(blocks.d[row, super_block])
            if not d > 0:
                continue
            k = np.int64(blocks.k[row, sub_block])
            s = scale.unit * d * (2 * k + 1)
            for i in range(size):
                column = begin + i
                values[i] = s * _level(tree, blocks.codes[row, column], blocks.deltas[row, column // OCTET])
            bound, slope = 0.0, 0.0
            for i in range(size - 1, -1, -1):  # F^-T g
                pull = np.float64(gradients[row, begin + i])
                slope += pull * values[i]
                for j in range(i + 1, size):
                    pull -= factor[j, i] * target[j]
                target[i] = pull / factor[i, i]
                bound += target[i] * target[i]
            for i in range(size):
                for j in range(i + 1):
                    target[i] += factor[i, j] * values[j]
            delta = np.int64(blocks.deltas[row, begin // OCTET]) if size < scale.size else -1
            best = _choose(tree, scale, size, factor, target, d, k, reach, slope, delta, bound * _BETTER, at)
            if best < 0:
                continue
            moved[row] += 1
            for i in range(size):
                column = begin + i
                move = np.float32(_take(tree, scale, blocks, at, row, column, i, d, best) - values[i])
                if move != 0:
                    for j in range(columns):
                        gradients[row, j] -= move * hessian[column, j]


@jit
def fill_values(start: int, stop: int, tree: Tree, scale: Scale, blocks: Blocks, values: Floats) -> None:
    """The values of all weights, float32 (n, columns), exactly as they are decoded.

    A product of d (11 bits), 2 k + 1 (5 bits) and a level (at most 7 bits) is exact in float32.
    """
    columns = values.shape[1]
    for row in range(start, stop):
        for begin in range(0, columns, OCTET):
            d = blocks.d[row, begin // SUPER]
            s = np.float32(scale.unit) * d * np.float32(2 * np.int64(blocks.k[row, begin // scale.size]) + 1)
            delta = blocks.deltas[row, begin // OCTET]
            for column in range(begin, begin + OCTET):
                values[row, column] = s * np.float32(_level(tree, blocks.codes[row, column], delta))
