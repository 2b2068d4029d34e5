"""Codebooks cut in half, the form in which the encoders search them.

A point of the codebook is a pair of half points: 60 to 81 different first halves and as many second halves make up all
256 to 2048 points. The score of a point at a given scale is the sum of the scores of its halves, so the best point is
found with one addition per first half and one maximum per point (lattice_search.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

QUAD = 4  # second halves are listed in groups of four, so that the inner loop needs no remainder
STRIDE = np.uint16(32)  # floats per second half while searching: two scales for sixteen groups
SECOND_BITS = 7  # a second half's number fits into this many bits


class Codebook(NamedTuple):
    """A codebook for kernels. ``halves`` counts first halves, then second halves.

    points   float32 (shifts, halves, dim/2): the half points, moved by each shift
    squares  float32 (shifts, halves, dim/2): their squares
    quads    uint32 (firsts,): how many groups of four members each first half has, most first
    members  uint16 (sum(quads) * 4,): the second halves that complete the first ones, the last one repeated to fill
             a group; each as its number times STRIDE, its place in a table of floats
    number   int32 (firsts << SECOND_BITS,): a point's number, by first half << SECOND_BITS | second half
    """

    points: npt.NDArray[np.float32]
    squares: npt.NDArray[np.float32]
    quads: npt.NDArray[np.uint32]
    members: npt.NDArray[np.uint16]
    number: npt.NDArray[np.int32]


def halve(grid: npt.NDArray[Any], shifts: tuple[float, ...] = (0.0,)) -> Codebook:
    """The points ``grid`` (points, dim) in halves."""
    half = grid.shape[1] // 2
    first, of_first, counts = np.unique(grid[:, :half], axis=0, return_inverse=True, return_counts=True)
    second, of_second = np.unique(grid[:, half:], axis=0, return_inverse=True)
    order = np.argsort(-counts, kind="stable")
    number = np.full((len(first), 1 << SECOND_BITS), -1, np.int32)
    quads, members = [], []
    for row, old in enumerate(order):
        points = np.flatnonzero(of_first.reshape(-1) == old)
        completions = of_second.reshape(-1)[points]
        number[row, completions] = points
        quads.append(-(-len(points) // QUAD))
        members.append(np.pad(completions, (0, -len(points) % QUAD), mode="edge"))
    halves = np.concatenate((first[order], second)).astype(np.float32)
    moved = np.stack([halves + np.float32(shift) for shift in shifts])
    return Codebook(
        moved,
        moved**2,
        np.array(quads, np.uint32),
        np.concatenate(members).astype(np.uint16) * STRIDE,
        number.reshape(-1),
    )
