"""Opening a file: the header is parsed at once, tensors are views of the mapped file."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from gguflike.blocks import BlockFormat, format_by_id
from gguflike.container import system
from gguflike.container.header import N_DIMS, NBYTES, OFFSET, TYPE, Header, is_cut, parse
from gguflike.container.layout import ARCHITECTURE_KEY, MAX_HEADER_BYTES, ORIGINAL_SHAPE, TensorInfo
from gguflike.container.metadata import Metadata
from gguflike.container.validate import refuse
from gguflike.container.values import INTEGERS
from gguflike.errors import GGUFError, UnsupportedError, counted
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    import numpy.typing as npt

T = TypeVar("T")

MAX_ORIGINAL_DIMS = 8  # of safetensors; numpy has 32 or 64

FIRST_READ = (
    1 << 20
)  # bytes of a file elsewhere that are read at once; a vocabulary of 150,000 words takes six times it


class Lazy(Mapping[str, T]):
    """Names in file order; each value is made when it is asked for."""

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], T]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return counted(len(self), "tensor")


class GGUFFile:
    """One open file. A context manager; ``close`` lets go of the mapping, tensors taken before stay valid.

    ``path``, ``version`` (2 or 3), ``byteorder`` ("little" or "big"), ``alignment``, ``data_offset`` (where the data
    section begins), ``header_bytes`` (where the header's last record ends), ``file_bytes``, ``metadata``, ``infos``
    (where each tensor stands), ``tensors`` (the tensors), ``architecture`` (None where the file names none), ``header``
    (what was parsed, with the tensors in a table of numbers).

    Data of little-endian files is never copied. Big-endian data is swapped, field by field, into a copy on access.
    The file must not shrink while it is open: the operating system then kills a process that touches the lost pages.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._map: Any = _map(self.path)
        self._take(parse(self._map, self.path), len(self._map))

    def _take(self, header: Header, file_bytes: int) -> None:
        self.header = header
        self.file_bytes = file_bytes
        self.version = header.version
        self.byteorder: Literal["little", "big"] = "little" if header.order == "<" else "big"
        self.alignment = header.alignment
        self.data_offset = header.data_offset
        self.header_bytes = header.end
        self.metadata: Metadata = header.metadata
        self.infos: Mapping[str, TensorInfo] = Lazy(header.names, self._info)
        self.tensors: Mapping[str, QuantizedTensor] = Lazy(header.names, self._tensor)
        refuse(self)

    @property
    def architecture(self) -> str | None:
        """``general.architecture``, such as "llama"."""
        return self.metadata.get(ARCHITECTURE_KEY)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files this consists of: one, or the shards in order."""
        return (self.path,)

    @property
    def fetched(self) -> int:
        """Bytes that came from elsewhere so far: none of what is on the disk."""
        return 0

    def close(self) -> None:
        """Let go of the file. Metadata and new tensors cannot be read afterwards (ValueError)."""
        mapping, self._map = self._map, None
        if isinstance(mapping, mmap.mmap):
            with suppress(BufferError):  # tensors are still in use: the mapping goes with the last of them
                mapping.close()

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Bytes ``start`` to ``stop`` of a tensor, in whole blocks and little-endian, read into memory of their own.

        GGUFError where the file has become shorter, OSError where it cannot be read.
        """
        info = self._info(name)
        data = np.empty(stop - start, np.uint8)
        descriptor = system.open_file(self.path, os.O_RDONLY)
        try:
            done = system.fill(descriptor, data.data, info.offset + start)
        finally:
            os.close(descriptor)
        if done < len(data):
            raise GGUFError("the file became shorter while it was read", path=self.path, tensor=name, rule="C-025")
        return _little_endian(data, info.format) if self.header.order == ">" else data

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({self.path!r}, {self.architecture}, {counted(len(self.infos), 'tensor')})"

    def _info(self, name: str) -> TensorInfo:
        header = self.header
        row = [int(number) for number in header.table[header.names[name]]]
        fmt = _format(row[TYPE])
        shape = tuple(reversed(row[: row[N_DIMS]]))
        return TensorInfo(name, shape, fmt, header.data_offset + row[OFFSET], row[NBYTES])

    def _tensor(self, name: str) -> QuantizedTensor:
        if self._map is None:
            raise ValueError(f"{self.path}: the file is closed")
        info = self._info(name)
        data = np.frombuffer(self._map, np.uint8, info.nbytes, info.offset) if info.nbytes else np.empty(0, np.uint8)
        if self.header.order == ">":
            data = _little_endian(data, info.format)
        return QuantizedTensor(name, info.format, info.shape, data, original_shape(self, info))


def original_shape(file: GGUFFile, info: TensorInfo) -> tuple[int, ...] | None:
    """The shape of a tensor in its network, where the file says another than it has. GGUFError where the two do not
    fit each other."""
    key = ORIGINAL_SHAPE + info.name
    if key not in file.metadata:
        return None
    stated = file.metadata[key]
    shape = tuple(int(size) for size in stated) if file.metadata.item_type_of(key) in INTEGERS else (-1,)
    if min(shape, default=0) < 0 or len(shape) > MAX_ORIGINAL_DIMS or prod(shape) != prod(info.shape):
        raise GGUFError(
            "the original shape is not one of the tensor",
            path=file.path,
            tensor=info.name,
            field=key,
            expected=f"sizes whose product is {prod(info.shape)}",
            got=str(stated)[:80],
        )
    return shape


class HeaderFile(GGUFFile):
    """The header of a file that lies elsewhere: ``read(offset, count)`` gives its bytes. ``tensors`` cannot be had;
    `read` fetches what it is asked for.

    What is read is the beginning of the file, twice as much each time until the header is in it. ``received`` counts
    the bytes that came, where more may come than was asked for.
    """

    def __init__(
        self,
        path: str,
        file_bytes: int,
        read: Callable[[int, int], bytes],
        received: Callable[[], int] | None = None,
    ) -> None:
        self.path = path
        self._fetch, self._received = read, received
        self._read = 0
        most = min(file_bytes, MAX_HEADER_BYTES)
        data = b""
        while True:
            data += self._taken(len(data), min(max(len(data), FIRST_READ), most - len(data)))
            try:
                header = parse(data, path, file_bytes)
                break
            except GGUFError as error:
                if len(data) >= most or not is_cut(error, file_bytes):
                    raise
        self._map = data
        self._take(header, file_bytes)

    @property
    def fetched(self) -> int:
        """Bytes that came from elsewhere so far."""
        return self._read if self._received is None else self._received()

    def _taken(self, offset: int, count: int) -> bytes:
        data = self._fetch(offset, count)
        self._read += len(data)
        return data

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        info = self._info(name)
        data = np.frombuffer(self._taken(info.offset + start, stop - start), np.uint8)
        if len(data) < stop - start:
            raise GGUFError("the file became shorter while it was read", path=self.path, tensor=name, rule="C-025")
        return _little_endian(data, info.format) if self.header.order == ">" else data

    def _tensor(self, name: str) -> QuantizedTensor:
        remedy = "download the file to read its tensors"
        raise UnsupportedError("only the header of the file was fetched", path=self.path, tensor=name, remedy=remedy)


def _little_endian(data: npt.NDArray[np.uint8], fmt: BlockFormat) -> npt.NDArray[np.uint8]:
    return data.view(_swapped(fmt)).astype(fmt.dtype).view(np.uint8).reshape(-1)


def _swapped(fmt: BlockFormat) -> np.dtype[Any]:
    dtype: np.dtype[Any] = fmt.dtype.newbyteorder(">")
    return dtype


def _format(type_id: int) -> BlockFormat:
    fmt = format_by_id(type_id)
    assert fmt is not None  # the parser refuses ids that are not in the table
    return fmt


def _map(path: str) -> mmap.mmap | bytes:
    """The whole file, read-only. OSError as the system gives it; GGUFError for what is not a regular file."""
    descriptor = system.open_file(path, os.O_RDONLY, "O_NONBLOCK")  # a FIFO must not make us wait
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            folder = stat.S_ISDIR(status.st_mode)
            raise GGUFError(
                "not a file",
                path=path,
                rule="C-001",
                expected="a regular file",
                got="a folder" if folder else "a special file",
                remedy="a Hugging Face folder is converted with `gguflike convert`" if folder else None,
            )
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if status.st_size else b""
    finally:
        os.close(descriptor)
