"""How a file or folder appears complete or not at all: it is built under a hidden name beside its place, then renamed.

A process that is killed leaves at most the hidden entry. Its writer holds a lock on it for life, so the next writer to
the same target can tell a dead one's from a live one's: it goes on with a file that is the beginning of its own
(journal.py), and removes all others. So there is never more than one for each target and living writer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gguflike.container import system
from gguflike.errors import OutputError

_ADDRESS = re.compile("[A-Za-z][A-Za-z0-9+.-]+:/")  # not C:/
_NO_SPACE = "free some space or choose another folder"
_NO_PERMISSION = "choose a folder you may write to"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: _NO_PERMISSION,
    errno.ENOENT: "make the folder first",
    errno.EMFILE: "make fewer files, or allow more to be open (ulimit -n)",
    errno.EFBIG: "choose a file system that holds files of this size",
}
_WORKSPACE = ".work"
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


def check_folder(path: str | os.PathLike[str]) -> None:
    """OutputError where the folder of ``path`` can be seen to be none that is written to, or that can be made."""
    folder = Path(os.path.realpath(path)).parent
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        remedy = "choose another folder"
        raise OutputError("cannot write", path=path, expected="a folder", got=f"{there}, which is none", remedy=remedy)
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError("cannot write", path=path, got=os.strerror(errno.EACCES), remedy=_NO_PERMISSION)


def refuse_address(target: str | os.PathLike[str]) -> None:
    """OutputError where a name of something to write is that of what lies elsewhere, such as hf://org/name."""
    text = os.fsdecode(target)
    if _ADDRESS.match(text) and not os.path.isdir(text.partition("/")[0]):  # noqa: PTH112 - a Path drops a slash
        remedy = "name what is on disk; `gguflike upload` takes files to the Hub"
        raise OutputError("the target lies elsewhere, and only disks are written to", path=text, remedy=remedy)


@contextmanager
def made_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """A folder that is there while the block runs: made with its parents, and what was made removed again where the
    block raises and leaves it empty."""
    wanted = Path(folder)
    with output_errors(folder):
        made = [path for path in (wanted, *wanted.parents) if not path.exists()]
        wanted.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()
        raise


def temporary_prefix(target: str) -> str:
    """How the names of temporary entries for ``target`` begin: short, whatever the target is called."""
    name = os.fsencode(os.path.basename(target))  # noqa: PTH119  # bytes of the name, not a Path
    return f".gguflike-{hashlib.sha256(name).hexdigest()[:12]}-"


def make_temporary(target: str, make: Callable[[str], int]) -> tuple[str, int]:
    """A new locked entry beside ``target``: its path and descriptor. ``make`` creates what has the path, and opens it.

    Another writer may sweep the entry away in the moment before the lock; then another one is made.
    """
    while True:
        temporary = _temporary_name(target)
        descriptor = make(temporary)
        with suppress(OSError):  # a file system without locks: nobody can sweep it away either
            system.lock(descriptor)
        if os.path.lexists(temporary):
            return temporary, descriptor
        system.close(descriptor)


def sweep(target: str) -> None:
    """Remove temporary entries for ``target`` whose writer is dead: its lock went with it."""
    for path in entries(target):
        with suppress(OSError):  # in use, gone by now, or not ours
            if system.OPEN_IS_LOCKED:
                remove(path)
                continue
            descriptor = _locked(path)
            try:
                remove(path)
            finally:
                system.close(descriptor)


def take_over(target: str, fits: Callable[[int], bool]) -> tuple[str, int] | None:
    """Go on with a temporary file that a dead writer to ``target`` has left: its path and descriptor, locked.

    It is the first that ``fits(descriptor)``. None where there is none. Those of other targets are not looked at.
    """
    for path in entries(target):
        with suppress(OSError):  # in use, gone by now, or not ours
            if path.is_dir():
                continue
            if system.OPEN_IS_LOCKED:  # what is open cannot be renamed
                path = path.rename(_temporary_name(target))
            descriptor = _locked(path)
            taken = False
            try:
                taken = _is_still(path, descriptor) and fits(descriptor)
                if taken:
                    return str(path), descriptor
            finally:
                if not taken:
                    system.close(descriptor)
    return None


def left_over(target: str, fits: Callable[[int], bool]) -> list[bool]:
    """For each temporary file that a dead writer to ``target`` has left, whether it ``fits(descriptor)``."""
    found = []
    for path in entries(target):
        with suppress(OSError):
            if path.is_dir() or system.OPEN_IS_LOCKED:
                continue
            descriptor = _locked(path)
            try:
                found.append(fits(descriptor))
            finally:
                system.close(descriptor)
    return found


def workspace_of(temporary: str) -> Path:
    """The folder for what a writer needs beside its temporary file, to go on with both; `sweep_workspaces` removes it
    when the file is gone."""
    return Path(temporary + _WORKSPACE)


def sweep_workspaces(target: str) -> None:
    """Remove the workspaces of writers to ``target`` that have no temporary file any more."""
    for path in Path(target).parent.glob(f"{temporary_prefix(target)}*.tmp{_WORKSPACE}"):
        if not os.path.lexists(str(path).removesuffix(_WORKSPACE)):
            shutil.rmtree(path, ignore_errors=True)


def entries(target: str) -> list[Path]:
    """The temporary entries for ``target`` that there are, of whichever writer."""
    return sorted(Path(target).parent.glob(f"{temporary_prefix(target)}*.tmp"))


def _temporary_name(target: str) -> str:
    return str(Path(target).parent / f"{temporary_prefix(target)}{os.urandom(6).hex()}.tmp")


def _locked(path: Path) -> int:
    """A descriptor of a temporary entry that no living writer has. OSError where one has it."""
    access = os.O_RDONLY if path.is_dir() else os.O_RDWR  # NFS locks only what is open for writing
    return system.locked(system.open_file(path, access, "O_NOFOLLOW"))


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a name stands for an open file, and is its only one: its writer may just have given it the target's."""
    status = os.fstat(descriptor)
    return status.st_nlink == 1 and os.path.samestat(status, path.lstat())


def remove(path: Path) -> None:
    """Remove an entry, file or folder."""
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
