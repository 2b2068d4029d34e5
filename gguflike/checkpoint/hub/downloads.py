"""Files behind URLs that are none of the Hub's, in a cache folder of our own: complete or not there, and what a lost
connection or a killed process has left is continued."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from gguflike.checkpoint.hub import client
from gguflike.checkpoint.hub.remote import RemoteFile
from gguflike.errors import OutputError, RemoteError
from gguflike.progress import FETCHING, Progress

PIECE = 64 << 20  # bytes that are read on several connections before they are written
LONGEST_NAME = 60  # characters of up to 4 bytes: file systems have 255, and endings are added
_UNFIT = re.compile(r'[\\/:*?"<>|\x00-\x1f]')
_PART, _FACTS = ".part", ".json"


def fetch(url: str, progress: Progress | None = None) -> Path:
    """The path of the file behind ``url``, downloaded if it is not in the cache as it is there now.

    In offline mode what the cache has is taken. RemoteError where the file cannot be had, OSError of the disk.
    """
    path = folder(url) / _name(url)
    facts = path.with_name(path.name + _FACTS)
    if client.is_offline():
        if path.exists():
            return path
        remedy = "unset HF_HUB_OFFLINE to fetch it"
        raise RemoteError("not in the cache, and offline mode is on", path=url, remedy=remedy)
    file = RemoteFile(url, url)
    stated = {"url": url, "bytes": file.size, "etag": file.etag}
    if path.exists() and _read(facts) == stated:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with client.lock(path.with_name(path.name + ".lock")):
        if not (path.exists() and _read(facts) == stated):
            _download(file, path, facts, stated, progress)
    return path


def _name(url: str) -> str:
    """What the file is called on disk: the last part of the URL's path, as far as that is a name on any system."""
    name = _UNFIT.sub("_", PurePosixPath(unquote(urlsplit(url).path)).name)
    return name[-LONGEST_NAME:] if name.strip(".") else "file"


def folder(url: str) -> Path:
    """Where the file behind a URL is kept: in $GGUFLIKE_CACHE_DIR, else in the user's cache folder."""
    home = os.environ.get("GGUFLIKE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home else Path.home() / ".cache"
    return base / "gguflike" / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _download(file: RemoteFile, path: Path, facts: Path, stated: dict[str, object], progress: Progress | None) -> None:
    """Write the file beside its place, behind what is there of the same state of it, then give it its name."""
    part = path.with_name(path.name + _PART)
    if _read(facts) != stated or file.etag is None:  # of another state, or of one that cannot be told from another
        part.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    _check_space(path, file.size - (part.stat().st_size if part.exists() else 0))
    facts.write_text(json.dumps(stated), "utf-8")
    buffer = memoryview(bytearray(min(PIECE, file.size)))
    with part.open("ab") as out:
        done = out.tell()
        if done > file.size:
            done = out.truncate(0)
        while done < file.size:
            if progress is not None:
                progress(done, file.size, f"{FETCHING}{path.name}")
            piece = buffer[: min(len(buffer), file.size - done)]
            file.read_into(done, piece)
            out.write(piece)
            done += len(piece)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
    if progress is not None:
        progress(file.size, file.size, f"{FETCHING}{path.name}")


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(
            "not enough free space",
            path=path,
            expected=f"{needed:,} bytes",
            got=f"{free:,}",
            remedy="free some space, or choose another folder by GGUFLIKE_CACHE_DIR",
        )


def _read(facts: Path) -> object:
    with suppress(OSError, ValueError):
        return json.loads(facts.read_text("utf-8"))
    return None
