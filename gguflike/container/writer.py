"""Writing a planned file: data in any order, from any thread or process, complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.container import system
from gguflike.container.journal import Journal, sha256_of
from gguflike.container.layout import TensorSpec
from gguflike.container.plan import FilePlan, plan
from gguflike.container.publish import check_space, left_over, sweep_workspaces, workspace_of
from gguflike.container.slot import Receipt, Slot, check_part, flat
from gguflike.container.splitting import paths_of
from gguflike.container.target import StrPath, check_target
from gguflike.container.unfinished import TOUCHED, TensorProgress, Unfinished
from gguflike.errors import (
    ChangedError,
    GGUFError,
    OutputError,
    QuantizationError,
    UnsupportedError,
)
from gguflike.tensor import QuantizedTensor

#: Parts from this size on are hashed while they are written.
_HASHED_BESIDE = 1 << 20
#: Errors that come again however often the same thing is written: nothing is kept for the next time.
_FINAL = (QuantizationError, UnsupportedError, GGUFError, ChangedError)


def may_go_on(kind: type[BaseException]) -> bool:
    """Whether what was done before an error of this kind is worth keeping: it need not come again."""
    return not issubclass(kind, _FINAL)


class Writer:
    """Writes planned files; a context manager. The targets appear, complete and on disk, when the block is left.

    ``plan`` is that of one file, or those of the shards of a model, whose names are then made of ``path`` as llama.cpp
    does (shard_path). When the block raises, or a tensor is not complete, the target is as it was before and nothing
    else is left. ``write`` and ``write_part`` may be called from several threads; other processes use ``slot`` and
    ``accept``.

    With ``made_of``, a text that names all that the data depend on (sources, options, versions), the temporary files
    have a journal, and what is complete outlives the writer: after a kill, and after an error that need not come again
    (not one about the data themselves), the next writer of the same plan and text finds those tensors by ``restore``.

    ``digests`` are SHA-256 that tensors must have: DigestError where one has another. ``final`` is called with the path
    of the first temporary file when all data are in it, and gives the plan with the header that it is to have: one of
    the same size, since the tensors stay where they are. What it raises leaves the target as it was before.

    Of several files the first, which has the metadata, appears last, and an old one disappears before the first of the
    new files is in its place: whatever happens, a set of shards that opens is not mixed of two models.

    OutputError where the target is a folder or one of ``sources``, exists and ``overwrite`` is false, is not a regular
    file, does not fit on the disk, or when the system refuses to write.
    """

    def __init__(
        self,
        path: StrPath,
        plan: FilePlan | Sequence[FilePlan],
        overwrite: bool = True,
        sources: Iterable[StrPath] = (),
        made_of: str | None = None,
        digests: Mapping[str, str] | None = None,
        final: Callable[[str], FilePlan] | None = None,
    ) -> None:
        sources = list(sources)
        named = paths_of(path, plan)
        for each, _ in named:
            check_target(each, sources)
        self.files = [Unfinished(each, of, overwrite, made_of, digests or {}) for each, of in named]
        self._owner = {name: file for file in self.files for name in file.tensors}
        self._final = final
        self.kept = 0  # complete tensors that are left to the next writer
        self._beside: ThreadPoolExecutor | None = None

    def __enter__(self) -> Writer:
        try:
            there = sum(file.take_over() for file in self.files)
            with self.files[0].errors():
                check_space(self.files[0].target.path, sum(file.plan.file_bytes for file in self.files) - there)
            for file in self.files:
                file.create()
        except BaseException:
            self._give_up(keep=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep = kind is None or may_go_on(kind)
        try:
            if kind is None:
                self._finish()
        finally:
            self._give_up(keep)

    @property
    def missing(self) -> int:
        """Bytes of the files that the disk has not given yet."""
        there = sum(system.allocated_bytes(file.target.descriptor) for file in self.files)
        return max(sum(file.plan.file_bytes for file in self.files) - there, 0)

    @property
    def workspace(self) -> Path:
        """A folder, which need not exist, for what helps to go on where the writer is cut off. It is removed when the
        writer has published its file, or has given up without leaving anything."""
        return workspace_of(self.files[0].target.temporary)

    def claims(self, name: str) -> bool:
        """Whether a writer that was cut off says that it has written a tensor; `restore` looks."""
        journal = self._file(name).journal
        return journal is not None and journal.claim(name) is not None

    def restore(self, name: str) -> bool:
        """Whether a tensor is there already, from a writer that was cut off. Its data are read to see."""
        file = self._file(name)
        claim = file.journal.claim(name) if file.journal else None
        if claim is None:
            return False
        progress = file.tensors[name]
        info = progress.info
        with file.errors():
            found = sha256_of(file.target.descriptor, info.offset, info.offset + info.nbytes)
        if found != claim:
            return False
        progress.reserve(0, info.nbytes)
        progress.digest = claim
        return True

    def write(self, name: str, data: Any) -> None:
        """Write a whole tensor: bytes, or a contiguous array of bytes. Tensors may come in any order."""
        view = flat(data)
        check_part(name, self._file(name).tensors[name].info.nbytes, 0, len(view), whole=True)
        self.write_part(name, 0, view)

    def replace(self, name: str, data: Any) -> None:
        """Write other bytes for a tensor that is written completely."""
        tensors = self._file(name).tensors
        tensors[name].finish()
        tensors[name] = TensorProgress(tensors[name].info)
        self.write(name, data)

    def room(self, name: str, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """An array for ``count`` bytes of a tensor from ``offset`` on, so placed that `write_part` is fastest."""
        place = self._file(name).tensors[name].info.offset + offset
        made = np.empty(count + system.DIRECT_BLOCK, np.uint8)
        skip = (place - made.ctypes.data) % system.DIRECT_BLOCK
        return made[skip : skip + count]

    def write_part(self, name: str, offset: int, data: Any) -> None:
        """Write the bytes of a tensor from ``offset`` (within the tensor) on. Parts may come in any order."""
        file = self._file(name)
        progress = file.tensors[name]
        view = flat(data)
        check_part(name, progress.info.nbytes, offset, len(view))
        progress.reserve(offset, offset + len(view))
        hashed = offset, offset + len(view), view, file.target.descriptor
        beside = len(view) >= _HASHED_BESIDE and offset == progress.hashed  # else it is hashed from the file
        with file.errors():
            hashing = self._pool().submit(progress.complete, *hashed) if beside else None
            try:
                file.target.write(view, progress.info.offset + offset)
            finally:
                whole = hashing is not None and hashing.result()
            if hashing is None:
                whole = progress.complete(*hashed)
        if whole:
            file.done(progress.info, progress.finish())

    @property
    def cached(self) -> int:
        """Bytes that were written so far and that the system may not have brought to the disk without `flush`."""
        return sum(file.target.cached for file in self.files)

    def read(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor that is written completely; OutputError where some are missing."""
        file = self._file(name)
        progress = file.tensors[name]
        progress.finish()
        data = np.empty(progress.info.nbytes, np.uint8)
        with file.errors():
            count = system.fill(file.target.descriptor, data.data, progress.info.offset)
        if count < data.nbytes:
            raise OutputError("the file was cut by someone else", path=file.target.path, tensor=name, remedy=TOUCHED)
        return data

    def flush(self, name: str) -> None:
        """Have the file of a tensor brought to the disk as far as it is written, so that there is less to wait for at
        the end. May be called while other threads write."""
        file = self._file(name)
        file.durable = False
        with file.errors():
            system.flush(file.target.descriptor)
        file.durable = True

    def slot(self, name: str) -> Slot:
        """The tensor's place, for writing it from another process."""
        file = self._file(name)
        info = file.tensors[name].info
        return Slot(file.target.temporary, name, info.offset, info.nbytes)

    def accept(self, receipt: Receipt) -> None:
        """Take note of what another process wrote through a slot."""
        file = self._file(receipt.name)
        progress = file.tensors[receipt.name]
        progress.reserve(receipt.start, receipt.end)
        if receipt.sha256 is not None:
            progress.digest = receipt.sha256
            whole = receipt.end > receipt.start
        else:
            with file.errors():
                whole = progress.complete(receipt.start, receipt.end, None, file.target.descriptor)
        if whole:
            file.done(progress.info, progress.finish())

    def _file(self, name: str) -> Unfinished:
        file = self._owner.get(name)
        if file is None:
            raise OutputError("the plan has no such tensor", path=self.files[0].target.path, tensor=name)
        if file.target.descriptor < 0:
            raise OutputError("not open for writing", path=file.target.path, remedy="use `with Writer(...)`")
        return file

    def _finish(self) -> None:
        first, *others = self.files
        for file in self.files:
            file.finish(self._final if file is first else None)
        if any(os.path.lexists(file.target.path) for file in others):
            first.target.withdraw()
        try:
            for file in [*others, first]:
                file.target.publish()
        except BaseException:
            for file in self.files:
                file.target.retract()
            raise
        for file in self.files:
            file.target.sync_folder()

    def _pool(self) -> ThreadPoolExecutor:
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, "gguflike-hasher")
        return self._beside

    def _give_up(self, keep: bool) -> None:
        if self._beside is not None:
            self._beside.shutdown()
        keep = keep and any(file.journal for file in self.files)
        self.kept = sum(file.give_up(keep) for file in self.files)
        sweep_workspaces(self.files[0].target.path)


def left_behind(path: StrPath, plan: FilePlan | Sequence[FilePlan], made_of: str | None) -> tuple[int, int]:
    """What writers to ``path`` that were cut off have left there: the number of tensors that a Writer of this plan and
    ``made_of`` would find complete, and of files that it would remove."""
    tensors = others = 0
    for each, of in paths_of(path, plan):
        journal = None if made_of is None else Journal(of, made_of)
        found = left_over(os.path.realpath(each), journal.take_over if journal else lambda _: False)
        tensors += journal.tensors if journal else 0
        others += found.count(False)
    return tensors, others


def write(
    path: StrPath,
    metadata: Mapping[str, Any],
    tensors: Iterable[QuantizedTensor],
    *,
    overwrite: bool = True,
    sources: Iterable[StrPath] = (),
) -> FilePlan:
    """Write a GGUF file of these ``metadata`` and ``tensors``, in their order; return its plan.

    Values of ``metadata`` are plain (bool, int, float, str, lists and arrays of these) or `Typed`, where their width
    matters. The file appears complete or not at all, with SHA-256 of its header and data. ``sources`` are files that
    the data come from, none of which may be the target.

    GGUFError where the file would break a rule of spec/container.md, OutputError where the target is a folder or one of
    the ``sources``, exists and ``overwrite`` is false, does not fit on the disk, or the system refuses to write.
    """
    kept = list(tensors)
    planned = plan(metadata, [TensorSpec(t.name, t.shape, t.format) for t in kept])
    with Writer(path, planned, overwrite, sources) as writer:
        for tensor in kept:
            writer.write(tensor.name, tensor.data)
    return planned
