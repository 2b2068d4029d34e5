"""The GGUF files that a name stands for: which of a repository's, and where they are once they are fetched."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from gguflike.checkpoint.hub import client, downloads, reference, remote
from gguflike.checkpoint.hub.listing import Repository
from gguflike.checkpoint.hub.reference import Reference
from gguflike.errors import RemoteError
from gguflike.progress import Progress

PREFERRED = ("Q4_K_M", "Q8_0")  # then the first
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
# What is no model that runs by itself, by words that its name has: parts for images, importance matrices.
_BESIDE = re.compile(r"(^|[-_.])(mmproj|imatrix)([-_.]|$)", re.IGNORECASE)
_TYPE = re.compile(r"(?:^|[-_.])((?:UD-)?I?T?Q\d[\w]*|BF16|F16|F32|MXFP4[\w]*|NVFP4)$", re.IGNORECASE)
SHOWN = 12  # names listed in an error


def fetch(name: str, progress: Progress | None = None) -> str:
    """The path of the GGUF file that ``name`` stands for, downloaded into a cache where it is not there yet.

    Of a split model all files are fetched, and the first is named. RemoteError, or what `reference.parse` raises, where
    there is nothing of that name.
    """
    found = _parse(name)
    if found.url:
        return str(downloads.fetch(found.url, progress))
    repository = _list(name, found)
    chosen = choose(repository, found)
    paths = [client.fetch(repository, each, progress) for each in chosen]
    return str(paths[0])


def places(name: str) -> list[str]:
    """Where the files that ``name`` stands for are, in order, without fetching any: their paths where the cache has all
    of them, else the names by which they are read by ranges (hub.remote)."""
    found = _parse(name)
    if found.url:
        return [found.url]
    repository = _list(name, found)
    chosen = choose(repository, found)
    cached = [client.cached(repository, each) for each in chosen]
    if None not in cached:
        return [str(path) for path in cached]
    return [remote.place(repository, each) for each in chosen]


def _parse(name: str) -> Reference:
    found = reference.parse(name)
    if found is None:
        raise RemoteError("no such file", path=name)
    return found


def _list(name: str, found: Reference) -> Repository:
    """The files of the repository. What is not found by a name that may have been meant for a path is said to be no
    file either."""
    try:
        return client.list_repository(found.repo, found.revision)
    except RemoteError as error:
        if "://" in name or not (client.is_missing_repository(error) or client.is_unreachable(error)):
            raise
        what = error.what if client.is_unreachable(error) else f"on the Hub {error.what}"
        raise RemoteError(
            f"no such file here, and {what}", path=error.path, got=error.got, remedy=error.remedy
        ) from error.__cause__


def choose(repository: Repository, found: Reference) -> list[str]:
    """The files of a repository that the reference means: one, or all shards of a split model in order.

    RemoteError, with what there is, where none is of that name or type.
    """
    models = models_of(repository.files)
    if found.file is not None:
        names = [name for name in repository.files if name == found.file]
        if not names:
            listed = [name for name in repository.files if name.lower().endswith(".gguf")]
            raise _no_such(repository, "file", found.file, listed)
        return _shards(repository, names[0])
    if not models:
        others = any(name.endswith((".safetensors", ".bin", ".pth")) for name in repository.files)
        raise RemoteError(
            "the repository holds no GGUF file of a model",
            path=repository.id,
            got=", ".join(sorted(repository.files)[:3]) or "no files",
            remedy=f"convert it: gguflike convert {repository.id} -o model.gguf" if others else None,
        )
    if found.type is None:
        likely = [name for kind in PREFERRED for name in models if _is_of_type(name, kind)]
        return _shards(repository, [*likely, *models][0])
    return _shards(repository, _of_type(repository, models, found.type))


def models_of(names: Iterable[str]) -> list[str]:
    """Those of a repository's files that are models to run, each split one by its first shard; sorted."""
    found = []
    for name in sorted(names):
        match = _SHARD.fullmatch(name)
        first = match is None or int(match["number"]) == 1
        if first and name.lower().endswith(".gguf") and not _BESIDE.search(PurePosixPath(name).name):
            found.append(name)
    return found


def _of_type(repository: Repository, models: Sequence[str], kind: str) -> str:
    """The model of a type, in any case; or whose name, with or without its ending, is or begins with these words."""
    wanted = kind.lower().removesuffix(".gguf")
    exact = [name for name in models if wanted in (_stem(name).lower(), name.lower().removesuffix(".gguf"))]
    typed = [name for name in models if _is_of_type(name, kind)]
    begun = [name for name in models if PurePosixPath(name).name.lower().startswith(wanted)]
    for names in (exact, typed, begun):
        if names:
            return names[0]
    raise _no_such(repository, "type", kind, [type_of(name) or name for name in models])


def _stem(name: str) -> str:
    """The name of a file without folders, number of shard and ending."""
    match = _SHARD.fullmatch(name)
    return PurePosixPath(match["stem"] if match else name.removesuffix(".gguf")).name


def _is_of_type(name: str, kind: str) -> bool:
    """Whether a file's name ends with a type, or that is the name of its folder."""
    path = PurePosixPath(name)
    words = [_stem(name), *path.parent.parts]
    return any(re.search(rf"(^|[-_.]){re.escape(kind)}$", word, re.IGNORECASE) for word in words)


def type_of(name: str) -> str | None:
    """The type that a file's name ends with, as it is written."""
    match = _TYPE.search(_stem(name))
    return match[1] if match else None


def _shards(repository: Repository, name: str) -> list[str]:
    """The file itself, or all files of the split model that it is of. RemoteError where some are missing."""
    match = _SHARD.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    names = [f"{match['stem']}-{number:05}-of-{match['count']}{name[-5:]}" for number in range(1, count + 1)]
    missing = [each for each in names if each not in repository.files]
    if missing:
        raise RemoteError(
            "shards of the model are missing in the repository",
            path=repository.id,
            expected=f"{count} files",
            got=f"no {missing[0]}",
        )
    return names


def _no_such(repository: Repository, what: str, wanted: str, there: Sequence[str]) -> RemoteError:
    there = list(dict.fromkeys(there))
    lower = {each.lower(): each for each in there}
    near = difflib.get_close_matches(wanted.lower(), lower, 1)
    listed = ", ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} more" if len(there) > SHOWN else "")
    return RemoteError(
        f"the repository has no {what} of that name",
        path=repository.id,
        expected=f"one of {listed}" if there else None,
        got=repr(wanted),
        remedy=f"did you mean {lower[near[0]]}?" if near else None,
    )
