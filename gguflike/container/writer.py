"""Writing a planned file: data in any order, from any thread or process, complete or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gguflike.container import system
from gguflike.container.digest import patch
from gguflike.container.layout import TensorInfo, TensorSpec
from gguflike.container.plan import FilePlan, plan
from gguflike.container.publish import output_errors
from gguflike.container.target import StrPath, Target, check_target
from gguflike.errors import OutputError
from gguflike.tensor import QuantizedTensor

READ_BACK = 1 << 22  # bytes at a time when data that came out of order is hashed from the file


@dataclass(frozen=True)
class Receipt:
    """What another process wrote: bytes ``start`` to ``end`` of a tensor; their SHA-256 if that is all of it."""

    name: str
    start: int
    end: int
    sha256: str | None


@dataclass(frozen=True)
class Slot:
    """The place of one tensor in the file being written. Can be pickled and used in another process.

    ``write`` and ``write_part`` return a Receipt, which the process with the Writer passes to ``Writer.accept``.
    """

    path: str
    name: str
    offset: int
    nbytes: int

    def write(self, data: Any) -> Receipt:
        """Write the whole tensor."""
        view = _bytes(data)
        _check_part(self.name, self.nbytes, 0, len(view), whole=True)
        return self.write_part(0, view)

    def write_part(self, offset: int, data: Any) -> Receipt:
        """Write the bytes from ``offset`` (within the tensor) on."""
        view = _bytes(data)
        _check_part(self.name, self.nbytes, offset, len(view))
        with output_errors(self.path):
            descriptor = system.open_file(self.path, os.O_WRONLY, "O_NOFOLLOW")
            try:
                system.write_at(descriptor, view, self.offset + offset)
            finally:
                os.close(descriptor)
        whole = offset == 0 and len(view) == self.nbytes
        return Receipt(self.name, offset, offset + len(view), hashlib.sha256(view).hexdigest() if whole else None)


class _Progress:
    """Which bytes of one tensor are there, and the digest of those from the start on."""

    def __init__(self, info: TensorInfo) -> None:
        self.info = info
        self.lock = threading.Lock()
        self.reserved: list[tuple[int, int]] = []  # sorted, disjoint
        self.written: dict[int, int] = {}  # start -> end, not hashed yet
        self.hashed = 0
        self.sha = hashlib.sha256()
        self.digest: str | None = None

    def reserve(self, start: int, end: int) -> None:
        """Claim bytes before they are written; OutputError where some are claimed already."""
        with self.lock:
            if any(s < end and start < e for s, e in self.reserved):
                raise OutputError("bytes are written twice", tensor=self.info.name, got=f"{start} to {end}")
            if start < end:
                insort(self.reserved, (start, end))

    def complete(self, start: int, end: int, data: Any, descriptor: int) -> None:
        """Count bytes as written and hash what now follows without a gap: from ``data``, or back from the file."""
        if start == end:
            return
        with self.lock:
            self.written[start] = end
            if data is not None and start == self.hashed:
                self.sha.update(data)
                self.hashed = self.written.pop(start)
            while self.hashed in self.written and self.hashed < self.info.nbytes:
                self._hash_back(descriptor, self.written.pop(self.hashed))

    def _hash_back(self, descriptor: int, end: int) -> None:
        """Hash bytes that are in the file already, up to ``end``."""
        buffer = memoryview(bytearray(min(READ_BACK, end - self.hashed)))
        while self.hashed < end:
            piece = buffer[: end - self.hashed]
            count = system.read_at(descriptor, piece, self.info.offset + self.hashed)
            if not count:
                raise OutputError("the file was cut by someone else", tensor=self.info.name)
            self.sha.update(piece[:count])
            self.hashed += count

    def finish(self) -> str:
        """The digest; OutputError where bytes are missing."""
        if self.digest is None and self.hashed < self.info.nbytes:
            raise OutputError(
                "tensor was not written completely",
                tensor=self.info.name,
                expected=f"{self.info.nbytes} bytes",
                got=f"{sum(e - s for s, e in self.reserved)}",
                remedy="write every tensor of the plan exactly once",
            )
        return self.digest or self.sha.hexdigest()


class Writer:
    """Writes a planned file; a context manager. The target appears, complete and on disk, when the block is left.

    When the block raises, or a tensor is not complete, the target is as it was before and nothing else is left.
    ``write`` and ``write_part`` may be called from several threads; other processes use ``slot`` and ``accept``.
    OutputError where the target is a folder or one of ``sources``, exists and ``overwrite`` is false, is not a regular
    file, does not fit on the disk, or when the system refuses to write.
    """

    def __init__(self, path: StrPath, plan: FilePlan, overwrite: bool = True, sources: Iterable[StrPath] = ()) -> None:
        check_target(path, sources)
        self.plan = plan
        self._target = Target(path, overwrite)
        self._tensors = {info.name: _Progress(info) for info in plan.tensors}

    def __enter__(self) -> Writer:
        try:
            self._target.create(self.plan.file_bytes)
            with output_errors(self._target.path):
                system.write_at(self._target.descriptor, self.plan.header, 0)
        except BaseException:
            self._target.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._target.discard()

    def write(self, name: str, data: Any) -> None:
        """Write a whole tensor: bytes, or a contiguous array of bytes. Tensors may come in any order."""
        view = _bytes(data)
        _check_part(name, self._progress(name).info.nbytes, 0, len(view), whole=True)
        self.write_part(name, 0, view)

    def write_part(self, name: str, offset: int, data: Any) -> None:
        """Write the bytes of a tensor from ``offset`` (within the tensor) on. Parts may come in any order."""
        progress = self._progress(name)
        view = _bytes(data)
        _check_part(name, progress.info.nbytes, offset, len(view))
        progress.reserve(offset, offset + len(view))
        with output_errors(self._target.path):
            system.write_at(self._target.descriptor, view, progress.info.offset + offset)
            progress.complete(offset, offset + len(view), view, self._target.descriptor)

    def slot(self, name: str) -> Slot:
        """The tensor's place, for writing it from another process."""
        info = self._progress(name).info
        return Slot(self._target.temporary, name, info.offset, info.nbytes)

    def accept(self, receipt: Receipt) -> None:
        """Take note of what another process wrote through a slot."""
        progress = self._progress(receipt.name)
        progress.reserve(receipt.start, receipt.end)
        if receipt.sha256 is not None:
            progress.digest = receipt.sha256
            return
        with output_errors(self._target.path):
            progress.complete(receipt.start, receipt.end, None, self._target.descriptor)

    def _progress(self, name: str) -> _Progress:
        if name not in self._tensors:
            raise OutputError("the plan has no such tensor", path=self._target.path, tensor=name)
        if self._target.descriptor < 0:
            raise OutputError("not open for writing", path=self._target.path, remedy="use `with Writer(...)`")
        return self._tensors[name]

    def _finish(self) -> None:
        digests = [self._tensors[info.name].finish() for info in self.plan.tensors]
        if self.plan.digests is not None:
            header = patch(self.plan.header, self.plan.digests, digests)
            with output_errors(self._target.path):
                system.write_at(self._target.descriptor, header, 0)
        self._target.commit()


def write(
    path: StrPath,
    metadata: Mapping[str, Any],
    tensors: Iterable[QuantizedTensor],
    *,
    overwrite: bool = True,
    sources: Iterable[StrPath] = (),
) -> FilePlan:
    """Write a whole file at once; returns its plan. Errors as of ``plan`` and ``Writer``."""
    kept = list(tensors)
    planned = plan(metadata, [TensorSpec(t.name, t.shape, t.format) for t in kept])
    with Writer(path, planned, overwrite, sources) as writer:
        for tensor in kept:
            writer.write(tensor.name, tensor.data)
    return planned


def _bytes(data: Any) -> memoryview:
    """A flat view of bytes; ValueError for what is not contiguous or not made of single bytes."""
    view = memoryview(data)
    if view.nbytes == 0:
        return memoryview(b"")
    if view.itemsize != 1 or not view.c_contiguous:
        raise ValueError(f"tensor data must be contiguous bytes, not {view.format!r} of shape {view.shape}")
    return view.cast("B")


def _check_part(name: str, nbytes: int, start: int, count: int, whole: bool = False) -> None:
    if start < 0 or start + count > nbytes or (whole and count != nbytes):
        raise OutputError(
            "data does not fit the tensor's place",
            tensor=name,
            expected=f"{nbytes} bytes",
            got=f"{count} bytes at {start}",
        )
