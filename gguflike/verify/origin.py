"""Whether a file is the one that a repository of the Hub has, by the digest that the Hub has of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gguflike.container.findings import Finding
from gguflike.errors import ArgumentError
from gguflike.progress import Progress

if TYPE_CHECKING:
    from gguflike.checkpoint.hub.listing import Repository, RepositoryFile

PIECE = 1 << 20


def compare(paths: list[str], against: str, progress: Progress | None = None) -> Iterator[Finding]:
    """M-040: each file is the file of its name in the repository ``against``, or the one that it names.

    Of a file in large file storage the Hub has the SHA-256, of any other git's SHA-1. ArgumentError where ``against``
    names no repository; RemoteError where it, or the file, is not there.
    """
    from gguflike.checkpoint.hub import client, reference

    found = reference.parse(against)
    if found is None or not found.repo or found.type is not None:
        expected = "hf://org/repo, or hf://org/repo/file.gguf"
        raise ArgumentError("names no repository", field="against", expected=expected, got=repr(against))
    repository = client.list_repository(found.repo, found.revision)
    for path in paths:
        yield from _compare(path, repository, found.file if len(paths) == 1 else None, progress)


def _compare(path: str, repository: Repository, name: str | None, progress: Progress | None) -> Iterator[Finding]:
    own = os.path.basename(path)  # noqa: PTH119 - text
    place = f"{repository.id} at {repository.commit[:12]}"
    names = [name] if name is not None else [each for each in repository.files if os.path.basename(each) == own]  # noqa: PTH119
    stated = next((repository.files[each] for each in names if each in repository.files), None)
    if stated is None:
        message, got = f"{place} has no file of that name", None
        digest = _digest(path, None, progress)
        for other, facts in repository.files.items():
            if facts.sha256 == digest:
                message, got = f"{place} has no file of that name, and these bytes by another", other
        yield Finding("error", "M-040", message, path, got=got)
        return
    wanted = stated.sha256 or stated.blob
    size = os.path.getsize(path)  # noqa: PTH202
    if wanted is None:
        yield Finding("error", "M-040", f"{place} says no digest of {names[0]}", path)
    elif stated.size not in (None, size):
        yield Finding(
            "error", "M-040", f"not the file of {place}", path, expected=f"{stated.size} bytes", got=f"{size}"
        )
    elif (digest := _digest(path, stated, progress)) != wanted:
        kind = "SHA-256" if stated.sha256 else "git blob"
        yield Finding("error", "M-040", f"not the file of {place}", path, expected=f"{kind} {wanted}", got=digest)


def _digest(path: str, stated: RepositoryFile | None, progress: Progress | None) -> str:
    """SHA-256, or git's SHA-1 of a blob where that is what is known."""
    size = os.path.getsize(path)  # noqa: PTH202
    if stated is None or stated.sha256:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as file:  # noqa: PTH123
        done = 0
        while piece := file.read(PIECE):
            digest.update(piece)
            done += len(piece)
            if progress:
                progress(done, size, "comparing")
    return digest.hexdigest()
