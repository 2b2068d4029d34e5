"""Sums over the inputs of matrices.

They are made in a fixed order, slab by slab and tile by tile, each tile by one product of BLAS: given the same library
and slabs, they are the same bits at any number of threads. Between CPUs the last bits may differ, as those of any
product of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS
from gguflike.calibrate.statistics import StackStatistics, Statistics
from gguflike.frozen import frozen
from gguflike.tensor import QuantizedTensor, quantize

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``map``, or that of a pool of threads."""

TILE = 256
BLOCK = 32  # of Q8_0
RANGE = 1024  # of values in it


@frozen
class Importance:
    """Sums of the squares of a matrix's inputs, float64 (columns,), over so many ``tokens``."""

    sums: npt.NDArray[np.float64]
    tokens: int


class Collector(Protocol):
    """What sums up the inputs of a matrix, slab by slab."""

    def add(self, inputs: Floats, floats: Floats | None, each: Each = map) -> None:
        """Inputs (rows, columns) of the quantized model (or the only one) and, row by row, of the float model."""
        ...

    def result(self) -> Any:
        """What was summed up. The sums themselves are used up."""
        ...


class Collecting(Protocol):
    """How inputs are summed up."""

    def one(self, columns: int, cross: bool) -> Collector:
        """Sums for a matrix, or for one of a stack, which has no ``cross``."""
        ...

    def stack(self, path: Path, count: int, columns: int) -> Any:
        """What the results for a stack are appended to, in order; a large one may be kept in ``path``."""
        ...

    def size(self, columns: int, cross: bool) -> int:
        """Bytes of the sums of one."""
        ...


@frozen
class Hessians:
    """`Statistics` of each matrix.

    ``cap``: an input whose squared length is above so many times the slab's median counts as if it had that length
    (the first token of a text is often a thousand times as long as others, and would be all that a Hessian sees).
    None: all count as they are.
    """

    cap: float | None = 100.0

    def one(self, columns: int, cross: bool) -> Moments:
        return Moments(columns, cross, self.cap)

    def stack(self, path: Path, count: int, columns: int) -> StackStatistics:
        return StackStatistics(path, count, columns)

    def size(self, columns: int, cross: bool) -> int:
        return (8 if cross else 4) * columns**2


@frozen
class Importances:
    """`Importance` of each matrix, which is what an importance matrix holds; of a stack, a list."""

    def one(self, columns: int, cross: bool) -> Squares:  # noqa: ARG002 - squares of one model's inputs
        return Squares(columns)

    def stack(self, path: Path, count: int, columns: int) -> list[Importance]:  # noqa: ARG002 - they are few
        return []

    def size(self, columns: int, cross: bool) -> int:  # noqa: ARG002
        return 8 * columns


@frozen
class Together:
    """Several ways to sum up at once: results are tuples with one of each."""

    ways: tuple[Collecting, ...]

    def one(self, columns: int, cross: bool) -> Several:
        return Several([way.one(columns, cross) for way in self.ways])

    def stack(self, path: Path, count: int, columns: int) -> Stacks:
        return Stacks([way.stack(path, count, columns) for way in self.ways])

    def size(self, columns: int, cross: bool) -> int:
        return sum(way.size(columns, cross) for way in self.ways)


class Several:
    """Collectors of the same inputs."""

    def __init__(self, parts: Sequence[Collector]) -> None:
        self.parts = parts

    def add(self, inputs: Floats, floats: Floats | None, each: Each = map) -> None:
        for part in self.parts:
            part.add(inputs, floats, each)

    def result(self) -> tuple[Any, ...]:
        return tuple(part.result() for part in self.parts)


class Stacks:
    """What each of several ways has of the matrices of a stack, in ``parts``."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def append(self, results: Sequence[Any]) -> None:
        for part, result in zip(self.parts, results, strict=True):
            part.append(result)


class Squares:
    """Sums of squares for a matrix of ``columns`` columns."""

    def __init__(self, columns: int) -> None:
        self.sums, self.tokens = np.zeros(columns), 0

    def add(self, inputs: Floats, floats: Floats | None, each: Each = map) -> None:  # noqa: ARG002 - a Collector
        self.tokens += len(inputs)
        self.sums += np.einsum("tk,tk->k", inputs, inputs, dtype=np.float64)

    def result(self) -> Importance:
        return Importance(self.sums, self.tokens)


class Moments:
    """The sums of `Statistics` for a matrix of ``columns`` columns; ``cap`` as of `Hessians`."""

    def __init__(self, columns: int, cross: bool = False, cap: float | None = None) -> None:
        self.gram = np.zeros((columns, columns), np.float32)
        self.cross = np.zeros((columns, columns), np.float32) if cross else None
        self.cap, self.tokens = cap, 0

    def add(self, inputs: Floats, floats: Floats | None, each: Each = map) -> None:
        self.tokens += len(inputs)
        if self.cap is not None and len(inputs):
            scale = _capped(inputs, self.cap)
            inputs = inputs * scale
            floats = None if floats is None else floats * scale
        add_gram(inputs, self.gram, each)
        if self.cross is not None:
            assert floats is not None, "both streams are summed up"
            add_products(floats - inputs, inputs, self.cross, each)

    def result(self) -> Statistics:
        count = np.float32(max(self.tokens, 1))
        mirror(self.gram)
        self.gram /= count
        if self.cross is not None:  # the sum of (x_f - x_q) x_q^T so far
            self.cross /= count
            self.cross += self.gram
        return Statistics(self.gram, self.cross, self.tokens)


def add_gram(rows: Floats, sums: Floats, each: Each = map) -> None:
    """Add ``rows.T @ rows`` to ``sums``, above the diagonal and in the tiles on it; `mirror` fills in the rest.

    Tiles are the same however many of them are made at the same time, and so are the bits of the sums.
    """
    starts = range(0, rows.shape[1], TILE)

    def add(tile: tuple[int, int]) -> None:
        i, j = (slice(start, start + TILE) for start in tile)
        sums[i, j] += rows[:, i].T @ rows[:, j]

    for _ in each(add, [(i, j) for i in starts for j in starts if j >= i]):
        pass


def mirror(sums: Floats) -> None:
    """Make what `add_gram` has added up symmetric."""
    starts = range(0, len(sums), TILE)
    for i, j in ((i, j) for i in starts for j in starts if j > i):
        sums[j : j + TILE, i : i + TILE] = sums[i : i + TILE, j : j + TILE].T


def add_products(left: Floats, right: Floats, sums: Floats, each: Each = map) -> None:
    """Add ``left.T @ right`` of (rows, columns) each to ``sums``, as products of int8.

    `BLOCK` rows of a column share a scale, so that a value is off by .4 % of the largest of these at most, at random:
    of sums over thousands of rows that is nothing, and they take half the time that products of float32 do.
    """
    rows, columns = right.shape
    whole = -(-rows // BLOCK) * BLOCK
    peaks = [np.float32(np.abs(one).max(initial=0)) for one in (left, right)]
    if not all(peak > 0 for peak in peaks):
        return
    unit = np.float32(RANGE) / peaks[1]  # scales are float16

    def turned(values: Floats, start: int) -> Floats:
        tile = np.zeros((min(TILE, values.shape[1] - start), whole), np.float32)
        tile[:, :rows] = values[:, start : start + TILE].T
        return tile

    def encoded(start: int) -> Bytes:
        return quantize(turned(right, start) * unit, "Q8_0", method="absmax", threads=1).data

    stored = QuantizedTensor(
        "", FORMATS["Q8_0"], (columns, whole), np.concatenate(list(each(encoded, range(0, columns, TILE))))
    )

    def add(start: int) -> None:
        sums[start : start + TILE] += stored.linear(turned(left, start), 1) / unit

    for _ in each(add, range(0, left.shape[1], TILE)):
        pass


def _capped(inputs: Floats, cap: float) -> Floats:
    """What to multiply each row by, so that no squared length is above ``cap`` times the median: (rows, 1)."""
    lengths = np.einsum("tk,tk->t", inputs, inputs)
    limit = np.float32(cap) * np.median(lengths[lengths > 0]) if (lengths > 0).any() else np.float32(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lengths > limit, np.sqrt(limit / lengths), 1).astype(np.float32)[:, None]
