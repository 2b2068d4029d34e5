"""Opening a file: the header is read and parsed at once, tensors when they are asked for.

A mapped file that somebody truncates ends the process that touches a page of it (SIGBUS), which Python cannot catch. So
nothing here or above reads by mapping: `GGUFFile.read` and `GGUFFile.load` copy, and notice that a file has changed.
Only ``tensors`` maps, for who wants views of a file that he knows to stay.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.blocks import BlockFormat
from gguflike.container import system
from gguflike.container.header import Header, is_cut, parse
from gguflike.container.layout import MAX_HEADER_BYTES, ORIGINAL_SHAPE, TensorInfo
from gguflike.container.validate import refuse
from gguflike.container.values import INTEGERS
from gguflike.container.view import HeaderView, Lazy
from gguflike.errors import GGUFError, UnsupportedError, counted
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_ORIGINAL_DIMS = 8  # of safetensors; numpy has 32 or 64

CHANGED = "let whatever writes to it come to its end, and begin again"

FIRST_READ = 1 << 20  # bytes of a header elsewhere that are fetched at once; 150,000 words take six times as many
FIRST_READ_HERE = 1 << 21  # and of one on disk: what 50,000 words take


class GGUFFile(HeaderView):
    """One open file. A context manager; ``close`` lets go of the mapping, tensors taken before stay valid.

    ``path``, ``version`` (2 or 3), ``byteorder`` ("little" or "big"), ``alignment``, ``data_offset`` (where the data
    section begins), ``header_bytes`` (where the header's last record ends), ``file_bytes``, ``metadata``, ``infos``
    (where each tensor stands), ``tensors`` (the tensors), ``architecture`` (None where the file names none), ``header``
    (what was parsed, with the tensors in a table of numbers).

    ``tensors`` are views of the mapped file, but for big-endian ones, which are swapped field by field into a copy. The
    file must not shrink while they are used: the operating system then kills a process that touches the lost pages.
    ``load`` and ``read`` take copies, at any time: a file that has been truncated or written to since it was opened is
    a GGUFError. One that has been replaced by another (renamed over) stays readable as it was.
    """

    _descriptor = -1
    _map: mmap.mmap | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._descriptor = _open(self.path)
        try:
            status = os.fstat(self._descriptor)
            self._stamp = (status.st_size, status.st_mtime_ns)
            self._take(_beginning(self.path, status.st_size, self._read_header, FIRST_READ_HERE, 4), status.st_size)
        except BaseException:
            self.close()
            raise

    def _read_header(self, offset: int, count: int) -> bytes:
        data = system.read_bytes(self._descriptor, count, offset)
        if len(data) < count:
            raise GGUFError("the file became shorter while it was read", path=self.path, offset=offset, rule="C-005")
        return data

    def _take(self, header: Header, file_bytes: int) -> None:
        super().__init__(self.path, header, file_bytes)
        self.tensors: Mapping[str, QuantizedTensor] = Lazy(header.names, self._tensor)
        self._judge()

    def _judge(self) -> None:
        """Raise the first GGUFError that the whole file gives reason for."""
        refuse(self)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files this consists of: one, or the shards in order."""
        return (self.path,)

    @property
    def shards(self) -> list[GGUFFile]:
        """The same files, each on its own."""
        return [self]

    @property
    def fetched(self) -> int:
        """Bytes that came from elsewhere so far: none of what is on the disk."""
        return 0

    def close(self) -> None:
        """Let go of the file. Tensors cannot be read afterwards (ValueError)."""
        descriptor, self._descriptor = self._descriptor, -1
        mapping, self._map = self._map, None
        if descriptor >= 0:
            os.close(descriptor)
        if mapping is not None:
            with suppress(BufferError):  # tensors are still in use: the mapping goes with the last of them
                mapping.close()

    def __del__(self) -> None:
        self.close()

    def load(self, name: str) -> QuantizedTensor:
        """A tensor in memory of its own. KeyError for a name that is not there, errors as of ``read``."""
        info = self.infos[name]
        data = self.read(name, 0, info.nbytes)
        return QuantizedTensor(name, info.format, info.shape, data, original_shape(self, info))

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Bytes ``start`` to ``stop`` of a tensor, in whole blocks and little-endian, read into memory of their own.

        GGUFError where the file has changed since it was opened, OSError where it cannot be read.
        """
        data = np.empty(stop - start, np.uint8)
        self.read_into(name, start, data)
        return data

    def read_into(self, name: str, start: int, data: npt.NDArray[np.uint8]) -> None:
        """Fill ``data`` as `read` does with what follows byte ``start`` of a tensor."""
        info = self._info(name)
        self._check_unchanged(name)
        if system.fill(self._descriptor, data.data, info.offset + start) < len(data):
            raise GGUFError("the file became shorter while it was read", path=self.path, tensor=name, rule="C-025")
        if self.header.order == ">":
            data[:] = _little_endian(data, info.format)

    def fill(self, view: memoryview, offset: int) -> int:
        """Read the file's own bytes from ``offset`` on into ``view``, whatever they belong to. Returns how many were
        read: fewer than ``view`` has where the file ends before."""
        return system.fill(self._descriptor, view, offset)

    def copy_data(self, descriptor: int, to: int) -> bool:
        """Copy everything behind the header to the file open for writing as ``descriptor``, from its byte ``to`` on,
        where that file then ends. Returns whether the two files share blocks of the disk, so that next to nothing was
        copied. GGUFError where the file has changed since it was opened."""
        count = max(self.file_bytes - self.data_offset, 0)  # a file without tensors may end before
        self._check_unchanged(None)
        first = self.data_offset + -self.data_offset % system.SHARED_BLOCK
        moved, rest = to - self.data_offset, self.file_bytes - first
        shared = rest > 0 and moved % system.SHARED_BLOCK == 0
        shared = shared and system.share(self._descriptor, descriptor, rest, first, first + moved)
        count = first - self.data_offset if shared else count
        if system.copy(self._descriptor, descriptor, count, self.data_offset, to) < count:
            raise GGUFError("the file became shorter while it was read", path=self.path, rule="C-025")
        self._check_unchanged(None)
        return shared

    def can_share(self, folder: str | os.PathLike[str]) -> bool:
        """Whether a file in the folder could share blocks with this one."""
        return self.file_bytes > system.SHARED_BLOCK and system.can_share(self._descriptor, folder)

    def _check_unchanged(self, name: str | None) -> None:
        """Raise unless the file is open, and has the size and the time of change that it had."""
        if self._descriptor < 0:
            raise ValueError(f"{self.path}: the file is closed")
        status = os.fstat(self._descriptor)
        size, changed = self._stamp
        if status.st_size < size:
            raise GGUFError(
                "the file became shorter while it was read",
                path=self.path,
                tensor=name,
                rule="C-025",
                expected=counted(size, "byte"),
                got=counted(status.st_size, "byte"),
            )
        if (status.st_size, status.st_mtime_ns) != (size, changed):
            raise GGUFError("file changed while it was being read", path=self.path, tensor=name, remedy=CHANGED)

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({self.path!r}, {self.architecture}, {counted(len(self.infos), 'tensor')})"

    def _tensor(self, name: str) -> QuantizedTensor:
        if self.header.order == ">":
            return self.load(name)
        info = self._info(name)
        self._check_unchanged(name)
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, self.file_bytes, access=mmap.ACCESS_READ)
        data = np.frombuffer(self._map, np.uint8, info.nbytes, info.offset) if info.nbytes else np.empty(0, np.uint8)
        return QuantizedTensor(name, info.format, info.shape, data, original_shape(self, info))


class RefusedFile(GGUFFile):
    """A file that `GGUFFile` refuses although its header can be read, opened to say all that is wrong with it. Its
    tensors must not be read: they may lie where no data is."""

    def _judge(self) -> None:
        pass


def original_shape(file: HeaderView, info: TensorInfo) -> tuple[int, ...] | None:
    """The shape of a tensor in its network, where the file says another than it has. GGUFError where the two do not
    fit each other."""
    key = ORIGINAL_SHAPE + info.name
    if key not in file.metadata:
        return None
    stated = file.metadata[key]
    shape = tuple(int(size) for size in stated) if file.metadata.item_type_of(key) in INTEGERS else (-1,)
    if min(shape, default=0) < 0 or len(shape) > MAX_ORIGINAL_DIMS or prod(shape) != info.weights:
        raise GGUFError(
            "the original shape is not one of the tensor",
            path=file.path,
            tensor=info.name,
            field=key,
            expected=f"sizes whose product is {info.weights}",
            got=str(stated)[:80],
        )
    return shape


class HeaderFile(GGUFFile):
    """The header of a file that lies elsewhere: ``read(offset, count)`` gives its bytes. ``tensors`` cannot be had;
    `read` and `load` fetch what they are asked for.

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
        self._take(_beginning(path, file_bytes, self._taken, FIRST_READ, 2), file_bytes)

    @property
    def fetched(self) -> int:
        """Bytes that came from elsewhere so far."""
        return self._read if self._received is None else self._received()

    def _taken(self, offset: int, count: int) -> bytes:
        data = self._fetch(offset, count)
        self._read += len(data)
        return data

    def read_into(self, name: str, start: int, data: npt.NDArray[np.uint8]) -> None:
        info = self._info(name)
        came = np.frombuffer(self._taken(info.offset + start, len(data)), np.uint8)
        if len(came) < len(data):
            raise GGUFError("the file became shorter while it was read", path=self.path, tensor=name, rule="C-025")
        data[:] = _little_endian(came, info.format) if self.header.order == ">" else came

    def fill(self, view: memoryview, offset: int) -> int:
        data = self._taken(offset, len(view))
        view[: len(data)] = data
        return len(data)

    def _tensor(self, name: str) -> QuantizedTensor:
        remedy = "download the file to read its tensors"
        raise UnsupportedError("only the header of the file was fetched", path=self.path, tensor=name, remedy=remedy)


def _beginning(path: str, file_bytes: int, read: Callable[[int, int], bytes], first: int, growth: int) -> Header:
    """The header of a file of which ``read(offset, count)`` gives bytes: ``first`` to begin with, and ``growth`` times
    as many each time until the header is in them."""
    most = min(file_bytes, MAX_HEADER_BYTES)
    data = b""
    while True:
        data += read(len(data), min(max((growth - 1) * len(data), first), most - len(data)))
        try:
            header = parse(data, path, file_bytes)
        except GGUFError as error:
            if len(data) >= most or not is_cut(error, file_bytes):
                raise
            continue
        if 2 * header.end < len(data):  # what was read of tensors, to be safe, is not kept
            header = header._replace(metadata=header.metadata.of_bytes(header.end))
        return header


def _little_endian(data: npt.NDArray[np.uint8], fmt: BlockFormat) -> npt.NDArray[np.uint8]:
    return data.view(_swapped(fmt)).astype(fmt.dtype).view(np.uint8).reshape(-1)


def _swapped(fmt: BlockFormat) -> np.dtype[Any]:
    dtype: np.dtype[Any] = fmt.dtype.newbyteorder(">")
    return dtype


def _open(path: str) -> int:
    """A descriptor to read from. OSError as the system gives it; GGUFError for what is not a regular file,
    UnsupportedError for a name of something to fetch."""
    try:
        descriptor = system.open_file(path, os.O_RDONLY, "O_NONBLOCK")  # a FIFO must not make us wait
    except OSError as error:
        if "://" not in os.fsdecode(path) or os.path.lexists(path):
            raise
        raise UnsupportedError(
            "names what lies elsewhere, and this reads and writes files on disk alone",
            path=path,
            expected="a path",
            remedy="download it first: `hf download REPOSITORY FILE`, or `curl -LO URL`",
        ) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    folder = stat.S_ISDIR(mode)
    raise GGUFError(
        "not a file",
        path=path,
        rule="C-001",
        expected="a regular file",
        got="a folder" if folder else "a special file",
        remedy="a Hugging Face folder is converted with `gguflike convert`" if folder else None,
    )
