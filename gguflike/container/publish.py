"""How a file or folder appears complete or not at all: it is built under a hidden name beside its place, then renamed.

A process that is killed leaves at most the hidden entry. Its writer holds a lock on it for life, so the next writer to
the same target can tell a dead one's from a live one's and removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gguflike.container import system
from gguflike.errors import OutputError

_NO_SPACE = "free some space or choose another folder"
_NO_PERMISSION = "choose a folder you may write to"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: _NO_PERMISSION,
    errno.ENOENT: "make the folder first",
    errno.EFBIG: "choose a file system that holds files of this size",
}
_IN_USE = (5, 32)  # Windows' ERROR_ACCESS_DENIED, also for what is mapped, and ERROR_SHARING_VIOLATION


@contextmanager
def output_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError inside into an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if getattr(error, "winerror", None) in _IN_USE:
            remedy = "close what has the file open, or choose another name"
        raise OutputError("cannot write", path=path, got=error.strerror or str(error), remedy=remedy) from error


def temporary_prefix(target: str) -> str:
    """How the names of temporary entries for ``target`` begin: short, whatever the target is called."""
    name = os.fsencode(os.path.basename(target))  # noqa: PTH119  # bytes of the name, not a Path
    return f".gguflike-{hashlib.sha256(name).hexdigest()[:12]}-"


def make_temporary(target: str, make: Callable[[str], int]) -> tuple[str, int]:
    """A new locked entry beside ``target``: its path and descriptor. ``make`` creates what has the path, and opens it.

    Another writer may sweep the entry away in the moment before the lock; then another one is made.
    """
    while True:
        temporary = str(Path(target).parent / f"{temporary_prefix(target)}{os.urandom(6).hex()}.tmp")
        descriptor = make(temporary)
        with suppress(OSError):  # a file system without locks: nobody can sweep it away either
            system.lock(descriptor)
        if os.path.lexists(temporary):
            return temporary, descriptor
        os.close(descriptor)


def sweep(target: str) -> None:
    """Remove temporary entries for ``target`` whose writer is dead: its lock went with it."""
    for path in Path(target).parent.glob(f"{temporary_prefix(target)}*.tmp"):
        with suppress(OSError):  # in use, gone by now, or not ours
            if system.OPEN_IS_LOCKED:
                _remove(path)
                continue
            access = os.O_RDONLY if path.is_dir() else os.O_RDWR  # NFS locks only what is open for writing
            descriptor = system.open_file(path, access, "O_NOFOLLOW")
            try:
                system.lock(descriptor)
                _remove(path)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        system.release_folder(path)
        shutil.rmtree(path)
    else:
        path.unlink()


def check_space(target: str, size: int) -> None:
    """OutputError where the folder of ``target`` has no room for ``size`` bytes."""
    free = system.free_bytes(Path(target).parent)
    if free < size:
        raise OutputError(
            "not enough free space", path=target, expected=f"{size:,} bytes", got=f"{free:,}", remedy=_NO_SPACE
        )
