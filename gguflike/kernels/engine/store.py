"""Files of the kernel cache: written whole or not at all, and believed only when they are what was written.

A kept file starts with a line that says what it is and a checksum over its name and contents. An empty, cut, zeroed or
overwritten file, and one that was copied over another, reads as if it were missing, so that its kernel is compiled
anew; and where nothing can be written (no space, a read-only folder, no folder at all), kernels are not kept. Neither
is ever an error: the cache only saves time.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import lru_cache
from importlib.util import source_hash

_MAGIC = b"gguflike kernel 1\n"
_CHECKSUM_BYTES = 8
_PART = ".tmp"  # how the name of a file ends while it is written
_HOUR = 3600.0
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write two bytes for a line's end
_LARGE = 1 << 18  # bytes of a kernel


def digest(data: bytes) -> str:
    """Return 16 hex digits that tell data apart: the hash by which Python knows its sources (hashlib loads OpenSSL)."""
    return source_hash(data).hex()


def read(path: str | None, version: str = "") -> bytes | None:
    """Return what ``write`` kept at ``path`` under the same file name and version, or None where that is not there."""
    if path is None:
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except OSError:
        return None
    start = len(_MAGIC) + _CHECKSUM_BYTES
    data = content[start:]
    return data if content[:start] == _header(path, version, data) else None


def write(path: str | None, data: bytes, version: str = "") -> bool:
    """Keep ``data`` at ``path``, replacing what is there in one step; return whether that was possible."""
    if path is None:
        return False
    part = f"{path}.{os.getpid()}-{os.urandom(4).hex()}{_PART}"
    try:
        _sweep(os.path.dirname(path))
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600), "wb") as file:
                file.write(_header(path, version, data) + data)
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise
    except OSError:
        return False
    return True


def has_room(folder: str) -> bool:
    """Whether a folder takes another kernel, tried with a file of the size of a large one."""
    path = os.path.join(folder, f"room-{os.getpid()}")
    taken = write(path, bytes(_LARGE))
    with suppress(OSError):
        os.unlink(path)
    return taken


def _header(path: str, version: str, data: bytes) -> bytes:
    return _MAGIC + source_hash(b"\0".join((os.path.basename(path).encode(), version.encode(), data)))


@lru_cache(maxsize=4)
def _sweep(folder: str) -> None:
    """Remove what writers that were killed long ago left in a folder. OSError where it cannot be listed."""
    with os.scandir(folder) as entries:
        old = [entry.path for entry in entries if entry.name.endswith(_PART) and _age(entry) > _HOUR]
    for path in old:
        with suppress(OSError):
            os.unlink(path)


def _age(entry: os.DirEntry[str]) -> float:
    """Seconds since an entry was last written to; 0 if it has just gone."""
    try:
        return time.time() - entry.stat().st_mtime
    except OSError:
        return 0.0
