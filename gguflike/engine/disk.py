"""What was computed of texts, on a disk: for others that begin alike, also when the program has been started anew.

A folder of files (files.py), each of which holds what some tokens left, behind those that its name stands for: the name
is a digest of all tokens from the first on, of the model and of all else that the numbers depend on. So another model's
files are never looked at, and many may share a folder. A file is read whole and checked before it is used; one that is
damaged, or says otherwise than its name, is removed.

A thread of its own writes, so that no text waits for a disk. What was used longest ago is removed first when all files
in the folder take more than ``limit`` bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.engine import files
from gguflike.errors import CacheError, OutputError

if TYPE_CHECKING:
    from gguflike.engine.files import Arrays, Contents
    from gguflike.runner import Model

MAGIC = b"gguflike prefix 1\n"
SUFFIX = ".prefix"
WAITING = 256  # files at most that wait to be written: the disk is too slow for more, and they are not kept


class Disk:
    """Files of one model in a folder. All but the constructor is for the engine's thread."""

    def __init__(self, folder: Path, limit: int, model: Model, notice: Callable[[str], None]) -> None:
        """The folder is made where there is none, for this user alone. ``notice`` hears, on any thread, what could not
        be used or written. OutputError where the folder cannot be made."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError("the folder cannot be made", path=folder, got=error.strerror) from error
        self._folder, self._limit, self._notice = folder, limit, notice
        self._about = files.about(model)
        self._own = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()[:16]
        self._left: queue.Queue[tuple[str, dict[str, Any], Arrays] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write_all, name="gguflike-disk", daemon=True)
        self._thread.start()

    def name(self, before: str, ids: Sequence[int]) -> str:
        """The name of what ``ids`` leave behind what ``before`` is the name of ("": nothing)."""
        return hashlib.sha256(before.encode() + np.asarray(ids, "<i8").tobytes()).hexdigest()

    def has(self, name: str) -> bool:
        """Whether there is such a file, good or not."""
        return self._path(name).exists()

    def put(self, name: str, states: Arrays, **header: Any) -> None:
        """Write what tokens left, unless it is there, or too much waits to be written. Arrays must not change."""
        if not self.has(name):
            with contextlib.suppress(queue.Full):
                self._left.put_nowait((name, header, states))

    def get(self, name: str) -> Contents | None:
        """What is there by that name, used now; None where nothing is, or nothing that is right."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            found = files.read(path, MAGIC, {**self._about, "name": name})
        except CacheError as error:
            self._remove(path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def headers(self) -> dict[str, dict[str, Any]]:
        """Name -> header of what there is of this model, not checked."""
        found = {}
        for path in self._folder.glob(f"{self._own}-*{SUFFIX}"):
            header = files.header_of(path, MAGIC)
            if header is not None and isinstance(header.get("name"), str) and self._path(header["name"]) == path:
                found[header["name"]] = dict(header)
        return found

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._left.put(None)
        self._thread.join()

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._own}-{name}{SUFFIX}"

    def _remove(self, path: Path, why: Exception) -> None:
        self._notice(f"removed what was kept of a text, and computing it anew: {why}")
        with contextlib.suppress(OSError):
            path.unlink()

    # The thread

    def _write_all(self) -> None:
        while (each := self._left.get()) is not None:
            name, header, states = each
            try:
                # The digest tells what a failure of the machine left half-written, so nothing waits for the disk.
                files.write(self._path(name), MAGIC, {**self._about, **header, "name": name}, states, durable=False)
                self._shrink()
            except (OSError, OutputError) as error:
                self._notice(f"what was computed of a text is not kept: {error}")

    def _shrink(self) -> None:
        """Remove the files used longest ago, of whichever model, until the others are within the limit."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with contextlib.suppress(OSError):  # another one has removed it
                        about = entry.stat()
                        found.append((about.st_mtime_ns, about.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._limit:
                return
            with contextlib.suppress(OSError):
                Path(path).unlink()
            total -= size
