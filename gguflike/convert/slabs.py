"""Sources a part at a time, so that memory is bounded: how a tensor is cut, and reading what was cut."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import NamedTuple, cast

from gguflike.convert.sources import CheckpointSource, Floats, GGUFSource, Source, StackSource, StoredSource, ranges
from gguflike.tensor import QuantizedTensor


class Slab(NamedTuple):
    """What is read of a tensor at a time: ``start`` to ``stop`` of the first axis; where that is one matrix of a stack
    that is too large, only its ``rows``."""

    start: int
    stop: int
    rows: tuple[int, int] | None = None


def slabs(source: Source, limit_bytes: int) -> list[Slab]:
    """A tensor in slabs whose float32 values fill at most ``limit_bytes``, in whole groups of rows (at least one)."""
    rows, row = (source.shape[0], source.shape[1:]) if source.shape else (1, ())
    if 4 * prod(row) > limit_bytes and getattr(source, "is_divisible", False):
        inner = ranges(0, row[0], row[1:], 1, limit_bytes)
        return [Slab(index, index + 1, each) for index in range(rows) for each in inner]
    return [Slab(start, stop) for start, stop in ranges(0, rows, row, source.group, limit_bytes)]


def has_halves(source: Source) -> bool:
    """Whether `read_slab` can give a source's halves as they are."""
    return isinstance(source, CheckpointSource | GGUFSource) and source.has_halves


def read_slab(source: Source, slab: Slab, limit: float, compiled: bool, halves: bool = False) -> Floats:
    """The rows of a slab. ``compiled``: kernels may be used, as those that encode it will be. ``halves``: float16, or
    bfloat16 as uint16, of a source that has them, not compared with ``limit``."""
    if compiled and isinstance(source, CheckpointSource | GGUFSource):
        source = replace(source, compiled=True, halves=halves)
    if slab.rows is None:
        return source.read(slab.start, slab.stop, limit)
    return cast("StackSource", source).read_rows(slab.start, *slab.rows, limit)


def stored_slab(source: StoredSource, slab: Slab) -> QuantizedTensor:
    """A slab as it is stored."""
    if slab.rows is None:
        return source.part(slab.start, slab.stop)
    assert isinstance(source, GGUFSource)
    return source.part_rows(slab.start, *slab.rows)
