"""Codebooks cut in half, the form in which the encoders search them.

A codebook's coordinates come from a few levels, and a digit says which: a half point is a number of dim / 2 digits to
the base of the levels' count, and a point is a pair of half points. 60 to 81 different first halves, and as many second
halves, make up all 256 to 2048 points. The score of a point is the sum of its halves' scores, so the best point is
found from the largest score among the second halves that complete each first half (exhaustive.py). Many first halves
have second halves in common: the larger score of a pair that often occurs together is found once for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.tiles import Array, Floats, Ints
from gguflike.kernels.vector.sizes import I16_LANES

NUMBER_BIT = 16  # in a packed point: its number in the codebook stands above its digits
DIGITS = (1 << NUMBER_BIT) - 1
POINT = 0xFFFF  # in ``moves``: no other entry has all bits
_WORTH_SHARING = 4  # the fewest first halves with the same pair for which it pays to find its larger score once


class Codebook(NamedTuple):
    """A codebook for kernels. A number of digits has the first coordinate's as its least significant one.

    Scores of second halves, then of pairs, stand in a table of vectors of ``I16_LANES`` elements; a place in it is a
    number of elements.

    levels   float32 (deltas, base): what the digits stand for, plus each delta
    pairs    uint16 (pairs, 2): places of two second halves, or of earlier pairs
    firsts   uint16 (firsts, 2): the first halves, and how many twos of members complete them, most first (so that the
             branches of the search are predictable)
    members  uint16 (2 * sum(firsts[:, 1]),): places of those second halves and pairs, the last one perhaps twice
    words    int32 (base**dim,): of digits that are a point, the packed point: number << NUMBER_BIT | digits (16 / dim
             bits each); of others ~ the nearest packed point, which is negative
    moves    int32 (base**dim,): for digits that are not a point, which of them make one when raised by one (bits 0 to
             7) and when lowered by one (bits 8 to 15); for a point ``POINT``; only for three levels
    """

    levels: Floats
    pairs: npt.NDArray[np.uint16]
    firsts: npt.NDArray[np.uint16]
    members: npt.NDArray[np.uint16]
    words: Ints
    moves: Ints


def halve(grid: Array, deltas: tuple[float, ...] = (0.0,)) -> Codebook:
    """The codebook of the points ``grid`` (points, dim), each of which may be moved by one of ``deltas``."""
    dim = grid.shape[1]
    levels, digits = np.unique(grid, return_inverse=True)
    digits = digits.reshape(grid.shape)
    base, half = len(levels), len(levels) ** (dim // 2)
    numbers = digits @ base ** np.arange(dim)
    words = (np.arange(len(grid)) << NUMBER_BIT) + (digits << (16 // dim * np.arange(dim))).sum(axis=1)
    completes = np.zeros((half, half), np.int32)
    completes[numbers % half, numbers // half] = 1
    pairs, completes = _find_pairs(completes)
    members = [np.flatnonzero(row) for row in completes]
    twos = np.array([-(-len(row) // 2) for row in members])
    order = np.argsort(-twos, kind="stable")[: np.count_nonzero(twos)]
    listed = [np.pad(members[first], (0, len(members[first]) % 2), mode="edge") for first in order]
    return Codebook(
        (levels + np.array(deltas)[:, None]).astype(np.float32),
        (pairs * I16_LANES).astype(np.uint16),
        np.stack((order, twos[order]), axis=1).astype(np.uint16),
        (np.concatenate(listed) * I16_LANES).astype(np.uint16),
        _all_words(levels, grid, numbers, words),
        _moves(numbers) if base == 3 else np.empty(0, np.int32),
    )


def _find_pairs(completes: Array) -> tuple[Array, Array]:
    """Pairs (n, 2) of second halves, or of earlier pairs, that often occur together: greedily, the most frequent first.

    ``completes``: int32 (first halves, second halves), 1 where they make a point. It is returned with a column more for
    each pair, which takes the place of its two.
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


def _all_words(levels: Array, grid: Array, numbers: Array, words: Array) -> Ints:
    """``Codebook.words``, from the packed points ``words`` of ``grid`` and the ``numbers`` of their digits."""
    base, dim = len(levels), grid.shape[1]
    vectors = levels[np.arange(base**dim)[:, None] // base ** np.arange(dim) % base].astype(np.float32)
    points = grid.astype(np.float32)
    nearest = np.argmax(vectors @ points.T - (points**2).sum(axis=1) / 2, axis=1)
    every: Ints = ~words[nearest].astype(np.int32)
    every[numbers] = words
    return every


def _moves(numbers: Array) -> Ints:
    """``Codebook.moves``, from the ``numbers`` of the points' digits to the base 3."""
    moves = np.zeros(3**8, np.int32)
    for i in range(8):
        digit = numbers // 3**i % 3
        moves[numbers[digit > 0] - 3**i] |= 1 << i
        moves[numbers[digit < 2] + 3**i] |= 256 << i
    moves[numbers] = POINT
    return moves
