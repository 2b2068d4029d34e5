"""The file that is being written: a hidden temporary one beside the target, moved there only when it is complete.

A process that is killed leaves at most the hidden file. Its writer holds a lock on it for life, so the next writer to
the same target can tell a dead one's from a live one's and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gguflike.errors import OutputError

StrPath = str | os.PathLike[str]

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOENT: "make the folder first",
    errno.EFBIG: "choose a file system that holds files of this size",
}


def refuse_source(target: StrPath, sources: Iterable[StrPath]) -> None:
    """OutputError when ``target`` is one of the files read from, by name or through a link."""
    for source in sources:
        same = os.path.realpath(source) == os.path.realpath(target)
        with suppress(OSError):
            same = same or Path(source).samefile(target)
        if same:
            raise OutputError(
                "the target is also a source",
                path=target,
                got=os.fspath(source),
                remedy="write to another name and rename it afterwards",
            )


@contextmanager
def output_errors(path: str) -> Iterator[None]:
    """Turn an OSError inside into an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        raise OutputError("cannot write", path=path, got=error.strerror or str(error), remedy=remedy) from error


def write_all(descriptor: int, data: Any, offset: int) -> None:
    """Write all of ``data`` at ``offset``; the system may take it in pieces."""
    view = memoryview(data)
    while len(view):
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def temporary_prefix(target: str) -> str:
    """How the names of temporary files for ``target`` begin: short, whatever the target is called."""
    name = os.fsencode(os.path.basename(target))  # noqa: PTH119  # bytes of the name, not a Path
    return f".gguflike-{hashlib.sha256(name).hexdigest()[:12]}-"


class Target:
    """The temporary file. ``create`` makes it, then exactly one of ``commit`` or ``discard`` ends it."""

    def __init__(self, path: StrPath, overwrite: bool) -> None:
        self.path = os.path.realpath(path)  # through a link, to the file itself
        self.overwrite = overwrite
        self.folder = Path(self.path).parent
        self.temporary = ""
        self.descriptor = -1

    def create(self, size: int) -> None:
        """Remove dead writers' files, check the space, make a file of ``size`` zero bytes."""
        self._check_target()
        with output_errors(self.path):
            self._clean()
            self._check_space(size)
            while self.descriptor < 0:
                self._open_locked()
            os.ftruncate(self.descriptor, size)  # unwritten bytes read as zero: padding costs nothing

    def commit(self) -> None:
        """Make it durable, then visible under the target's name at once, then make the name durable."""
        with output_errors(self.path):
            os.fsync(self.descriptor)
            if self.overwrite:
                os.replace(self.temporary, self.path)  # noqa: PTH105
            else:
                self._link()
            self._close()
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Remove the temporary file."""
        if self.descriptor >= 0:
            with suppress(OSError):
                Path(self.temporary).unlink()
            self._close()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)

    def _check_target(self) -> None:
        try:
            mode = os.lstat(self.path).st_mode
        except OSError:
            return
        if not stat.S_ISREG(mode):
            raise OutputError("the target is not a regular file", path=self.path, remedy="choose another name")
        if not self.overwrite:
            raise OutputError("the target exists", path=self.path, remedy="choose another name, or allow overwriting")

    def _check_space(self, size: int) -> None:
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        if free < size:
            raise OutputError(
                "not enough free space",
                path=self.path,
                expected=f"{size:,} bytes",
                got=f"{free:,}",
                remedy=_REMEDIES[errno.ENOSPC],
            )

    def _open_locked(self) -> None:
        """A new locked file; another writer may sweep it away in the moment before the lock, then try again."""
        self.temporary = str(self.folder / f"{temporary_prefix(self.path)}{os.urandom(6).hex()}.tmp")
        descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: nobody can sweep it away either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            self.descriptor = descriptor
        else:
            os.close(descriptor)

    def _clean(self) -> None:
        """Remove temporary files for this target whose writer is dead."""
        for path in self.folder.glob(f"{temporary_prefix(self.path)}*.tmp"):
            with suppress(OSError):  # in use, gone by now, or not ours
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(descriptor)

    def _link(self) -> None:
        """Give the file the target's name only if that is free."""
        try:
            os.link(self.temporary, self.path)
        except FileExistsError as error:
            raise OutputError("the target exists", path=self.path, remedy="choose another name") from error
        Path(self.temporary).unlink()
