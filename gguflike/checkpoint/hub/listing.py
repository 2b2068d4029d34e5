"""What a repository has, as the Hub's list of files says it: nothing of it is taken for a commit, a path, a size or a
digest before it was looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gguflike.errors import RemoteError

DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class RepositoryFile(NamedTuple):
    """A file of a repository: its ``size`` in bytes, None where the server does not tell, and the digest that the Hub
    has of it: ``sha256`` of one in large file storage (LFS, Xet), ``blob``, git's SHA-1, of any other."""

    size: int | None
    sha256: str | None = None
    blob: str | None = None


class Repository(NamedTuple):
    """A repository at one commit, to which the ``revision`` pointed that was asked for. ``files`` by their paths;
    ``offline``: they are those that the cache has."""

    id: str
    commit: str
    files: Mapping[str, RepositoryFile]
    revision: str = DEFAULT_REVISION
    offline: bool = False


def of(repo: str, revision: str, info: Any) -> Repository:
    """A repository as the Hub's API says it: ``info``, a JSON value. TypeError for what is no list of files,
    RemoteError where there is no commit."""
    siblings = _of_kind(info, dict, "the answer").get("siblings")
    files = dict(filter(None, map(_file, _of_kind(siblings or [], list, "siblings"))))
    commit = info.get("sha")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise RemoteError(
            "the Hub does not say which commit this is",
            path=repo,
            expected="40 hexadecimal digits",
            got=repr(commit)[:80],
        )
    return Repository(repo, commit, files, revision)


def _file(sibling: Any) -> tuple[str, RepositoryFile] | None:
    """A file's path and what is said of it; None where that is no path below a folder."""
    entry = _of_kind(sibling, dict, "a file")
    name = _of_kind(entry.get("rfilename"), str, "a file's name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        return None
    large = _of_kind(entry.get("lfs") or {}, dict, f"lfs of {name!r:.80}")
    size, sha256, blob = large.get("size", entry.get("size")), large.get("sha256"), entry.get("blobId")
    is_size = size is None or (type(size) is int and size >= 0)
    if not is_size or not _is_digest(sha256, 64) or not _is_digest(blob, 40):
        raise TypeError(f"size {size!r:.40}, digests {sha256!r:.80} and {blob!r:.80} of {name!r:.80}")
    return name, RepositoryFile(size, sha256 and sha256.lower(), blob and blob.lower())


def _is_digest(text: Any, digits: int) -> bool:
    """Whether a text is a digest of so many hexadecimal digits, or None."""
    return text is None or (isinstance(text, str) and re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text) is not None)


def _of_kind(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{what} is {value!r:.80}")
    return value
