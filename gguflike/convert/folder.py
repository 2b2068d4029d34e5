"""A folder that appears complete or not at all: built under a hidden name beside its place, then renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gguflike.errors import OutputError


@contextmanager
def new_folder(target: Path, size: int) -> Iterator[Path]:
    """A folder to fill, which takes its place at ``target`` when the block ends without an error.

    ``size`` is the number of bytes to come. OutputError where the target exists and is not empty, where the disk is too
    small, or where the system refuses. What killed runs have left is removed.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError("the target exists", path=target, remedy="choose a folder that does not exist yet")
    prefix = f".gguflike-{target.name[:100]}-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent, prefix)
        _check_space(target, size)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise _refused(target, error) from error
    lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        os.fsync(lock)
        temporary.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _refused(target: Path, error: OSError) -> OutputError:
    return OutputError("cannot write", path=target, got=error.strerror or str(error))


def _check_space(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < size:
        raise OutputError(
            "not enough free space",
            path=target,
            expected=f"{size:,} bytes",
            got=f"{free:,}",
            remedy="free some space or choose another folder",
        )


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders of writers that no longer live: their locks went with them."""
    for path in parent.glob(f"{prefix}*.tmp"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
