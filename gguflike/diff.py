"""Comparing two models tensor by tensor: type, shape, and how far the weights lie apart; and what their files say.

Either may be a GGUF file or the folder of a checkpoint, which is compared as the file that it would be converted to,
without rounding anything. A few megabytes of each are in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan, prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gguflike.container import Typed, open
from gguflike.errors import check_threads
from gguflike.progress import Progress
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    from gguflike.container import GGUFFile
    from gguflike.convert.folder_tensors import FolderTensors

CHUNK = 1 << 20  # weights decoded at a time: bounds the memory
#: Keys that are about a file, and not about the model in it, by their prefixes: a folder says nothing of them.
OF_FILES = ("gguflike.", "general.file_type", "general.quantization_version")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorDiff:
    """One tensor that both have. ``formats``, ``shapes``, ``nbytes`` and ``bits`` (for each weight) are those of the
    first and the second.

    ``identical``: the same type and bytes, or, where one is a checkpoint's, the same values. ``rmse`` is the root of
    the mean squared difference of the decoded weights, ``relative`` that divided by the root mean square of the
    first's, ``largest`` the largest absolute difference and ``cosine`` the cosine of the two as vectors. All four are
    NaN where the shapes differ or a weight is not finite, and the middle two where one is all zeros.
    """

    name: str
    formats: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    identical: bool
    rmse: float
    relative: float
    largest: float
    cosine: float
    nbytes: tuple[int, int]

    @property
    def kind(self) -> str:
        """What became of it: "same", "reshaped", "retyped" or "changed"."""
        if self.identical:
            return "same"
        if self.shapes[0] != self.shapes[1]:
            return "reshaped"
        return "changed" if self.formats[0] == self.formats[1] else "retyped"

    @property
    def bits(self) -> tuple[float, float]:
        """Bits of a weight in the first and in the second; 0 where there is none."""
        first, second = (
            8 * size / prod(shape) if prod(shape) else 0.0 for size, shape in zip(self.nbytes, self.shapes, strict=True)
        )
        return first, second


@dataclass(frozen=True)
class MetadataDiff:
    """A key whose values differ; None where one has no such key. ``differs`` counts the items that do, of arrays of one
    type and length, and ``first`` is the number of the first of them (-1: there is no such count)."""

    key: str
    old: Typed | None
    new: Typed | None
    differs: int = 0
    first: int = -1


@dataclass(frozen=True)
class FileDiff:
    """All differences; ``tensors`` in the order of the first, also those that are identical, ``metadata`` those that
    differ alone."""

    tensors: tuple[TensorDiff, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    metadata: tuple[MetadataDiff, ...]

    @property
    def identical(self) -> bool:
        """Whether tensors and metadata are the same; digests count as metadata."""
        return not (self.only_first or self.only_second or self.metadata) and all(t.identical for t in self.tensors)

    @property
    def worst(self) -> list[TensorDiff]:
        """The tensors that differ: those without a distance first, then those farthest apart for their size."""
        changed = [tensor for tensor in self.tensors if not tensor.identical]
        return sorted(changed, key=lambda tensor: -tensor.relative if isfinite(tensor.relative) else -np.inf)

    @property
    def metadata_only_first(self) -> tuple[str, ...]:
        return tuple(each.key for each in self.metadata if each.new is None)

    @property
    def metadata_only_second(self) -> tuple[str, ...]:
        return tuple(each.key for each in self.metadata if each.old is None)

    @property
    def metadata_changed(self) -> tuple[str, ...]:
        return tuple(each.key for each in self.metadata if each.old is not None and each.new is not None)


def diff(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> FileDiff:
    """Compare two models: GGUF files, or folders of checkpoints that this version can convert.

    Where one is a folder, metadata are those that a conversion would write, but for what is about a file only
    (OF_FILES). Errors as of ``gguflike.open`` and ``gguflike.convert``; UnsupportedError for a type without a decoder,
    QuantizationError where a weight of a checkpoint is not finite.
    """
    check_threads(threads)
    with ExitStack() as opened:
        a, b = (_side(path, threads, opened) for path in (first, second))
        common = [name for name in a.shapes if name in b.shapes]
        total, done = sum(a.nbytes(name) for name in common), 0
        tensors = []
        for name in common:
            if progress:
                progress(done, total, name)
            tensors.append(_compared(name, a, b))
            done += a.nbytes(name)
        if progress:
            progress(done, total, "")
        of_folder = any(isinstance(side, _Folder) for side in (a, b))
        return FileDiff(
            tuple(tensors),
            tuple(name for name in a.shapes if name not in b.shapes),
            tuple(name for name in b.shapes if name not in a.shapes),
            tuple(_metadata(a, b, OF_FILES if of_folder else ())),
        )


def compare(a: QuantizedTensor, b: QuantizedTensor, threads: int | None = None) -> TensorDiff:
    """The difference of two tensors, decoded in pieces of CHUNK weights."""
    pieces = ((_rows(a, span, threads), _rows(b, span, threads)) for span in _spans(a.shape))
    told = [_Told(each.format.name, each.shape, each.nbytes) for each in (a, b)]
    return _difference(a.name, told, _same_bytes(a, b), pieces)


@dataclass(frozen=True)
class _Told:
    """What is told of a tensor without its weights."""

    format: str
    shape: tuple[int, ...]
    nbytes: int


class _File:
    """A GGUF file as one of the two."""

    def __init__(self, file: GGUFFile, threads: int | None) -> None:
        self.file, self._threads = file, threads
        self.shapes = {name: info.shape for name, info in file.infos.items()}
        self.keys = list(file.metadata)

    def nbytes(self, name: str) -> int:
        return self.file.infos[name].nbytes

    def format(self, name: str) -> str:
        return self.file.infos[name].format.name

    def value(self, key: str) -> Typed:
        return self.file.metadata.typed(key)

    def spans(self, name: str) -> list[range]:
        return _spans(self.shapes[name])

    def packed(self, name: str, span: range) -> QuantizedTensor:
        info = self.file.infos[name]
        columns = info.shape[-1] if info.shape else 1
        each = info.format.row_bytes(columns)
        data = self.file.read(name, span.start * each, span.stop * each)  # and not mapped: see container/reader.py
        return QuantizedTensor(name, info.format, (len(span), columns), data)

    def rows(self, name: str, span: range) -> Floats:
        return self.packed(name, span).dequantize(self._threads)


class _Folder:
    """A checkpoint as one of the two: the file that it would be, of unrounded weights."""

    def __init__(self, tensors: FolderTensors) -> None:
        self._tensors = tensors
        self.shapes = {name: source.shape for name, source in tensors.sources.items()}
        self.keys = list(tensors.metadata)

    def nbytes(self, name: str) -> int:
        return self._tensors.nbytes(name)

    def format(self, name: str) -> str:
        return self._tensors.sources[name].stored

    def value(self, key: str) -> Typed:
        return self._tensors.metadata[key]

    def spans(self, name: str) -> list[range]:
        return self._tensors.spans(name)

    def rows(self, name: str, span: range) -> Floats:
        return self._tensors.rows(name, span)


_Side = _File | _Folder


def _side(path: str | os.PathLike[str], threads: int | None, opened: ExitStack) -> _Side:
    if os.path.isdir(path):  # noqa: PTH112 - the empty name is no folder
        from gguflike.convert.folder_tensors import FolderTensors  # who compares files need not load it

        return _Folder(FolderTensors(path))
    return _File(opened.enter_context(open(path)), threads)


def _compared(name: str, a: _Side, b: _Side) -> TensorDiff:
    """The difference of a tensor that both have."""
    told = [_Told(side.format(name), side.shapes[name], side.nbytes(name)) for side in (a, b)]
    spans = (b if isinstance(b, _Folder) else a).spans(name)  # a checkpoint's rows come as they are stored together
    same = None
    if isinstance(a, _File) and isinstance(b, _File):
        same = told[0] == told[1] and all(_same_bytes(a.packed(name, span), b.packed(name, span)) for span in spans)
    return _difference(name, told, same, ((a.rows(name, span), b.rows(name, span)) for span in spans))


def _difference(
    name: str,
    sides: Sequence[_Told],
    same_bytes: bool | None,
    pieces: Iterable[tuple[Floats, Floats]],
) -> TensorDiff:
    """``same_bytes``: None where the two are the same if their values are. ``pieces`` are read only if need be."""
    a, b = sides
    made = partial(
        TensorDiff,
        name=name,
        formats=(a.format, b.format),
        shapes=(a.shape, b.shape),
        nbytes=(a.nbytes, b.nbytes),
    )
    unknown = made(identical=False, rmse=nan, relative=nan, largest=nan, cosine=nan)
    if a.shape != b.shape:
        return unknown
    if same_bytes or not prod(a.shape):
        return made(identical=same_bytes is not False, rmse=0.0, relative=0.0, largest=0.0, cosine=1.0)
    squares = first = second = product = largest = 0.0
    for x, y in pieces:
        left, right = x.astype(np.float64).reshape(-1), y.astype(np.float64).reshape(-1)
        apart = left - right
        squares += float(apart @ apart)
        first, second = first + float(left @ left), second + float(right @ right)
        product += float(left @ right)
        largest = float(np.maximum(largest, np.abs(apart).max()))  # NaN stays
    if not isfinite(squares + first + second):
        return unknown
    same = same_bytes is None and not squares
    relative = sqrt(squares / first) if first else (nan if squares else 0.0)
    cosine = product / sqrt(first * second) if first and second else (1.0 if not squares else nan)
    cosine = max(-1.0, min(1.0, cosine))
    rmse = sqrt(squares / prod(a.shape))
    return made(identical=same, rmse=rmse, relative=relative, largest=largest, cosine=cosine)


def _same_bytes(a: QuantizedTensor, b: QuantizedTensor) -> bool:
    return a.format == b.format and a.shape == b.shape and np.array_equal(a.data, b.data)


def _spans(shape: tuple[int, ...]) -> list[range]:
    """Numbers of rows, about CHUNK weights of them at a time."""
    columns = shape[-1] if shape else 1
    count, step = prod(shape[:-1]), max(1, CHUNK // max(columns, 1))
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


def _rows(tensor: QuantizedTensor, span: range, threads: int | None) -> Floats:
    """float32 of shape (len(span), columns)."""
    columns = tensor.shape[-1] if tensor.shape else 1
    piece = tensor.rows[span.start : span.stop]
    return QuantizedTensor(tensor.name, tensor.format, (len(piece), columns), piece.reshape(-1)).dequantize(threads)


def _metadata(a: _Side, b: _Side, left_out: tuple[str, ...]) -> Iterator[MetadataDiff]:
    """The keys whose values differ, those of the first first."""
    mine, others = set(a.keys), set(b.keys)
    for key in [*a.keys, *(key for key in b.keys if key not in mine)]:
        if key.startswith(left_out):
            continue
        old = a.value(key) if key in mine else None
        new = b.value(key) if key in others else None
        if old is None or new is None or (old.type, old.item_type) != (new.type, new.item_type):
            yield MetadataDiff(key, old, new)
        elif not _equal(old.value, new.value):
            yield _differing(key, old, new)


def _equal(old: Any, new: Any) -> bool:
    """Whether two values of one type are the same; NaN is the same as NaN. Texts stay lists: an array of them has the
    longest one's room for each."""
    if isinstance(old, np.ndarray):
        return np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    return bool(old == new) or (old != old and new != new)


def _differing(key: str, old: Typed, new: Typed) -> MetadataDiff:
    if old.item_type is None or len(old.value) != len(new.value):
        return MetadataDiff(key, old, new)
    places = [place for place, (x, y) in enumerate(zip(old.value, new.value, strict=True)) if not _equal(x, y)]
    return MetadataDiff(key, old, new, len(places), places[0] if places else -1)
