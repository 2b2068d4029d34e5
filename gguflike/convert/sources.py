"""Where tensors come from: one interface over a checkpoint's tensors, a GGUF file's and computed ones.

A source is a small description that can be sent to another process and reads its rows there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import lcm, prod
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gguflike import container
from gguflike.blocks import FORMATS, BlockFormat
from gguflike.checkpoint import LazyTensor
from gguflike.checkpoint.safetensors import Extent
from gguflike.errors import GGUFError, QuantizationError, UnsupportedError
from gguflike.families.origins import Piece
from gguflike.families.transforms import Transform
from gguflike.kernels import dispatch
from gguflike.tensor import QuantizedTensor

Floats = npt.NDArray[np.float32]
Stamp = tuple[int, int, int, int]


class Span(NamedTuple):
    """Rows of a tensor that are read together: ``start`` to ``stop`` of the first axis."""

    start: int
    stop: int


class Source(Protocol):
    """One tensor to be.

    ``shape`` is GGUF's in numpy order, ``stored`` names the type it has now, ``origin`` what it is called where it
    comes from, ``group`` the number of rows of the first axis that must be read together.
    """

    @property
    def name(self) -> str: ...

    @property
    def origin(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def stored(self) -> str: ...

    @property
    def group(self) -> int: ...

    def read(self, start: int, stop: int, limit: float) -> Floats:
        """Rows of the first axis as float32. QuantizationError on NaN and on values beyond ``limit``."""
        ...


@dataclass(frozen=True)
class CheckpointSource:
    """A tensor put together of tensors of a checkpoint: ``pieces`` one behind the other, each of its tensor."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[LazyTensor, Piece], ...]
    compiled: bool = False  # halves are decoded by the kernels, in a tenth of the time

    @property
    def origin(self) -> str:
        return self.pieces[0][0].name

    @property
    def stored(self) -> str:
        return self.pieces[0][0].dtype

    @property
    def group(self) -> int:
        return lcm(*(piece.via.group for _, piece in self.pieces))

    def extents(self) -> list[Extent]:
        """Where what is read stands, in the order of reading."""
        return [each for tensor, piece in self.pieces for each in tensor.extents(*_rows(piece, 0, piece.rows))]

    def read(self, start: int, stop: int, limit: float) -> Floats:
        parts, first = [], 0
        for tensor, piece in self.pieces:
            low, high = max(start - first, 0), min(stop - first, piece.rows)
            if low < high:
                parts.append(_read_piece(tensor, piece, low, high, limit, self.compiled))
            first += piece.rows
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _read_piece(tensor: LazyTensor, piece: Piece, start: int, stop: int, limit: float, compiled: bool) -> Floats:
    """Rows ``start`` to ``stop`` of what a piece makes, in whole groups."""
    low, high = _rows(piece, start, stop)
    rows = _floats(tensor, low, high, compiled)
    check(rows, tensor.name, low, limit)
    made: Floats = piece.via.apply(rows)
    return made[None] if piece.stacked else made


def _rows(piece: Piece, start: int, stop: int) -> tuple[int, int]:
    """The rows of the tensor of a checkpoint that become the rows ``start`` to ``stop`` of a piece."""
    low, high = (piece.start + row * piece.hf_rows // piece.rows for row in (start, stop))
    return low, high


def is_half(fmt: BlockFormat) -> bool:
    """Whether a type is a float of two bytes."""
    return fmt.is_float and fmt.block_bytes == 2


def _floats(tensor: LazyTensor, start: int, stop: int, compiled: bool) -> Floats:
    """Rows of a checkpoint's tensor as float32."""
    fmt = FORMATS.get(tensor.dtype)
    if not compiled or fmt is None or not is_half(fmt):
        return tensor.read_f32(start, stop)
    stored = tensor.read(start, stop)
    out = np.empty((1, stored.size), np.float32)
    if stored.size:
        dispatch.decoder(fmt)(stored.reshape(1, -1).view(np.uint8), out, 1)  # this is one thread of several
    return out.reshape(stored.shape)


@dataclass(frozen=True)
class MicroscaledSource:
    """A stack of matrices of 4-bit floats in blocks with a scale, whose codes and scales are two tensors of a
    checkpoint (origins.Microscaled). MXFP4 holds the same bits in another order."""

    name: str
    shape: tuple[int, ...]
    blocks: LazyTensor
    scales: LazyTensor
    via: Transform
    stored: str = "MXFP4"
    group: int = 1

    @property
    def origin(self) -> str:
        return self.blocks.name

    def read(self, start: int, stop: int, limit: float) -> Floats:
        rows = self.part(start, stop).dequantize()
        check(rows, self.origin, start, limit)
        return rows

    def extents(self) -> list[Extent]:
        """Where what is read stands, in the order of reading."""
        return [each for part in (self.blocks, self.scales) for each in part.extents(0, part.rows)]

    def part(self, start: int, stop: int) -> QuantizedTensor:
        """Matrices as MXFP4. Byte j of a block holds values 2j and 2j + 1, low bits first; in MXFP4 it holds j and
        j + 16."""
        codes, scales = (self.via.apply(part.read(start, stop)) for part in (self.blocks, self.scales))
        values = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*scales.shape, 2, 16)
        packed = values[..., 0, :] | values[..., 1, :] << 4
        data = np.concatenate([scales[..., None], packed], axis=-1).reshape(-1)
        return QuantizedTensor(self.name, FORMATS[self.stored], (stop - start, *self.shape[1:]), data)


@dataclass(frozen=True)
class GGUFSource:
    """A tensor of a GGUF file, decoded on reading. ``stamps`` tell whether the files are still those planned with."""

    path: str
    origin: str
    shape: tuple[int, ...]
    stored: str
    stamps: tuple[Stamp, ...]
    name: str
    group: int = 1

    def read(self, start: int, stop: int, limit: float) -> Floats:
        part = self.part(start, stop)
        rows = part.dequantize() if part.format.is_quantized else _plain(part)
        check(rows, self.origin, start, limit)
        return rows

    def part(self, start: int, stop: int) -> QuantizedTensor:
        """Rows of the first axis as they are stored, without copying. GGUFError where the file has changed."""
        tensor = _opened(self.path, self.stamps).tensors[self.origin]
        each = tensor.nbytes // self.shape[0] if self.shape and self.shape[0] else tensor.nbytes
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        return QuantizedTensor(self.name, tensor.format, shape, tensor.data[start * each : stop * each])


#: Sources of tensors that are in blocks already, which ``part`` gives as they are.
STORED = (GGUFSource, MicroscaledSource)


def stamp(path: str) -> Stamp:
    """What tells one state of a file from another: device, inode, size, time of the last change in ns."""
    status = Path(path).stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _opened(path: str, stamps: tuple[Stamp, ...]) -> container.GGUFFile:
    file = container.open(path)
    if tuple(stamp(each) for each in file.paths) != stamps:
        raise GGUFError("file changed while it was being read", path=path)
    return file


@contextmanager
def reading_ahead(sources: Iterable[Source]) -> Iterator[None]:
    """Fetch what lies elsewhere before it is asked for, where the sources are read in this order in this process."""
    spans = [span for source in sources for span in getattr(source, "extents", list)() if "://" in span.path]
    if not spans:
        yield
        return
    from gguflike.checkpoint.hub import ahead

    with ahead.reading(spans):
        yield


@contextmanager
def closing_sources() -> Iterator[None]:
    """Let go, at the end, of the files that sources have opened in this process."""
    try:
        yield
    finally:
        _opened.cache_clear()


def _plain(part: QuantizedTensor) -> Floats:
    """float32 from a type without blocks, without numba."""
    decode = part.format.decode
    if decode is None:
        raise UnsupportedError("type cannot be decoded", tensor=part.name, got=part.format.name)
    return np.ascontiguousarray(decode(part.blocks).reshape(part.shape), dtype=np.float32)


@dataclass(frozen=True)
class MadeSource:
    """A tensor computed from the hyper-parameters, such as Llama 3's rope factors."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Floats]
    stored: str = "F32"
    group: int = 1

    @property
    def origin(self) -> str:
        return "computed"

    def read(self, start: int, stop: int, limit: float) -> Floats:
        rows = self.make()[start:stop]
        check(rows, self.name, start, limit)
        return rows


def check(rows: Floats, name: str, start: int, limit: float) -> None:
    """QuantizationError naming the first NaN, infinity or value beyond ``limit``; ``start``: index of the first row."""
    if rows.size == 0 or (rows.min() >= -limit and rows.max() <= limit):  # false where there is a NaN
        return
    where = np.argwhere(~(np.abs(rows) <= limit))[0]
    value = rows[tuple(where)]
    index = tuple(int(i) for i in where)
    index = (index[0] + start, *index[1:]) if index else index
    raise QuantizationError(
        "value is too large for the type" if np.isfinite(value) else "value is not finite",
        tensor=name,
        expected=f"at most {limit:g}" if np.isfinite(value) else None,
        got=f"{value} at index {index}",
        remedy="choose BF16 or F32" if np.isfinite(value) else "the source is damaged",
    )


def slabs(source: Source, limit_bytes: int) -> list[Span]:
    """Ranges of the first axis whose float32 rows fill at most ``limit_bytes``, in whole groups (at least one)."""
    every = ranges(0, source.shape[0] if source.shape else 1, source.shape[1:], source.group, limit_bytes)
    return [Span(start, stop) for start, stop in every]


def read_span(source: Source, span: Span, limit: float, compiled: bool) -> Floats:
    """The rows of a slab. ``compiled``: kernels may be used, as those that encode it will be."""
    if compiled and isinstance(source, CheckpointSource):
        source = replace(source, compiled=True)
    return source.read(span.start, span.stop, limit)


def part_of(source: Source, span: Span) -> QuantizedTensor:
    """A slab of one of the STORED sources as it is stored."""
    assert isinstance(source, STORED)
    return source.part(span.start, span.stop)


def ranges(start: int, stop: int, row: tuple[int, ...], group: int, limit_bytes: int) -> list[tuple[int, int]]:
    """The rows ``start`` to ``stop``, each of shape ``row``, in ranges of at most ``limit_bytes`` of float32, in whole
    groups (at least one)."""
    if not row:
        return [(start, stop)]
    step = max(limit_bytes // max(4 * prod(row), 1) // group, 1) * group
    return [(first, min(first + step, stop)) for first in range(start, stop, step)]
