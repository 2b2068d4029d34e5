"""What the search over one super-block works with: the block type's shape, how far to search, and scratch memory.

The 256 weights stand in a float32 tile by *octets*, eight consecutive weights, one octet per lane::

               lane 0    lane 1   ...  lane 15
    row 0      x[0]      x[8]          x[120]     \\
    row 1      x[1]      x[9]          x[121]      column 0: octets 0 .. 15
    ...                                           /
    row 7      x[7]      x[15]         x[127]
    row 8      x[128]    x[136]        x[248]     \\
    ...                                            column 1: octets 16 .. 31
    row 15     x[135]    x[143]        x[255]     /

A point stands for ``dim`` weights, an octet or half of one. So column c of points, sixteen lanes, belongs to rows
``dim * c .. dim * c + dim - 1``. A *sub-block*, two or four octets, has one scale; what belongs to sub-blocks stands in
one vector, lane b being sub-block b (eight sub-blocks stand there twice).
"""

from __future__ import annotations

from typing import NamedTuple

from gguflike.kernels.encode.lattice.codebook import NUMBER_BIT, Codebook
from gguflike.kernels.encode.lattice.exhaustive import score_elements
from gguflike.kernels.encode.lattice.repair import trial_elements
from gguflike.kernels.encode.tiles import Floats

SUPER = 256
OCTETS = 32
FREE_SIGNS, EVEN_SIGNS, NO_SIGNS = 0, 1, 2  # one bit per weight; an even number of minus signs in 8; none stored
DELTA_BIT = NUMBER_BIT + 11  # in a packed point: whether it is moved by the second of the codebook's two deltas


class Shape(NamedTuple):
    """A block type as the kernels see it: scales of sub-blocks are factor * d * (2 k + 1), k = 0 .. max_k."""

    dim: int  # weights per point
    per_octet: int  # points per octet
    columns: int  # vectors of points
    log_octets: int  # log2 of the octets per sub-block
    max_k: int
    factor: float
    max_coordinate: float  # largest coordinate of a point
    signs: int
    shared_delta: bool  # one delta per sub-block, not per point
    dense: bool  # points are found by repair.py, with two deltas, not by exhaustive.py


class Search(NamedTuple):
    """How far to search. Candidates are numbered: those of ``scales``, two that are resampled, the absmax rule's.

    scales       float32: candidate scales of a sub-block, relative to its root mean square; none for absmax
    d_grid       float32: candidates for d (scales.search_d); a multiple of 16, none for absmax
    resample     whether to add the best scales and their neighbours to the candidates once d is known
    approximate  for how many candidates repair.py finds the points, not exhaustive.py (dense types: for all)
    prune        whether points at the absmax rule's scale are only looked for where bound.py says they can be best
    """

    scales: Floats
    d_grid: Floats
    resample: bool
    approximate: int
    prune: bool


class Scratch(NamedTuple):
    """Where tables stand in scratch memory: first rows in the tiles ``floats`` and ``ints``, elements in ``shorts``.

    ``scratch`` says how many rows each has. Weights y are relative to the block's largest magnitude, importance w to
    the largest; values of the points are p.
    """

    # floats, of the block
    values: int  # y by octets; negative where the sign to be stored differs from the weight's
    importance: int  # w by octets
    products: int  # 2 w y by octets
    moments: int  # sum w, then sum w y^2 of the weights of each point, for two columns of points at a time
    octet_sums: int  # sum w y^2, sum w, max |y| of the octets, two columns each
    # floats, of the candidate at hand
    octet_scale: int  # scales of the octets
    point_dot: int  # 2 sum w y p of each point, for each delta
    point_norm: int  # sum w p^2 of each point, for each delta
    # floats, of each candidate: by sub-blocks
    scale: int
    dot: int  # 2 sum w y p
    norm: int  # sum w p^2
    ideal: int  # twice the best scale for the points: dot / norm, not negative
    d_candidates: int
    float_rows: int
    # ints
    found: int  # packed points of the candidate at hand, for each delta
    points: int  # packed points of each candidate
    signs: int  # minus signs of the octets' weights, a bit each
    choice: int  # chosen k, then chosen candidate, by sub-blocks
    lane_numbers: int  # 0 .. 15
    int_rows: int
    # shorts
    repair: int  # tables of repair.py; those of exhaustive.py stand before
    short_elements: int


def _place(counts: dict[str, int], end: str) -> dict[str, int]:
    """The place of each table when tables of these sizes follow each other; ``end`` names the total."""
    places, at = {}, 0
    for name, count in counts.items():
        places[name] = at
        at += count
    return places | {end: at}


def scratch(shape: Shape, book: Codebook, candidates: int) -> Scratch:
    """Lay out scratch memory for so many candidate scales."""
    deltas, base = book.levels.shape
    columns = shape.columns
    floats = {
        "values": 16,
        "importance": 16,
        "products": 16,
        "moments": 2 * columns,
        "octet_sums": 6,
        "octet_scale": 2,
        "point_dot": deltas * columns,
        "point_norm": deltas * columns,
        "scale": candidates,
        "dot": candidates,
        "norm": candidates,
        "ideal": candidates,
        "d_candidates": 1,
    }
    ints = {
        "found": deltas * columns,
        "points": candidates * columns,
        "signs": 2,
        "choice": 2,
        "lane_numbers": 1,
    }
    repair = score_elements(shape.dim, base, len(book.pairs))
    return Scratch(
        **_place(floats, "float_rows"),
        **_place(ints, "int_rows"),
        repair=repair,
        short_elements=repair + trial_elements(deltas),
    )
