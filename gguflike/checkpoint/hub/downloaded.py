"""What huggingface_hub downloads: watched while it comes, and compared with what the Hub says of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from gguflike.checkpoint.hub.listing import Repository
from gguflike.errors import ChangedError, RemoteError
from gguflike.progress import FETCHING

if TYPE_CHECKING:
    from gguflike.progress import Progress

CHUNK = 1 << 20  # bytes hashed at a time


def check(path: Path, repository: Repository, name: str, progress: Progress | None) -> None:
    """ChangedError where a file that was downloaded is not what the Hub says it is; it is then removed."""
    stated = repository.files.get(name)
    if stated is None or not (stated.sha256 or stated.blob):
        return
    size = path.stat().st_size
    digest = hashlib.sha256() if stated.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None and not done % (CHUNK << 6):
                progress(done, size, f"checking {name}")
    wanted = stated.sha256 or stated.blob
    if digest.hexdigest() != wanted:
        for each in {path.resolve(), path}:
            each.unlink(missing_ok=True)
        raise ChangedError(
            "what was downloaded is not what the Hub has, and was removed",
            path=f"{repository.id}/{name}",
            expected=f"{'SHA-256' if stated.sha256 else 'git blob'} {wanted}",
            got=digest.hexdigest(),
            remedy="try again",
        )


def bar(repository: Repository, name: str, progress: Progress | None, stop: Event) -> type:
    """What huggingface_hub takes for a progress bar: it draws nothing, and tells ``progress``. ChangedError, out of the
    download, once there is more than the file has; RemoteError where ``stop`` is set."""
    from tqdm.std import tqdm

    size = repository.files[name].size if name in repository.files else None

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            self.update(0)

        def update(self, count: float | None = 1) -> None:
            if stop.is_set():
                raise RemoteError("stopped", path=f"{repository.id}/{name}")
            self.n += count or 0
            if size is not None and self.n > size:
                raise ChangedError(
                    "what is downloaded is longer than the Hub says",
                    path=f"{repository.id}/{name}",
                    expected=f"{size:,} bytes",
                    got="more",
                    remedy="try again",
                )
            if progress is not None and self.total:
                progress(int(self.n), int(self.total), f"{FETCHING}{name}")

    return Bar
