"""A file that is being written: which bytes of its tensors are there, their digests, and its journal."""

from __future__ import annotations

import hashlib
import threading
from bisect import insort
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from gguflike.container import system
from gguflike.container.digest import check_tensor, patch
from gguflike.container.journal import Journal, hash_back
from gguflike.container.layout import TensorInfo
from gguflike.container.plan import FilePlan
from gguflike.container.publish import output_errors
from gguflike.container.target import StrPath, Target
from gguflike.errors import OutputError, counted

#: Files from this size on are written past the system's cache, where there is no gain in having them there.
DIRECT_BYTES = 1 << 28
TOUCHED = "let no other program write to the temporary file, and begin again"


class TensorProgress:
    """Which bytes of one tensor are there, and the SHA-256 of those from the start on. Parts may come from several
    threads, in any order; offsets count from the start of the tensor."""

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

    def complete(self, start: int, end: int, data: Any, descriptor: int) -> bool:
        """Count bytes as written and hash what now follows without a gap: from ``data``, or back from the file.
        Whether that is the whole tensor."""
        if start == end:
            return False
        with self.lock:
            self.written[start] = end
            if data is not None and start == self.hashed:
                self.sha.update(data)
                self.hashed = self.written.pop(start)
            while self.hashed in self.written and self.hashed < self.info.nbytes:
                self._hash_back(descriptor, self.written.pop(self.hashed))
            return self.hashed == self.info.nbytes

    def _hash_back(self, descriptor: int, end: int) -> None:
        """Hash bytes that are in the file already, up to ``end``."""
        start = self.info.offset
        self.hashed = hash_back(self.sha, descriptor, start + self.hashed, start + end) - start
        if self.hashed < end:
            raise OutputError("the file was cut by someone else", tensor=self.info.name, remedy=TOUCHED)

    def finish(self) -> str:
        """The digest; OutputError where bytes are missing."""
        if self.digest is None and self.hashed < self.info.nbytes:
            raise OutputError(
                "tensor was not written completely",
                tensor=self.info.name,
                expected=counted(self.info.nbytes, "byte"),
                got=f"{sum(e - s for s, e in self.reserved)}",
                remedy="write every tensor of the plan exactly once",
            )
        return self.digest or self.sha.hexdigest()


class Unfinished:
    """One of the files that are written: its plan, the temporary file, the journal, and how far its tensors are."""

    def __init__(
        self, path: StrPath, plan: FilePlan, overwrite: bool, made_of: str | None, digests: Mapping[str, str]
    ) -> None:
        self.plan = plan
        self.digests = digests
        self.target = Target(path, overwrite)
        self.journal = None if made_of is None else Journal(plan, made_of)
        self.tensors = {info.name: TensorProgress(info) for info in plan.tensors}
        self.durable = True  # unless the system has said otherwise: then nothing is known of what it holds

    def take_over(self) -> int:
        """Go on with what a dead writer has left, or remove it; the bytes that it takes on the disk already."""
        return self.target.take_over(self.journal.take_over if self.journal else None)

    def create(self) -> None:
        self.target.create(self.plan.file_bytes)
        with self.errors():
            system.write_at(self.target.descriptor, self.plan.header, 0)
            if self.journal is not None:
                self.journal.begin(self.target.descriptor)
        if self.plan.file_bytes >= DIRECT_BYTES:
            self.target.write_directly()

    def errors(self) -> AbstractContextManager[None]:
        return output_errors(self.target.path)

    def done(self, info: TensorInfo, digest: str) -> None:
        """Note that a tensor is complete. DigestError where it is not what it must be."""
        check_tensor(info.name, digest, self.digests.get(info.name, digest))
        if self.journal is not None:
            with self.errors():
                self.journal.note(self.target.descriptor, info, digest)

    def finish(self, final: Callable[[str], FilePlan] | None) -> None:
        """Fill in the digests and make all of it durable."""
        digests = [self.tensors[info.name].finish() for info in self.plan.tensors]
        descriptor = self.target.descriptor
        if final is not None:
            made = final(self.target.temporary)
            assert made.tensors == self.plan.tensors  # only values of a fixed width are others
            self.plan = made
        with self.errors():
            if self.plan.digests is not None:
                system.write_at(descriptor, patch(self.plan.header, self.plan.digests, digests), 0)
        self.durable = False
        self.target.sync()
        if self.journal is not None:
            with self.errors():
                self.journal.end(descriptor)
            self.target.sync()
        self.durable = True

    def give_up(self, keep: bool) -> int:
        """Leave the temporary file to the next writer, or remove it; how many tensors are left."""
        target, kept = self.target, 0
        is_ours = target.descriptor >= 0 and not target.published  # else it is the target by now
        if keep and is_ours and self.durable and self.journal and self.journal.tensors:
            with suppress(OSError):
                self.journal.begin(target.descriptor)  # again, if it was cut off already
                target.keep()
                kept = self.journal.tensors
        target.discard()
        return kept
