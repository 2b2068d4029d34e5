"""The nearest points of a codebook to eight weights in any metric: depth-first search of a tree, exact.

The squared length of an error e of eight weights is |F e|^2 with F lower triangular, a sum of eight squares of which
the first i depend on the first i coordinates alone. So the coordinates are chosen one after the other, each time the
nearest level first, and a branch ends where its sum reaches that of the best octet found (Schnorr and Euchner 1994; in
eight dimensions few branches are seen). The tree has only those prefixes that are points of the codebook, with signs
as the type stores them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.tiles import Array
from gguflike.kernels.engine.jit import inner, lean

OCTET = 8
STEPS = 4096

Doubles = npt.NDArray[np.float64]


class Tree(NamedTuple):
    """A codebook for kernels. A *code* is the index of a weight's level with its sign, in ascending order.

    levels    float64: the levels, with both signs where the type stores signs
    deltas    float64: what may be added to all coordinates of a point; one zero for most types
    digits    int64: the digit of each level, its index among the codebook's own levels
    allowed   uint16: for each prefix of a point (its digits as a number, the first the most significant) the codes that
              may follow, a bit each; prefixes of length i begin at ``begins[i]``
    begins    int64 (dim,)
    numbers   int32 (base**dim,): the number of the point that has these digits, or -1
    base      how many digits there are
    dim       coordinates of a point, 4 or 8
    per_step  1 / (mean distance of neighbouring levels)
    plus      bits of the codes that are not negative, where an octet has an even number of minus signs; else 0
    steps     of a search at most: what is best by then is taken
    signed    whether signs are stored
    shared    whether a sub-block has one delta, not each octet its own
    """

    levels: Doubles
    deltas: Doubles
    digits: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.uint16]
    begins: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int32]
    base: int
    dim: int
    per_step: float
    plus: int
    steps: int
    signed: bool
    shared: bool


class Branch(NamedTuple):
    """Memory of a search: what it has chosen at each of the eight depths, and what is left to choose there."""

    centre: Doubles  # where the error of this coordinate would be 0
    cost: Doubles  # sum of the squares above
    value: Doubles  # the level chosen
    left: npt.NDArray[np.int64]  # the next codes below the centre and above it
    right: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.int64]
    prefix: npt.NDArray[np.int64]
    minus: npt.NDArray[np.int64]  # minus signs above, modulo 2
    code: npt.NDArray[np.int64]  # chosen


def make_tree(grid: Array, signed: bool, even: bool, deltas: tuple[float, ...], shared: bool) -> Tree:
    """The tree of the points ``grid`` (points, dim)."""
    dim = grid.shape[1]
    own, digits = np.unique(grid, return_inverse=True)
    digits, base = digits.reshape(grid.shape), len(own)
    levels = np.concatenate((-own[::-1], own)) if signed else own
    digit_of = np.concatenate((np.arange(base)[::-1], np.arange(base))) if signed else np.arange(base)
    allowed = [np.zeros(base**i, np.uint16) for i in range(dim)]
    prefix = np.zeros(len(grid), np.int64)
    for i in range(dim):
        for code, digit in enumerate(digit_of):
            allowed[i][prefix[digits[:, i] == digit]] |= np.uint16(1 << code)
        prefix = prefix * base + digits[:, i]
    numbers = np.full(base**dim, -1, np.int32)
    numbers[prefix] = np.arange(len(grid))
    return Tree(
        levels=levels.astype(np.float64),
        deltas=np.array(deltas),
        digits=digit_of.astype(np.int64),
        allowed=np.concatenate(allowed),
        begins=np.cumsum([0, *(base**i for i in range(dim - 1))]).astype(np.int64),
        numbers=numbers,
        base=base,
        dim=dim,
        steps=STEPS,
        per_step=(len(levels) - 1) / float(levels[-1] - levels[0]),
        plus=((1 << base) - 1) << base if even else 0,
        signed=signed,
        shared=shared,
    )


@inner
def make_branch() -> Branch:
    """Memory for searches, made once for many."""
    return Branch(
        np.empty(OCTET), np.empty(OCTET), np.empty(OCTET),
        np.empty(OCTET, np.int64), np.empty(OCTET, np.int64), np.empty(OCTET, np.int64),
        np.empty(OCTET, np.int64), np.empty(OCTET, np.int64), np.empty(OCTET, np.int64),
    )  # fmt: skip


@lean(forceinline=True)
def _enter(tree: Tree, wish: Doubles, factor: Doubles, at: Branch, i: int) -> None:
    """Prepare the choice of coordinate ``i``, the earlier ones being chosen."""
    levels = tree.levels
    centre = wish[i]
    for j in range(i):
        centre -= factor[i, j] * at.value[j]
    centre /= factor[i, i]
    depth = i % tree.dim
    prefix, minus = 0, 0
    if i > 0:
        code = at.code[i - 1]
        minus = at.minus[i - 1] ^ (levels[code] < 0)
        if depth > 0:
            prefix = at.prefix[i - 1] * tree.base + tree.digits[code]
    allowed = np.int64(tree.allowed[tree.begins[depth] + prefix])
    if i == OCTET - 1 and tree.plus:
        allowed &= ~tree.plus if minus else tree.plus
    count = len(levels)
    place = min(max((centre - levels[0]) * tree.per_step, -1.0), np.float64(count - 1))
    above = np.int64(place + 1)  # the first code above the centre, nearly: levels are about evenly spaced
    while above < count and levels[above] <= centre:
        above += 1
    while above > 0 and levels[above - 1] > centre:
        above -= 1
    at.centre[i] = centre
    at.left[i] = above - 1
    at.right[i] = above
    at.allowed[i] = allowed
    at.prefix[i] = prefix
    at.minus[i] = minus


@lean(forceinline=True)
def nearest_octet(
    tree: Tree, wish: Doubles, factor: Doubles, bound: float, at: Branch, codes: npt.NDArray[np.uint8]
) -> float:
    """Find the octet of points v with the least |wish - factor v|^2, if that is less than ``bound``; returns it.

    ``wish`` float64 (8,), ``factor`` float64 (8, 8), lower triangular. ``codes`` uint8 (8,) receives the octet; where
    none is near enough they stay and the result is infinite.
    """
    levels, count = tree.levels, len(tree.levels)
    found = np.inf
    i = 0
    at.cost[0] = 0.0
    _enter(tree, wish, factor, at, 0)
    for _ in range(tree.steps):
        left, right, allowed = at.left[i], at.right[i], at.allowed[i]
        while left >= 0 and not (allowed >> left) & 1:
            left -= 1
        while right < count and not (allowed >> right) & 1:
            right += 1
        below = at.centre[i] - levels[left] if left >= 0 else np.inf
        above = levels[right] - at.centre[i] if right < count else np.inf
        if below < above:
            distance, code = below, left
            left -= 1
        else:
            distance, code = above, right
            right += 1
        at.left[i], at.right[i] = left, right
        distance *= factor[i, i]
        cost = at.cost[i] + distance * distance
        if cost < bound:
            at.code[i] = code
            at.value[i] = levels[code]
            if i < OCTET - 1:
                i += 1
                at.cost[i] = cost
                _enter(tree, wish, factor, at, i)
                continue
            bound = found = cost
            for j in range(OCTET):
                codes[j] = at.code[j]
        i -= 1  # what is left at this depth is farther
        if i < 0:
            break
    return found
