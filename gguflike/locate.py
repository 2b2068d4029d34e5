"""Where a GGUF file is: a path, or what is fetched for a name of the Hub or a URL.

    model.gguf                       a path, which wins over everything else
    org/name, org/name:Q8_0          a file of a repository: of that type, or Q4_K_M, then Q8_0, then the first
    org/name@revision:Q8_0           the same at a branch, tag or commit
    hf://org/name@revision/file      a file by its name
    https://...                      a file behind a URL; addresses on the Hub are its repositories and files

Files of the Hub go to the cache that huggingface_hub has, others to ``downloads`` in ours. What is a path imports
nothing here, least of all a client of HTTP.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gguflike import container

if TYPE_CHECKING:
    from gguflike.container import GGUFFile
    from gguflike.progress import Progress


def locate(name: str | os.PathLike[str], progress: Progress | None = None) -> str | os.PathLike[str]:
    """The path of a file: ``name`` itself where there is such a file or it can be nothing but a path, else that of what
    it stands for, fetched where it is not in the cache.

    Of a split model, the first file. RemoteError where there is nothing of that name on the Hub, or it cannot be had.
    """
    if not _is_reference(name):
        return name
    from gguflike.checkpoint.hub import resolver

    return resolver.fetch(os.fspath(name), progress)


def open(path: str | os.PathLike[str], *, shards: bool = True, progress: Progress | None = None) -> GGUFFile:
    """Open a GGUF file: a path, or a name that is fetched first (`locate`). A shard of a split model opens the whole
    model, unless ``shards`` is false.

    GGUFError names the field, the byte and the rule that the file breaks; OSError where it cannot be opened,
    RemoteError where it cannot be had.
    """
    return container.open(locate(path, progress), shards=shards)


def open_header(path: str | os.PathLike[str]) -> GGUFFile:
    """What `open` does, but of what is not on disk the header alone is fetched: its ``tensors`` cannot be had, `read`
    fetches the parts of them that it is asked for. ``fetched`` counts the bytes."""
    if not _is_reference(path):
        return container.open(path)
    from gguflike.checkpoint.hub import remote, resolver
    from gguflike.container.reader import HeaderFile
    from gguflike.container.shards import open_with

    places = resolver.places(os.fspath(path))
    if "://" not in places[0]:
        return container.open(places[0])

    def opener(name: str | os.PathLike[str]) -> GGUFFile:
        file = remote.opened(os.fspath(name))
        before = file.received
        return HeaderFile(file.name, file.size, file.read, lambda: file.received - before)

    return open_with(opener, places[0])


def _is_reference(name: str | os.PathLike[str]) -> bool:
    """Whether a name is of something to be fetched: there is no such file, and it does not look like a path."""
    if not isinstance(name, str) or os.path.lexists(name):
        return False
    from gguflike.checkpoint.hub import reference

    return reference.parse(name) is not None
