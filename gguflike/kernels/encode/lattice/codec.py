"""Encoders of the block types with lattice codebooks: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S.

Method "search" minimizes the weighted squared error over points, signs, integer scales and d of a super-block together.
"absmax" takes d from the largest magnitude of the super-block and each integer scale from that of its sub-block, then
the nearest codebook points; it is one of the candidates of "search".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gguflike.blocks import FORMATS, codebooks
from gguflike.kernels.encode.lattice import fields
from gguflike.kernels.encode.lattice.codebook import Codebook, halve
from gguflike.kernels.encode.lattice.scratch import (
    EVEN_SIGNS,
    FREE_SIGNS,
    NO_SIGNS,
    SUPER,
    Scratch,
    Search,
    Shape,
    scratch,
)
from gguflike.kernels.encode.lattice.search import encode_blocks
from gguflike.kernels.encode.tiles import Array, Encode, Floats, Ints
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.vector.sizes import LANES

_LEAST_WEIGHTS = 1 << 14  # scratch memory is made and filled for every range


@dataclass(frozen=True)
class Lattice:
    """A block type with a lattice codebook, and the range of scales that its search tries.

    Scales of sub-blocks of ``size`` weights are factor * d * (2 k + 1), k = 0 .. max_k. ``scales`` candidate scales go
    from ``low`` to ``high``, relative to (root mean square of the sub-block) / (root mean square of the codebook); they
    span where the best scales of Gaussian and heavy-tailed sub-blocks lie. ``resample``: once d is known, try the best
    scales and their neighbours, where this gains more than two more candidates. Types with two ``deltas`` choose one
    per sub-block of 32, or one per point; so many combinations of levels are points of their codebook that repair.py
    finds practically the best ones. ``approximate``: it finds this type's points, too, where there is no importance.
    """

    name: str
    grid: Callable[[], Array]
    size: int
    max_k: int
    factor: float
    signs: int
    fields: Callable[[fields.Symbols], list[fields.Field]]
    low: float
    high: float
    scales: int
    deltas: tuple[float, ...] = (0.0,)
    resample: bool = False
    approximate: bool = False

    def shape(self) -> Shape:
        """The type as kernels see it."""
        grid = self.grid()
        dim = grid.shape[1]
        return Shape(
            dim=dim,
            per_octet=8 // dim,
            columns=SUPER // dim // LANES,
            log_octets=(self.size // 8).bit_length() - 1,
            max_k=self.max_k,
            factor=self.factor,
            max_coordinate=float(np.abs(grid).max() + max(self.deltas)),
            signs=self.signs,
            shared_delta=len(self.deltas) > 1 and self.size == 32,
            dense=len(self.deltas) > 1,
        )

    def search(self, method: str, weighted: bool) -> Search:
        """How far ``method`` searches, with importance or without."""
        if method == "absmax":
            return Search(np.empty(0, np.float32), np.empty(0, np.float32), False, 0, False)
        root = np.sqrt(np.mean(self.grid().astype(np.float64) ** 2))
        return Search(
            scales=_geometric(self.low / root, self.high / root, self.scales),
            d_grid=_geometric(0.9, 1.4, LANES),
            resample=self.resample,
            approximate=0 if weighted or not self.approximate else self.scales,
            prune=self.approximate or len(self.deltas) > 1,
        )


def _geometric(low: float, high: float, count: int) -> Floats:
    """``count`` numbers from ``low`` to ``high``, each the same multiple of the one before."""
    return np.geomspace(low, high, count).astype(np.float32)


_DELTAS = (0.125, -0.125)
# fmt: off
_ROWS = (
    Lattice("IQ2_XXS", codebooks.iq2_xxs, size=32, max_k=15, factor=1 / 8, signs=EVEN_SIGNS, fields=fields.iq2_xxs,
            low=0.85, high=1.3, scales=4),
    Lattice("IQ2_XS", codebooks.iq2_xs, size=16, max_k=15, factor=1 / 8, signs=EVEN_SIGNS, fields=fields.iq2_xs,
            low=0.75, high=1.45, scales=5),
    Lattice("IQ2_S", codebooks.iq2_s, size=16, max_k=15, factor=1 / 8, signs=FREE_SIGNS, fields=fields.iq2_s,
            low=0.85, high=1.25, scales=3, approximate=True),
    Lattice("IQ3_XXS", codebooks.iq3_xxs, size=32, max_k=15, factor=1 / 4, signs=EVEN_SIGNS, fields=fields.iq3_xxs,
            low=0.85, high=1.8, scales=6, resample=True),
    Lattice("IQ3_S", codebooks.iq3_s, size=32, max_k=15, factor=1.0, signs=FREE_SIGNS, fields=fields.iq3_s,
            low=0.8, high=1.8, scales=7, resample=True),
    Lattice("IQ1_S", codebooks.iq1, size=32, max_k=7, factor=1.0, signs=NO_SIGNS, fields=fields.iq1_s,
            low=0.88, high=1.15, scales=2, deltas=_DELTAS),
    Lattice("IQ1_M", codebooks.iq1, size=16, max_k=7, factor=1.0, signs=NO_SIGNS, fields=fields.iq1_m,
            low=0.8, high=1.3, scales=3, deltas=_DELTAS),
)
# fmt: on
LATTICES = {row.name: row for row in _ROWS}


@cache
def _codebook(name: str) -> Codebook:
    """The codebook of a type, made once."""
    return halve(LATTICES[name].grid(), LATTICES[name].deltas)


class _Plan(NamedTuple):
    """What encoding a type by a method needs besides the rows."""

    shape: Shape
    search: Search
    quads: Ints  # fields.join_quads
    bits: Array  # fields.plan_bits
    scratch: Scratch
    symbols: int  # rows of the tile of symbols and quads


@cache
def _plan(name: str, method: str, weighted: bool) -> _Plan:
    """The plan of a type and a method, with importance or without, made once."""
    lattice = LATTICES[name]
    shape, search = lattice.shape(), lattice.search(method, weighted)
    symbols = fields.Symbols(shape.dim, lattice.size)
    joined, quads = fields.join_quads(lattice.fields(symbols), symbols.vectors)
    bits = fields.plan_bits(joined, FORMATS[name].block_bytes)
    candidates = len(search.scales) + 1 + 2 * search.resample
    at = scratch(shape, _codebook(name), candidates)
    return _Plan(shape, search, quads, bits, at, symbols.vectors + len(quads))


def _tile(rows: int, dtype: Any) -> Array:
    """Zeros, aligned to a vector."""
    raw = np.zeros((rows + 1) * LANES, dtype)
    skip = -(raw.ctypes.data // raw.itemsize) % LANES
    return raw[skip : skip + rows * LANES]


def _read_only(array: Array) -> Array:
    """The array as kernels see it: numba compiles anew for writable ones."""
    view: Array = array.view()
    view.flags.writeable = False
    return view


def _encode_rows(start: int, stop: int, x: Array, out: Array, importance: Array, name: str, method: str) -> None:
    """Encode rows ``start .. stop - 1``, in scratch memory of their own."""
    plan = _plan(name, method, importance.size > 0)
    at = plan.scratch
    encode_blocks(
        x[start:stop].reshape(-1, SUPER),
        importance,
        out[start:stop].reshape(-1, FORMATS[name].block_bytes),
        _codebook(name),
        plan.shape,
        plan.search,
        plan.quads,
        plan.bits,
        at,
        _tile(at.float_rows, np.float32),
        _tile(at.int_rows, np.int32),
        _tile(-(-at.short_elements // LANES), np.int16),
        _tile(plan.symbols, np.int32),
    )


def _lattice_encoder(name: str) -> Encode:
    """Make the encoder of a type."""

    def encode(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
        by_block = np.empty((1, 0), np.float32)  # equal; zeros mean the same
        if importance is not None and importance.any():
            by_block = importance.reshape(-1, SUPER)
        args = (_read_only(x), out, _read_only(by_block), name, method)
        run_rows(_encode_rows, len(x), *args, threads=threads, least=-(-_LEAST_WEIGHTS // x.shape[1]))

    return encode


encode_iq2_xxs, encode_iq2_xs, encode_iq2_s = (_lattice_encoder(name) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S"))
encode_iq3_xxs, encode_iq3_s = _lattice_encoder("IQ3_XXS"), _lattice_encoder("IQ3_S")
encode_iq1_s, encode_iq1_m = _lattice_encoder("IQ1_S"), _lattice_encoder("IQ1_M")
