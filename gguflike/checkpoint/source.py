"""Where a checkpoint is and what it is called: a folder, or a repository of the Hub, of which one is made."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gguflike.checkpoint import files
from gguflike.errors import ArgumentError
from gguflike.progress import Progress

Source = str | os.PathLike[str]

_CACHED = re.compile(r"models--(?:(.+?)--)?(.+)")


def fetched(
    source: Source, revision: str | None = None, keep_copy: bool = False, progress: Progress | None = None
) -> tuple[Source, str | None]:
    """The folder of a repository (``org/name``, ``org/name@revision``, or its address on the Hub), and no revision;
    what is on disk, or looks like a path, as it is.

    Configuration and tokenizer are fetched into the Hub's cache, and so are weights with ``keep_copy``; else tensors
    read themselves by ranges. RemoteError where the Hub refuses.
    """
    if not isinstance(source, str) or files.present(Path(source)):
        return source, revision
    from gguflike.checkpoint.hub import reference

    found = reference.parse(source)
    if found is None or not found.repo or found.file is not None or found.type is not None:
        return source, revision
    from gguflike.checkpoint.hub import repository

    if revision is not None and found.revision not in (None, revision):
        raise ArgumentError("two revisions", path=source, field="revision", got=repr(revision))
    return repository.snapshot(found.repo, revision or found.revision, keep_copy, progress), None


def called(folder: Path) -> tuple[str, str | None]:
    """What to call a folder, and its commit where it is a snapshot in the Hub's cache, which is called as its
    repository."""
    folder = folder.resolve()
    repository = _CACHED.fullmatch(folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    if repository is None:
        return folder.name, None
    return "/".join(part for part in repository.groups() if part), folder.name
