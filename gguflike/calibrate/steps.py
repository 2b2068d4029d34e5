"""How many steps a walk through a model has done, and what these left, so that one that was cut off goes on.

A file beside what is kept says it, with a digest of all that the next steps read. Nobody waits for the disk: after a
loss of power there may be less than is said to be done, which the digests tell, and the walk begins anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_FILE = "progress.json"
_PIECE = 1 << 22
"""Bytes that are in memory while a digest is computed."""


class Steps:
    """The steps that are ``done`` of a walk that is called ``key`` and keeps files below ``folder``; 0 where there was
    none, or another, or where what it left is not there whole. ``notes`` are what the walk keeps beside its files."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self.done, self.notes, self._left = 0, dict[str, Any](), dict[str, str]()
        try:
            said = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            done, notes, left = int(said["done"]), dict(said["notes"]), dict(said["left"])
            if said["key"] == key and all(_digest(folder / name) == digest for name, digest in left.items()):
                self.done, self.notes, self._left = done, notes, left
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def leave(self, path: Path) -> None:
        """Take the digest of a file, or of all files in a folder: steps that follow read it as it is now."""
        self._left[path.relative_to(self._folder).as_posix()] = _digest(path)

    def forget(self, path: Path) -> None:
        """Say that no step that follows reads a file, or any in a folder: it may change."""
        for name in list(self._left):
            if path in ((at := self._folder / name), *at.parents):
                del self._left[name]

    def finish(self, done: int) -> None:
        """Write that so many steps are done, the notes, and what was left."""
        self.done = done
        said = {"key": self._key, "done": done, "notes": self.notes, "left": self._left}
        temporary = self._folder / f".{_FILE}"
        temporary.write_text(json.dumps(said), encoding="utf-8")
        temporary.replace(self._folder / _FILE)


def _digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of the files in a folder. OSError where there is none."""
    if path.is_dir():
        found = [f"{each.name} {_digest(each)}\n" for each in sorted(path.iterdir())]
        return hashlib.sha256("".join(found).encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
