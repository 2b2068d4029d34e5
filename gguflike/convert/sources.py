"""Where tensors come from: one interface over a checkpoint's tensors, a GGUF file's and computed ones.

A source is a small description that can be sent to another process and reads its rows there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import lcm, prod
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from gguflike import container
from gguflike.blocks import FORMATS, BlockFormat, format_by_name
from gguflike.checkpoint import LazyTensor
from gguflike.checkpoint.elsewhere import Extent
from gguflike.container.reader import CHANGED
from gguflike.errors import GGUFError, QuantizationError, UnsupportedError
from gguflike.families.origins import Piece
from gguflike.families.transforms import Transform
from gguflike.kernels import dispatch
from gguflike.tensor import QuantizedTensor

Floats = npt.NDArray[np.float32]
Stamp = tuple[int, int, int, int]
DECODED_BYTES = 1 << 22  # bytes of float32 that halves are decoded to at a time


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


class StackSource(Source, Protocol):
    """A stack of matrices of which parts can be read. ``is_divisible``: whether they can for this one."""

    @property
    def is_divisible(self) -> bool: ...

    def read_rows(self, index: int, low: int, high: int, limit: float) -> Floats:
        """Rows ``low`` to ``high`` of one matrix, of shape (1, rows, columns), as of ``read``."""
        ...


class StoredSource(Source, Protocol):
    """A tensor that is in blocks already, which ``part`` gives as they are; ``beside`` are further tensors that a file
    needs then."""

    def part(self, start: int, stop: int) -> QuantizedTensor: ...

    def beside(self) -> list[Source]: ...


@dataclass(frozen=True)
class CheckpointSource:
    """A tensor put together of tensors of a checkpoint: ``pieces`` one behind the other, each of its tensor."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[LazyTensor, Piece], ...]
    compiled: bool = False  # halves are decoded by the kernels, in a tenth of the time
    halves: bool = False  # they are not decoded, nor looked at: ``read`` gives float16, or bfloat16 as uint16

    @property
    def has_halves(self) -> bool:
        """Whether all is stored as halves of one kind, of which rows are no more than moved."""
        fmt = FORMATS.get(self.stored)
        alike = all(
            type(tensor) is LazyTensor and tensor.dtype == self.stored and piece.via.moves_rows
            for tensor, piece in self.pieces
        )
        return fmt is not None and is_half(fmt) and alike

    @property
    def origin(self) -> str:
        return self.pieces[0][0].name

    @property
    def stored(self) -> str:
        return self.pieces[0][0].dtype

    @property
    def group(self) -> int:
        return lcm(*(1 if _by_columns(tensor, piece) else piece.via.group for tensor, piece in self.pieces))

    @property
    def is_divisible(self) -> bool:
        return len(self.shape) == 3 and all(_is_divisible(tensor, piece) for tensor, piece in self.pieces)

    def extents(self) -> list[Extent]:
        """Where what is read stands, in the order of reading."""
        return [each for tensor, piece in self.pieces for each in tensor.extents(*places(piece, 0, piece.rows))]

    def read(self, start: int, stop: int, limit: float) -> Floats:
        parts, first = [], 0
        for tensor, piece in self.pieces:
            low, high = max(start - first, 0), min(stop - first, piece.rows)
            if low < high:
                parts.append(self._read_piece(tensor, piece, low, high, limit))
            first += piece.rows
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _read_piece(self, tensor: LazyTensor, piece: Piece, start: int, stop: int, limit: float) -> Floats:
        """Rows ``start`` to ``stop`` of what a piece makes, in whole groups."""
        if _by_columns(tensor, piece):
            return self._read_window(tensor, piece.via, start, stop, piece.rows, limit)
        low, high = places(piece, start, stop)
        made: Floats = piece.via.apply(self._rows(tensor, low, high, limit))
        return made[None] if piece.stacked else made

    def read_rows(self, index: int, low: int, high: int, limit: float) -> Floats:
        for tensor, piece in self.pieces:
            if index < piece.rows:
                matrix = _matrix(tensor, piece, index)
                made = self._read_window(matrix, piece.via, low, high, self.shape[1], limit)
                return np.ascontiguousarray(made[None])
            index -= piece.rows
        raise IndexError(index)

    def _read_window(self, matrix: LazyTensor, via: Transform, low: int, high: int, rows: int, limit: float) -> Floats:
        """Rows ``low`` to ``high`` of the ``rows`` of what a matrix becomes."""
        window = via.window(low, high, rows)
        assert window is not None
        read = self._columns if window.axis == -1 else self._rows
        part = read(matrix, window.start, window.stop, limit)
        made: Floats = window.via.apply(part[None])[0]  # of a stack of one
        return made

    def _rows(self, tensor: LazyTensor, start: int, stop: int, limit: float) -> Floats:
        fmt = FORMATS.get(tensor.dtype)
        if self.halves:
            return tensor.read(start, stop)
        if not self.compiled or not _has_windows(tensor) or fmt is None or not is_half(fmt):
            rows = tensor.read_f32(start, stop)
            check(rows, tensor.name, (start,), limit)
            return rows
        out = np.empty((stop - start, *tensor.shape[1:]), np.float32)
        for first, last in ranges(start, stop, tensor.shape[1:], 1, DECODED_BYTES):  # they stay in the cache
            stored = tensor.read(first, last)
            if stored.size:
                into = out[first - start : last - start].reshape(1, -1)
                dispatch.decoder(fmt)(stored.reshape(1, -1).view(np.uint8), into, 1)  # one thread: others work, too
                check(out[first - start : last - start], tensor.name, (first,), limit)
        return out if tensor.shape else out.reshape(())

    def _columns(self, tensor: LazyTensor, start: int, stop: int, limit: float) -> Floats:
        fmt = FORMATS[tensor.dtype]
        assert fmt.decode is not None
        stored = tensor.read_columns(start, stop)
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused by name
            decoded = fmt.decode(stored.reshape(-1).view(fmt.dtype)).astype(np.float32, copy=False)
        columns = decoded.reshape(stored.shape)
        check(columns, tensor.name, (0, start), limit)
        return columns


def _by_columns(tensor: LazyTensor, piece: Piece) -> bool:
    """Whether rows of a matrix come from columns of a tensor that can be read so."""
    whole = _has_windows(tensor) and len(tensor.shape) == 2 and piece.hf_rows == piece.hf_shape[0] and not piece.stacked
    window = piece.via.window(0, 1, piece.rows) if whole else None
    return window is not None and window.axis == -1


def _is_divisible(tensor: LazyTensor, piece: Piece) -> bool:
    """Whether matrices of a stack are matrices of a checkpoint's tensor, or are one, of which parts can be read."""
    alike = len(tensor.shape) == (2 if piece.stacked else 3) and (piece.stacked or piece.hf_rows == piece.rows)
    return _has_windows(tensor) and alike and piece.via.window(0, 1, 1) is not None


def _has_windows(tensor: LazyTensor) -> bool:
    """Whether any part of a tensor can be read for what it takes: it is stored as it is, and not far away."""
    return type(tensor) is LazyTensor and tensor.dtype in FORMATS and "://" not in tensor.path


def _matrix(tensor: LazyTensor, piece: Piece, index: int) -> LazyTensor:
    """One of the matrices that a piece makes, as a tensor: rows of the checkpoint's, or one of its own stack."""
    one = replace(tensor, shape=tensor.shape[1:])
    start = tensor.offset + (piece.start + index) * one.nbytes
    return replace(one, shape=(piece.hf_rows, *one.shape) if piece.stacked else one.shape, offset=start)


def places(piece: Piece, start: int, stop: int) -> tuple[int, int]:
    """The rows of the tensor of a checkpoint that become the rows ``start`` to ``stop`` of a piece."""
    low, high = (piece.start + row * piece.hf_rows // piece.rows for row in (start, stop))
    return low, high


def is_half(fmt: BlockFormat) -> bool:
    """Whether a type is a float of two bytes."""
    return fmt.is_float and fmt.block_bytes == 2


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
    compiled: bool = False  # as of CheckpointSource
    halves: bool = False

    @property
    def has_halves(self) -> bool:
        return is_half(format_by_name(self.stored))

    @property
    def is_divisible(self) -> bool:
        return len(self.shape) > 2

    def read(self, start: int, stop: int, limit: float) -> Floats:
        return self._decoded(self.part(start, stop), (start,), limit)

    def read_rows(self, index: int, low: int, high: int, limit: float) -> Floats:
        return self._decoded(self.part_rows(index, low, high), (index, low), limit)

    def part(self, start: int, stop: int) -> QuantizedTensor:
        """Rows of the first axis as they are stored. GGUFError where the file has changed."""
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        return self._read(shape, start * prod(self.shape[1:]))

    def beside(self) -> list[Source]:
        return []  # the file has what belongs to it

    def part_rows(self, index: int, low: int, high: int) -> QuantizedTensor:
        """Rows ``low`` to ``high`` of one matrix of a stack, as of ``part``."""
        first = index * prod(self.shape[1:]) + low * prod(self.shape[2:])
        return self._read((1, high - low, *self.shape[2:]), first)

    def _read(self, shape: tuple[int, ...], first: int) -> QuantizedTensor:
        """Weights of a ``shape`` from the one numbered ``first`` on.

        They are read and not mapped: pages that are mapped stay in memory as long as the file is open.
        """
        file = _opened(self.path, self.stamps)
        fmt = format_by_name(self.stored)
        start = first // fmt.block_size * fmt.block_bytes
        data = file.read(self.origin, start, start + fmt.tensor_bytes(shape))
        shard = file.infos[self.origin].shard
        if stamp(file.paths[shard]) != self.stamps[shard]:
            raise GGUFError("file changed while it was being read", path=file.paths[shard], remedy=CHANGED)
        return QuantizedTensor(self.name, fmt, shape, data)

    def _decoded(self, part: QuantizedTensor, start: tuple[int, ...], limit: float) -> Floats:
        if self.halves:
            kind = np.dtype(part.format.fields[0].dtype)
            return cast("Floats", part.data.view(kind).reshape(part.shape))
        by_kernel = part.format.is_quantized or (self.compiled and is_half(part.format))
        rows = part.dequantize() if by_kernel else _plain(part)
        check(rows, self.origin, start, limit)
        return rows


def stamp(path: str) -> Stamp:
    """What tells one state of a file from another: device, inode, size, time of the last change in ns. Nothing does of
    a file that is not here."""
    if "://" in path:
        return (0, 0, 0, 0)
    status = Path(path).stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _opened(path: str, stamps: tuple[Stamp, ...]) -> container.GGUFFile:
    file = container.open(path)
    if tuple(stamp(each) for each in file.paths) != stamps:
        raise GGUFError("file changed while it was being read", path=path, remedy=CHANGED)
    return file


def elsewhere(source: Source) -> list[Extent]:
    """What of files that are read by ranges is read for a source, in the order of reading."""
    return [each for each in getattr(source, "extents", list)() if "://" in each.path]


@contextmanager
def reading_ahead(sources: Iterable[Source]) -> Iterator[None]:
    """Fetch what lies elsewhere before it is asked for, where the sources are read in this order in this process.

    ChangedError, at the end at the latest, for a file that was read whole and is not what the Hub says.
    """
    extents = [each for source in sources for each in elsewhere(source)]
    if not extents:
        yield
        return
    from gguflike.checkpoint.hub import ahead

    with ahead.reading(extents):
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


def check(rows: Floats, name: str, start: int | tuple[int, ...], limit: float) -> None:
    """QuantizationError naming the first NaN, infinity or value beyond ``limit``; ``start``: index of the first row,
    or of the first value along the first axes."""
    if rows.size == 0 or (rows.min() >= -limit and rows.max() <= limit):  # false where there is a NaN
        return
    where = np.argwhere(~(np.abs(rows) <= limit))[0]
    value = rows[tuple(where)]
    offsets = start if isinstance(start, tuple) else (start,)
    index = tuple(int(i) + offset for i, offset in zip_longest(where, offsets[: len(where)], fillvalue=0))
    raise QuantizationError(
        "value is too large for the type" if np.isfinite(value) else "value is not finite",
        tensor=name,
        expected=f"at most {limit:g}" if np.isfinite(value) else None,
        got=f"{value} at index {index}",
        remedy="choose BF16 or F32" if np.isfinite(value) else "the source is damaged",
    )


def stored_as(source: Source, name: str) -> StoredSource | None:
    """The source, where it gives blocks of the type called ``name``."""
    return cast("StoredSource", source) if hasattr(source, "part") and source.stored == name else None


def ranges(start: int, stop: int, row: tuple[int, ...], group: int, limit_bytes: int) -> list[tuple[int, int]]:
    """The rows ``start`` to ``stop``, each of shape ``row``, in ranges of at most ``limit_bytes`` of float32, in whole
    groups (at least one)."""
    if not row:
        return [(start, stop)]
    step = max(limit_bytes // max(4 * prod(row), 1) // group, 1) * group
    return [(first, min(first + step, stop)) for first in range(start, stop, step)]
