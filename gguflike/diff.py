"""Comparing two files tensor by tensor: type, shape, and how far the decoded weights lie apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.container import GGUFFile, open
from gguflike.errors import check_threads
from gguflike.progress import Progress
from gguflike.tensor import QuantizedTensor

CHUNK = 1 << 20  # weights decoded at a time: bounds the memory


@dataclass(frozen=True)
class TensorDiff:
    """One tensor that both files have. ``formats`` and ``shapes`` are those of the first and the second file.

    ``identical``: the same type and bytes. ``rmse`` is the root of the mean squared difference of the decoded weights,
    ``relative`` that divided by the root mean square of the first file's, ``largest`` the largest absolute difference;
    all three are NaN where the shapes differ.
    """

    name: str
    formats: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    identical: bool
    rmse: float
    relative: float
    largest: float


@dataclass(frozen=True)
class FileDiff:
    """All differences of two files; ``tensors`` in the order of the first, also those that are identical."""

    tensors: tuple[TensorDiff, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    metadata_only_first: tuple[str, ...]
    metadata_only_second: tuple[str, ...]
    metadata_changed: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether tensors and metadata are the same; digests count as metadata."""
        keys = self.metadata_only_first + self.metadata_only_second + self.metadata_changed
        return not (self.only_first or self.only_second or keys) and all(t.identical for t in self.tensors)


def diff(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> FileDiff:
    """Compare two GGUF files. Errors as of ``gguflike.open``; UnsupportedError for a type without a decoder."""
    check_threads(threads)
    with open(first) as a, open(second) as b:
        common = [name for name in a.infos if name in b.infos]
        total = sum(a.infos[name].nbytes for name in common)
        done = 0
        tensors = []
        for name in common:
            if progress:
                progress(done, total, name)
            tensors.append(compare(a.load(name), b.load(name), threads))
            done += a.infos[name].nbytes
        if progress:
            progress(done, total, "")
        keys = [key for key in a.metadata if key in b.metadata]
        return FileDiff(
            tuple(tensors),
            tuple(name for name in a.infos if name not in b.infos),
            tuple(name for name in b.infos if name not in a.infos),
            tuple(key for key in a.metadata if key not in b.metadata),
            tuple(key for key in b.metadata if key not in a.metadata),
            tuple(key for key in keys if not _same_value(a, b, key)),
        )


def compare(a: QuantizedTensor, b: QuantizedTensor, threads: int | None = None) -> TensorDiff:
    """The difference of two tensors, decoded in pieces of CHUNK weights."""
    formats, shapes = (a.format.name, b.format.name), (a.shape, b.shape)
    same_bytes = a.format == b.format and a.shape == b.shape and np.array_equal(a.data, b.data)
    if same_bytes or a.shape != b.shape or not a.size:
        distance = 0.0 if a.shape == b.shape else nan
        return TensorDiff(a.name, formats, shapes, same_bytes, distance, distance, distance)
    squares = norm = largest = 0.0
    for x, y in zip(_decoded(a, threads), _decoded(b, threads), strict=True):
        apart = x.astype(np.float64) - y
        squares += float(np.vdot(apart, apart))
        norm += float(np.vdot(x.astype(np.float64), x))
        largest = max(largest, float(np.abs(apart).max()))
    relative = sqrt(squares / norm) if norm else (nan if squares else 0.0)
    return TensorDiff(a.name, formats, shapes, False, sqrt(squares / a.size), relative, largest)


def _decoded(tensor: QuantizedTensor, threads: int | None) -> Iterator[npt.NDArray[np.float32]]:
    """float32 of shape (some rows, columns), piece by piece."""
    rows = tensor.rows
    columns = tensor.shape[-1] if tensor.shape else 1
    step = max(1, CHUNK // columns)
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        yield QuantizedTensor(tensor.name, tensor.format, (len(piece), columns), piece.reshape(-1)).dequantize(threads)


def _same_value(a: GGUFFile, b: GGUFFile, key: str) -> bool:
    mine: Any = a.metadata.typed(key)
    other: Any = b.metadata.typed(key)
    if (mine.type, mine.item_type) != (other.type, other.item_type):
        return False
    return bool(np.array_equal(mine.value, other.value))
