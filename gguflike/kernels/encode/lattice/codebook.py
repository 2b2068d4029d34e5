"""Codebooks cut in half, the form in which the encoders search them.

A codebook's coordinates come from a few levels, and a digit says which: a half point is a number of base**(dim/2)
digits, and a point is a pair of half points. 60 to 81 different first halves, and as many second halves, make up all
256 to 2048 points. The score of a point is the sum of its halves' scores, so the best point is found from the largest
score among the second halves that complete each first half (search.py). Many first halves share second halves:
the larger of a pair that often occurs together is found once and stands in for both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.vector.sizes import I16_LANES

Array = npt.NDArray[Any]

NUMBER_BIT = 16  # a word: the point's number above its digits
DIGITS = (1 << NUMBER_BIT) - 1
POINT = 0xFFFF  # in ``moves``: no other entry has all bits
_WORTH_SHARING = 4  # first halves with the same pair, from which on its own maximum pays


class Codebook(NamedTuple):
    """A codebook for kernels. Digits count from the first coordinate, the least significant.

    A place is a number of elements in a table of ``I16_LANES`` elements per second half, then per pair.

    levels   float32 (shifts, base): what the digits stand for, moved by each shift
    pairs    uint16 (pairs, 2): places of two second halves, or of pairs before
    firsts   uint16 (firsts, 2): the first halves, and how often two members each complete them, most first (so that
             the branches of the search are predictable)
    members  uint16 (2 * sum(firsts[:, 1]),): places of those second halves and pairs, the last one perhaps twice
    words    int32 (base**dim,): number << NUMBER_BIT | digits (16 / dim bits each) of a point; for digits that are no
             point ~word of the nearest one, which is negative
    moves    int32 (base**dim,): for digits that are no point, which of them make a point when raised by one (bits 0 to
             7) and when lowered by one (bits 8 to 15); for a point ``POINT``; only for three levels
    """

    levels: npt.NDArray[np.float32]
    pairs: npt.NDArray[np.uint16]
    firsts: npt.NDArray[np.uint16]
    members: npt.NDArray[np.uint16]
    words: npt.NDArray[np.int32]
    moves: npt.NDArray[np.int32]


def halve(grid: Array, shifts: tuple[float, ...] = (0.0,)) -> Codebook:
    """The points ``grid`` (points, dim) in halves."""
    dim = grid.shape[1]
    levels, digits = np.unique(grid, return_inverse=True)
    digits = digits.reshape(grid.shape)
    base, half = len(levels), len(levels) ** (dim // 2)
    numbers = digits @ base ** np.arange(dim)
    words = (np.arange(len(grid)) << NUMBER_BIT) + (digits << (16 // dim * np.arange(dim))).sum(axis=1)
    completes = np.zeros((half, half), np.int32)
    completes[numbers % half, numbers // half] = 1
    pairs, completes = _share(completes)
    members = [np.flatnonzero(row) for row in completes]
    twos = np.array([-(-len(row) // 2) for row in members])
    order = np.argsort(-twos, kind="stable")[: np.count_nonzero(twos)]
    listed = [np.pad(members[first], (0, len(members[first]) % 2), mode="edge") for first in order]
    return Codebook(
        (levels + np.array(shifts)[:, None]).astype(np.float32),
        (pairs * I16_LANES).astype(np.uint16),
        np.stack((order, twos[order]), axis=1).astype(np.uint16),
        (np.concatenate(listed) * I16_LANES).astype(np.uint16),
        _all_words(levels, grid, numbers, words),
        _moves(numbers) if base == 3 else np.empty(0, np.int32),
    )


def _share(completes: Array) -> tuple[Array, Array]:
    """Pairs (n, 2) of second halves, or of pairs before, in the order in which greed finds them.

    ``completes``: int32 (first halves, second halves), 1 where they make a point. Returned with a column more for each
    pair, which takes the place of its two.
    """
    pairs: list[tuple[int, int]] = []
    while True:
        together = np.triu(completes.T @ completes, 1)
        a, b = divmod(int(together.argmax()), len(together))
        if together[a, b] < _WORTH_SHARING:
            return np.array(pairs).reshape(-1, 2), completes
        both = completes[:, a] & completes[:, b]
        completes = np.column_stack((completes, both))
        completes[:, [a, b]] -= both[:, None]
        pairs.append((a, b))


def _all_words(levels: Array, grid: Array, numbers: Array, words: Array) -> npt.NDArray[np.int32]:
    """``words`` of the points ``grid``, at their ``numbers``; elsewhere ~word of the nearest point."""
    base, dim = len(levels), grid.shape[1]
    vectors = levels[np.arange(base**dim)[:, None] // base ** np.arange(dim) % base].astype(np.float32)
    points = grid.astype(np.float32)
    nearest = np.argmax(vectors @ points.T - (points**2).sum(axis=1) / 2, axis=1)
    every: npt.NDArray[np.int32] = ~words[nearest].astype(np.int32)
    every[numbers] = words
    return every


def _moves(numbers: Array) -> npt.NDArray[np.int32]:
    """Which digits in base 3 lead to the points' ``numbers`` when moved by one; a point's own entry is ``POINT``."""
    moves = np.zeros(3**8, np.int32)
    for i in range(8):
        digit = numbers // 3**i % 3
        moves[numbers[digit > 0] - 3**i] |= 1 << i
        moves[numbers[digit < 2] + 3**i] |= 256 << i
    moves[numbers] = POINT
    return moves
