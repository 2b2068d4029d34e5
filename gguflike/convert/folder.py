"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gguflike.checkpoint.save import is_exported
from gguflike.container import system
from gguflike.container.claimed import make_folder
from gguflike.container.publish import check_space, make_temporary, output_errors, refuse_address, sweep
from gguflike.container.target import OCCUPIED
from gguflike.errors import OutputError


@contextmanager
def new_folder(target: Path, size: int, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes its place at ``target`` when the block ends without an error.

    ``size`` is the number of bytes to come. OutputError where the target may not be replaced (`check_free`), where the
    disk is too small, or where the system refuses. What killed runs have left is removed.
    """
    check_free(target, overwrite)
    target = target.absolute()
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(str(target))
        check_space(str(target), size)
        temporary, lock = make_temporary(str(target), make_folder)
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
    """Give the folder its name, which may be an empty folder's or that of one to be replaced."""
    if not target.is_dir() or not any(target.iterdir()):
        try:
            temporary.rename(target)
        except FileExistsError:  # Windows renames to what does not exist only
            target.rmdir()
            temporary.rename(target)
        return
    old = temporary.with_suffix(".old")  # the name comes free for a moment: no system swaps two folders portably
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def check_free(target: Path, overwrite: bool) -> None:
    """OutputError where ``target`` lies elsewhere, where there is a file or link at it, or a folder that holds
    something, unless that is an earlier export which may be overwritten."""
    refuse_address(target)
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise OutputError("the target exists", path=target, remedy="choose a folder that does not exist yet")
    present = [path.relative_to(target) for path in sorted(target.rglob("*")) if not path.is_dir()]
    if not present:
        return
    if not overwrite:
        raise OutputError("the target exists", path=target, remedy=OCCUPIED)
    foreign = [path for path in present if not _EXPORTED.fullmatch(path.as_posix())]
    if foreign:
        raise OutputError(
            "the folder holds more than an export, which would be lost",
            path=target,
            got=str(foreign[0]),
            remedy="choose another folder",
        )
    others = [path for path in present if path.suffix == ".safetensors" and not is_exported(target / path)]
    if others or not any(path.suffix == ".safetensors" for path in present):
        raise OutputError(
            "the folder holds a checkpoint that is no export, which would be lost",
            path=target,
            got=str((others or present)[0]),
            remedy="choose another folder",
        )


# What `export` writes: the files of Transformers, and those of sentence-transformers with a folder for each module.
_EXPORTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|modules|config_sentence_transformers)\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|\d+_[A-Z]\w+/(config\.json|model\.safetensors)"
)
