"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gguflike.container.publish import check_space, make_temporary, output_errors, sweep, sync_folder
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
            os.fsync(lock)
            Path(temporary).rename(target)
            sync_folder(target.parent)
        finally:
            os.close(lock)
            shutil.rmtree(temporary, ignore_errors=True)


def _make(path: str) -> int:
    Path(path).mkdir()
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        Path(path).rmdir()
        raise


def refuse_existing(target: Path) -> None:
    """OutputError where there is a file or link at ``target``, or a folder that holds something."""
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise OutputError("the target exists", path=target, remedy="choose a folder that does not exist yet")
