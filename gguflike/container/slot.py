"""The place of a tensor in a file that is being written, which another process can fill."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from gguflike.container import system
from gguflike.container.publish import output_errors
from gguflike.errors import OutputError, counted


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
        view = flat(data)
        check_part(self.name, self.nbytes, 0, len(view), whole=True)
        return self.write_part(0, view)

    def write_part(self, offset: int, data: Any) -> Receipt:
        """Write the bytes from ``offset`` (within the tensor) on."""
        view = flat(data)
        check_part(self.name, self.nbytes, offset, len(view))
        with output_errors(self.path):
            descriptor = system.open_file(self.path, os.O_WRONLY, "O_NOFOLLOW")
            try:
                system.write_at(descriptor, view, self.offset + offset)
            finally:
                os.close(descriptor)
        whole = offset == 0 and len(view) == self.nbytes
        return Receipt(self.name, offset, offset + len(view), hashlib.sha256(view).hexdigest() if whole else None)


def flat(data: Any) -> memoryview:
    """A flat view of bytes; ValueError for what is not contiguous or not made of single bytes."""
    view = memoryview(data)
    if view.nbytes == 0:
        return memoryview(b"")
    if view.itemsize != 1 or not view.c_contiguous:
        raise ValueError(f"tensor data must be contiguous bytes, not {view.format!r} of shape {view.shape}")
    return view.cast("B")


def check_part(name: str, nbytes: int, start: int, count: int, whole: bool = False) -> None:
    """OutputError where data do not fit a tensor's place."""
    if start < 0 or start + count > nbytes or (whole and count != nbytes):
        raise OutputError(
            "data does not fit the tensor's place",
            tensor=name,
            expected=counted(nbytes, "byte"),
            got=f"{counted(count, 'byte')} at {start}",
        )
