"""safetensors files: the header checked in full before any data is touched, tensors read lazily by rows.

The format is small enough to check here more strictly than the library does, which accepts a duplicated key. Reading
is by position (no mapping), so a file that shrinks meanwhile is an error and not a crash.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike import foreign
from gguflike.checkpoint import elsewhere, files, float8, strictjson
from gguflike.checkpoint.elsewhere import Extent
from gguflike.errors import CheckpointError, UnsupportedError, counted

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
MAX_DIMS = 8

# Bits per element of every dtype the format names; what is not in NUMPY is sized but not read.
_BITS: Mapping[str, int] = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32},
    **{"U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8},
    **{"F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
#: dtype -> numpy's dtype of what is read; bfloat16 comes as its bits, floats of 8 bits as bytes.
NUMPY: Mapping[str, str] = {
    **{"U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"},
    **{"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "BOOL": "u1"},
    **{"F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E4M3FNUZ": "u1", "F8_E5M2FNUZ": "u1", "F8_E8M0": "u1"},
}
FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
FIRST_READ = 1 << 18  # bytes of a file elsewhere that are fetched at once: most headers are shorter
#: dtype -> the type of GGUF that holds its values exactly, but for those of ROUNDED.
GGUF_TYPES: Mapping[str, str] = {
    **{"F16": "F16", "BF16": "BF16", "F32": "F32", "F64": "F32"},
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), "F16"),
    **{"I8": "I8", "I16": "I16", "I32": "I32", "I64": "I64"},
    **{"BOOL": "I8", "U8": "I16", "U16": "I32", "U32": "I64", "U64": "I64"},
}
ROUNDED = frozenset({"F64"})
COMPARED = 1 << 22  # elements of two tensors that are compared at a time
PIECE = 1 << 25  # bytes of whole rows that are read at a time for some of their columns


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a file: a description that can be sent to another process, and reads itself from there.

    ``offset`` is absolute in the file; ``file_bytes`` is the file's size when it was checked.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    offset: int
    file_bytes: int

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.size * _BITS[self.dtype] // 8

    @property
    def rows(self) -> int:
        """Length of the first axis (1 for a scalar)."""
        return self.shape[0] if self.shape else 1

    def extents(self, start: int, stop: int) -> list[Extent]:
        """What of files is read for the rows ``start`` to ``stop`` of the first axis."""
        row = prod(self.shape[1:]) * _BITS[self.dtype] // 8
        return [Extent(self.path, self.file_bytes, self.offset + start * row, (stop - start) * row)]

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows ``start`` to ``stop`` of the first axis in their own dtype; bfloat16 comes as its bits in uint16, floats
        of 8 bits in uint8.

        CheckpointError where the file has changed since, UnsupportedError for what is smaller than a byte.
        """
        dtype = self._numpy_dtype()
        stop = self.rows if stop is None else stop
        row = prod(self.shape[1:])
        data = np.empty((stop - start) * row, dtype)
        _read_into(self, [(self.offset + start * row * data.itemsize, data)])
        return data.reshape((stop - start, *self.shape[1:])) if self.shape else data.reshape(())

    def read_columns(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Columns ``start`` to ``stop`` of a matrix, as of ``read``: the rest of the rows is not kept."""
        if type(self) is not LazyTensor:  # values are not where the file has a matrix of this shape
            of_all: npt.NDArray[Any] = self.read()[:, start:stop]
            return of_all
        rows, columns = self.shape
        if "://" in self.path:  # a request for each row would take longer than the whole does, once
            kept: npt.NDArray[Any] = _kept(self)[:, start:stop]
            return kept
        dtype = np.dtype(self._numpy_dtype())
        data = np.empty((rows, stop - start), dtype)
        if 4 * (stop - start) < columns:
            first, step = self.offset + start * dtype.itemsize, columns * dtype.itemsize
            _read_into(self, [(first + row * step, data[row]) for row in range(rows)])
        else:
            each = max(1, PIECE // max(1, columns * dtype.itemsize))
            for row in range(0, rows, each):
                data[row : row + each] = self.read(row, min(row + each, rows))[:, start:stop]
        return data

    def _numpy_dtype(self) -> str:
        dtype = NUMPY.get(self.dtype)
        if dtype is None:
            raise UnsupportedError(
                f"tensor of dtype {self.dtype}",
                path=self.path,
                tensor=self.name,
                expected="one of " + ", ".join(NUMPY),
                remedy="convert the checkpoint to bfloat16 first",
            )
        return dtype

    def read_f32(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """The same rows as float32 (float64 is rounded). UnsupportedError for integers, which are not weights."""
        if self.dtype in float8.KINDS:
            decoded: npt.NDArray[np.float32] = float8.values(self.dtype)[self.read(start, stop)]
            return decoded
        if self.dtype not in FLOATS:
            raise UnsupportedError(
                f"weights of dtype {self.dtype}",
                path=self.path,
                tensor=self.name,
                expected="one of " + ", ".join(sorted(FLOATS)),
                remedy="a checkpoint that is already quantized has to be dequantized first",
            )
        return widened(self.read(start, stop), self.dtype)


def widened(data: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """What was read of a tensor of floats of 16 bits or more, as float32."""
    if dtype == "BF16":
        bits = np.empty(data.shape, np.uint32)
        np.left_shift(data, 16, out=bits, dtype=np.uint32)
        return bits.view(np.float32)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which the caller refuses by name
        return data.astype(np.float32, copy=False)


def same_values(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors hold the same weights, bit for bit, once both are of the wider dtype. Read in pieces."""
    if a is b or replace(a, name=b.name) == b:
        return True
    if a.shape != b.shape or (a.dtype != b.dtype and not FLOATS.issuperset((a.dtype, b.dtype))):
        return False
    step = max(1, COMPARED // max(1, prod(a.shape[1:])))
    for start in range(0, a.rows, step):
        stop = min(start + step, a.rows)
        if a.dtype == b.dtype:
            x, y = a.read(start, stop), b.read(start, stop)
        else:
            x, y = a.read_f32(start, stop), b.read_f32(start, stop)
        if x.tobytes() != y.tobytes():
            return False
    return True


@functools.lru_cache(maxsize=3)
def _kept(tensor: LazyTensor) -> npt.NDArray[Any]:
    """A tensor elsewhere, of which columns are read one after the other; with two others that are read beside it."""
    return tensor.read()


def _read_into(tensor: LazyTensor, runs: Sequence[tuple[int, npt.NDArray[Any]]]) -> None:
    """Fill arrays, each with what follows a byte of the file."""
    if "://" in tensor.path:
        from gguflike.checkpoint.hub import ahead

        for offset, data in runs:
            ahead.read_into(
                tensor.path, tensor.file_bytes, offset, data.data.cast("B") if data.size else memoryview(b"")
            )
        return
    try:
        with Path(tensor.path).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            complete = size == tensor.file_bytes and all(_filled(file, offset, data) for offset, data in runs)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=tensor.path, tensor=tensor.name) from None
    if not complete:
        raise CheckpointError(
            "file changed while it was being read",
            path=tensor.path,
            tensor=tensor.name,
            expected=counted(tensor.file_bytes, "byte"),
            got=counted(size, "byte"),
        )


def _filled(file: FileIO, offset: int, data: npt.NDArray[Any]) -> bool:
    view, done = data.data.cast("B") if data.size else memoryview(b""), 0
    file.seek(offset)
    while done < len(view) and (count := file.readinto(view[done:])):
        done += count
    return done == len(view)


def read_header(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file, in order of their data. CheckpointError on any departure from the format.

    A tensor that shared its memory with another is stored once, and ``__metadata__`` says the other name (as
    safetensors' save_model writes it): both names are given. Of a file that is not on disk (elsewhere), the header is
    fetched, and its tensors read themselves by ranges.
    """
    name = elsewhere.name_of(path)
    if name is None:
        start, text, size = _head(path)
    else:
        from gguflike.checkpoint.hub import remote

        file = remote.opened(name)
        start, text, size = _split(path, file.size, file.read(0, FIRST_READ), file.read)
    length = len(text)
    if not text.startswith(b"{"):
        raise files.not_the_file(path, start, "safetensors") or CheckpointError(
            "header does not begin with '{'", path=path, offset=8, field="header"
        )
    header = strictjson.parse(text, path, "header")
    metadata = _metadata(header.pop("__metadata__", {}), path)
    tensors = [_tensor(key, entry, name or path, 8 + length, size) for key, entry in header.items()]
    tensors.sort(key=lambda t: (t.offset, t.nbytes))
    _check_tiling(tensors, path, 8 + length, size)
    table = {tensor.name: tensor for tensor in tensors}
    shared = {name: table[kept] for name, kept in metadata.items() if kept in table and name not in table}
    return table | {name: replace(tensor, name=name) for name, tensor in shared.items()}


def _head(path: Path) -> tuple[bytes, bytes, int]:
    """The first bytes of a file on disk, the text of its header, and its size."""
    files.check(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _split(path, size, file.read(foreign.SAMPLE), lambda _, count: file.read(count))
    except OSError as error:
        raise files.unreadable(path, error) from None


def _split(path: Path, size: int, start: bytes, read: Callable[[int, int], bytes]) -> tuple[bytes, bytes, int]:
    """What `_head` gives, of a file that begins with ``start`` and goes on with ``read(offset, count)``."""
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(MAX_HEADER, size - 8):
        raise files.not_the_file(path, start, "safetensors") or CheckpointError(
            "header does not fit",
            path=path,
            offset=0,
            field="header length",
            expected=f"at most {max(0, min(MAX_HEADER, size - 8))} bytes in a file of {size}",
            got=length if len(start) >= 8 else f"a file of {size} bytes",
            remedy="the file is truncated or is not safetensors; download it again",
        )
    return start, start[8 : 8 + length] + read(len(start), max(0, 8 + length - len(start))), size


def _metadata(metadata: Any, path: Path) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ must map strings to strings", path=path, field="header: __metadata__")
    return metadata


def _tensor(name: str, entry: Any, path: Path | str, start: int, size: int) -> LazyTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            "entry is malformed",
            path=path,
            tensor=name[:200],
            expected="dtype, shape and data_offsets",
            got=_brief(entry),
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError("unknown dtype", path=path, tensor=name[:200], got=_brief(dtype))
    if not _sizes(shape) or len(shape) > MAX_DIMS:
        raise CheckpointError(
            "shape is malformed", path=path, tensor=name[:200], expected=f"up to {MAX_DIMS} sizes", got=_brief(shape)
        )
    if not _sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size - start:
        raise CheckpointError(
            "data_offsets are outside the file",
            path=path,
            tensor=name[:200],
            expected=f"begin <= end <= {size - start}",
            got=_brief(offsets),
            remedy="the file is truncated or damaged; download it again",
        )
    bits = prod(shape) * _BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise CheckpointError(
            "data_offsets do not match dtype and shape",
            path=path,
            tensor=name[:200],
            expected=counted(bits // 8, "byte"),
            got=counted(offsets[1] - offsets[0], "byte"),
        )
    return LazyTensor(name, dtype, tuple(shape), str(path), start + offsets[0], size)


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _brief(value: Any) -> str:
    return repr(value)[:120]


def _check_tiling(tensors: list[LazyTensor], path: Path, start: int, size: int) -> None:
    """Data must follow each other from the header to the end of the file, without overlap or hole."""
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            raise CheckpointError(
                "data overlaps another tensor" if tensor.offset < position else "there is a hole before the data",
                path=path,
                tensor=tensor.name[:200],
                expected=f"data to begin at byte {position}",
                got=tensor.offset,
            )
        position += tensor.nbytes
    if position != size:
        raise CheckpointError("bytes after the last tensor", path=path, offset=position, expected=position, got=size)
