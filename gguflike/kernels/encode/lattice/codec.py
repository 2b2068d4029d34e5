"""Encoders of the block types with lattice codebooks: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S.

``search`` minimizes the weighted squared error over points, signs, integer scales and d of a super-block together
(block.py, scales.py). ``absmax`` is the plain rule: d from the largest magnitude of the super-block,
each integer scale from the largest magnitude of its sub-block, then the nearest codebook points. The plain rule is one
of the samples that ``search`` starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS, codebooks
from gguflike.kernels.encode.driver import Encode
from gguflike.kernels.encode.lattice import fields
from gguflike.kernels.encode.lattice.block import EVEN, FREE, NONE, SUPER, Effort, Places, Shape, places
from gguflike.kernels.encode.lattice.codebook import Codebook, halve
from gguflike.kernels.encode.lattice.rows import encode_blocks
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.vector.sizes import LANES

Array = npt.NDArray[Any]

_LEAST_WEIGHTS = 1 << 14  # scratch memory is made and filled for every range


@dataclass(frozen=True)
class Lattice:
    """A block type with a lattice codebook, and the range of scales that its search samples.

    Scales of sub-blocks of ``size`` weights are factor * d * (2 k + 1), k = 0 .. top. ``low`` to ``high``: sample
    scales relative to (root mean square of the sub-block) / (root mean square of the codebook); ``rungs``: how many.
    They span where the best scales of Gaussian and heavy-tailed sub-blocks lie. ``again``: sample the best scales and
    their neighbours once d is known, where this gains more than two rungs. Types with two ``shifts``
    choose one per sub-block of 32, or one per point; so many combinations of levels are points of their codebook that
    near.py finds practically the best ones. ``rough``: it finds the ladder's points of this type, too, where no
    importance makes weights differ.
    """

    name: str
    grid: Callable[[], Array]
    size: int
    top: int
    factor: float
    signs: int
    fields: Callable[[fields.Symbols], list[fields.Field]]
    low: float
    high: float
    rungs: int
    shifts: tuple[float, ...] = (0.0,)
    again: bool = False
    rough: bool = False

    def shape(self) -> Shape:
        grid = self.grid()
        dim = grid.shape[1]
        return Shape(
            dim=dim,
            parts=8 // dim,
            columns=SUPER // dim // LANES,
            log_unit=(self.size // 8).bit_length() - 1,
            top=self.top,
            factor=self.factor,
            largest=float(np.abs(grid).max() + max(self.shifts)),
            signs=self.signs,
            shared_shift=len(self.shifts) > 1 and self.size == 32,
            dense=len(self.shifts) > 1,
        )

    def effort(self, method: str, weighted: bool) -> Effort:
        if method == "absmax":
            return Effort(np.empty(0, np.float32), np.empty(0, np.float32), False, 0, False)
        root = np.sqrt(np.mean(self.grid().astype(np.float64) ** 2))
        ladder = _ladder(self.low / root, self.high / root, self.rungs)
        rough = 0 if weighted or not self.rough else self.rungs
        bounded = self.rough or len(self.shifts) > 1
        return Effort(ladder, _ladder(0.9, 1.4, LANES), self.again, rough, bounded)


def _ladder(low: float, high: float, count: int) -> npt.NDArray[np.float32]:
    return np.geomspace(low, high, count).astype(np.float32)


_DELTA = (0.125, -0.125)
_ROWS = (
    Lattice("IQ2_XXS", codebooks.iq2_xxs, 32, 15, 1 / 8, EVEN, fields.iq2_xxs, 0.85, 1.3, 4),
    Lattice("IQ2_XS", codebooks.iq2_xs, 16, 15, 1 / 8, EVEN, fields.iq2_xs, 0.75, 1.45, 5),
    Lattice("IQ2_S", codebooks.iq2_s, 16, 15, 1 / 8, FREE, fields.iq2_s, 0.85, 1.25, 3, rough=True),
    Lattice("IQ3_XXS", codebooks.iq3_xxs, 32, 15, 1 / 4, EVEN, fields.iq3_xxs, 0.85, 1.8, 6, again=True),
    Lattice("IQ3_S", codebooks.iq3_s, 32, 15, 1.0, FREE, fields.iq3_s, 0.8, 1.8, 7, again=True),
    Lattice("IQ1_S", codebooks.iq1, 32, 7, 1.0, NONE, fields.iq1_s, 0.88, 1.15, 2, _DELTA),
    Lattice("IQ1_M", codebooks.iq1, 16, 7, 1.0, NONE, fields.iq1_m, 0.8, 1.3, 3, _DELTA),
)
LATTICES = {row.name: row for row in _ROWS}


@cache
def _codebook(name: str) -> Codebook:
    return halve(LATTICES[name].grid(), LATTICES[name].shifts)


class _Plan(NamedTuple):
    """What the encoding of a type by a method needs besides the rows."""

    shape: Shape
    effort: Effort
    quads: Array  # lattice_layout.draw_quads
    bits: Array  # lattice_layout.layout
    places: Places
    symbols: int  # vectors of symbols and quads


@cache
def _plan(name: str, method: str, weighted: bool) -> _Plan:
    lattice = LATTICES[name]
    shape, effort = lattice.shape(), lattice.effort(method, weighted)
    symbols = fields.Symbols(shape.dim, lattice.size)
    drawn, quads = fields.draw_quads(lattice.fields(symbols), symbols.vectors)
    bits = fields.layout(drawn, FORMATS[name].block_bytes)
    samples = len(effort.ladder) + 1 + 2 * effort.again
    return _Plan(shape, effort, quads, bits, places(shape, _codebook(name), samples), symbols.vectors + len(quads))


def _tile(vectors: int, dtype: Any) -> Array:
    """Zeros, aligned to a vector."""
    raw = np.zeros((vectors + 1) * LANES, dtype)
    skip = -(raw.ctypes.data // raw.itemsize) % LANES
    return raw[skip : skip + vectors * LANES]


def _read_only(array: Array) -> Array:
    """The array as kernels see it: numba compiles anew for writable ones."""
    view: Array = array.view()
    view.flags.writeable = False
    return view


def _encode_rows(start: int, stop: int, x: Array, out: Array, weights: Array, name: str, method: str) -> None:
    """Encode rows ``start .. stop-1``, in scratch memory of their own."""
    plan = _plan(name, method, weights.size > 0)
    at = plan.places
    encode_blocks(
        x[start:stop].reshape(-1, SUPER),
        weights,
        out[start:stop].reshape(-1, FORMATS[name].block_bytes),
        _codebook(name),
        plan.shape,
        plan.effort,
        plan.quads,
        plan.bits,
        at,
        _tile(at.size, np.float32),
        _tile(at.ints, np.int32),
        _tile(-(-at.shorts // LANES), np.int16),
        _tile(plan.symbols, np.int32),
    )


def _lattice_encoder(name: str) -> Encode:
    def encode(x: Array, out: Array, weights: Array | None, method: str, threads: int | None) -> None:
        importance = np.empty((1, 0), np.float32)  # equal; zeros mean the same
        if weights is not None and weights.any():
            importance = weights.reshape(-1, SUPER)
        args = (_read_only(x), out, _read_only(importance), name, method)
        run_rows(_encode_rows, len(x), *args, threads=threads, least=-(-_LEAST_WEIGHTS // x.shape[1]))

    return encode


encode_iq2_xxs, encode_iq2_xs, encode_iq2_s = (_lattice_encoder(name) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S"))
encode_iq3_xxs, encode_iq3_s = _lattice_encoder("IQ3_XXS"), _lattice_encoder("IQ3_S")
encode_iq1_s, encode_iq1_m = _lattice_encoder("IQ1_S"), _lattice_encoder("IQ1_M")
