"""Files of a folder that are not on disk, but are read by ranges where they are.

A snapshot in the Hub's cache is a folder that holds some of a repository's files at one commit. Of the others, this
says by which names they are read (hub.remote). What a commit has never changes: this holds as long as the process does.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_names: dict[Path, str] = {}


class Extent(NamedTuple):
    """``nbytes`` from ``offset`` on of the file at ``path``, which has ``file_bytes``."""

    path: str
    file_bytes: int
    offset: int
    nbytes: int


def place(path: Path, name: str) -> None:
    """Say that what belongs at ``path`` is read by ``name``, while there is no such file on disk."""
    _names[path] = name


def name_of(path: Path) -> str | None:
    """The name by which the file that belongs at ``path`` is read; None where it is on disk, or nowhere."""
    return None if path not in _names or path.exists() else _names[path]


def inside(folder: Path) -> list[Path]:
    """Where the files belong that are in a folder, and not on disk."""
    return [path for path in _names if path.parent == folder and not path.exists()]
