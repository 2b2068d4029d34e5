"""Arrays in files that are written through memory. Their room on the disk is taken before anything is written: where a
disk turns out to be full while memory stands for a file, the system can do nothing but end the process."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gguflike.errors import OutputError

Array = npt.NDArray[Any]
_HEADER = {"descr": "<f4", "fortran_order": False}
_NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # the file system takes no room in advance


def check_room(folder: Path, needed: int, there: int = 0) -> None:
    """OutputError where the disk of a folder, which may have to be made, has no room for ``needed`` bytes, of which so
    many are ``there``."""
    free = shutil.disk_usage(_standing(folder)).free
    if needed - there > free:
        raise _no_room(folder, needed - there, free)


def check_rooms(missing: Mapping[Path, int]) -> None:
    """OutputError where the disks of folders, which may have to be made, have no room for so many bytes in each."""
    disks: dict[int, list[Path]] = {}
    for folder in missing:
        disks.setdefault(_standing(folder).stat().st_dev, []).append(folder)
    for folders in disks.values():
        largest = max(folders, key=lambda folder: missing[folder])
        check_room(largest, sum(max(missing[each], 0) for each in folders))


def taken(paths: Iterable[Path]) -> int:
    """Bytes that files take on the disk."""
    return sum(_bytes(path.stat()) for path in paths if path.is_file())


def _bytes(status: os.stat_result) -> int:
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else int(blocks) * 512


def _standing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def zeros(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A file of float32, in place of what is there. OutputError where the disk has no room for it."""
    with path.open("wb") as file:
        _take_room(path, file, 4 * prod(shape))
    return np.memmap(path, np.float32, "r+", shape=shape)


def kept(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """The file of float32 that is there, if it is as large; else one of zeros."""
    whole = path.exists() and path.stat().st_size == 4 * prod(shape)
    return np.memmap(path, np.float32, "r+", shape=shape) if whole else zeros(path, shape)


def save(path: Path, values: Array) -> None:
    """Write a file that `numpy.load` reads, which is there when all of it is, in place of what is there."""
    temporary = path.with_name(f".{path.name}")
    np.save(temporary, values)
    temporary.replace(path)


def npy_zeros(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """The same as a file that `numpy.load` reads."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**_HEADER, "shape": shape})
        file.flush()
        _take_room(path, file, file.tell() + 4 * prod(shape))
    found: np.memmap[Any, Any] = np.lib.format.open_memmap(path, "r+")
    return found


def _take_room(path: Path, file: BinaryIO, size: int) -> None:
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
    except OSError as error:
        if error.errno not in _NOT_HERE:
            file.truncate(0)  # some of it may have been taken
            raise _no_room(path, size, shutil.disk_usage(path.parent).free) from error
    file.truncate(size)


def _no_room(path: Path, needed: int, free: int) -> OutputError:
    return OutputError(
        "no room for what calibrating keeps on the disk",
        path=path,
        expected=f"{needed:,} bytes free",
        got=f"{free:,}",
        remedy="free some space there, choose a folder on another disk, or calibrate on fewer tokens",
    )
