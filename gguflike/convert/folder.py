"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gguflike.container import system
from gguflike.container.publish import check_space, make_temporary, output_errors, sweep
from gguflike.errors import OutputError


@contextmanager
def new_folder(target: Path, size: int) -> Iterator[Path]:
    """A folder to fill, which takes its place at ``target`` when the block ends without an error.

    ``size`` is the number of bytes to come. OutputError where the target exists and is not empty, where the disk is too
    small, or where the system refuses. What killed runs have left is removed.
    """
    target = target.absolute()
    refuse_existing(target)
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(str(target))
        check_space(str(target), size)
        temporary, lock = make_temporary(str(target), _make)
        try:
            yield Path(temporary)
            for inner in (path for path in Path(temporary).rglob("*") if path.is_dir()):
                system.sync_folder(inner)
            os.fsync(lock)
            if system.OPEN_IS_LOCKED:
                lock = _unlock(temporary, lock)
            _rename(Path(temporary), target)
            system.sync_folder(target.parent)
        finally:
            _unlock(temporary, lock)
            shutil.rmtree(temporary, ignore_errors=True)


def _unlock(temporary: str, lock: int) -> int:
    if lock >= 0:
        system.close(lock)
        system.release_folder(temporary)
    return -1


def _rename(temporary: Path, target: Path) -> None:
    """Give the folder its name, which may be an empty folder's."""
    try:
        temporary.rename(target)
    except FileExistsError:  # Windows renames to what does not exist only
        target.rmdir()
        temporary.rename(target)


def _make(path: str) -> int:
    Path(path).mkdir()
    try:
        return system.open_folder(path)
    except OSError:
        Path(path).rmdir()
        raise


def refuse_existing(target: Path) -> None:
    """OutputError where there is a file or link at ``target``, or a folder that holds something."""
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise OutputError("the target exists", path=target, remedy="choose a folder that does not exist yet")
