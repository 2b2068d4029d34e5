"""GGUF files into a repository of the Hub, with a page that says what they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from gguflike import __version__, container, model_card
from gguflike.checkpoint.hub import client, reference
from gguflike.checkpoint.hub.downloaded import CHUNK
from gguflike.checkpoint.hub.listing import Repository
from gguflike.errors import ArgumentError, ArgumentTypeError, OutputError, RemoteError
from gguflike.inspect.description import describe
from gguflike.progress import Progress

CARD = "README.md"


@dataclass(frozen=True)
class UploadPlan:
    """What an upload adds to ``repo`` at the branch ``revision``.

    ``entries`` are the files, with sizes and digests; ``unchanged`` the names of those that the repository has already;
    ``page`` the text of README.md, None where the one that is there stays; ``created``: the repository is new;
    ``url``: the commit, once there is one.
    """

    repo: str
    revision: str | None
    private: bool
    entries: tuple[model_card.Entry, ...] = field(repr=False)
    unchanged: tuple[str, ...]
    page: str | None = field(repr=False)
    created: bool
    paths: tuple[str, ...] = field(repr=False)
    url: str | None = None

    def __str__(self) -> str:
        where = f"{self.repo}@{self.revision}" if self.revision else self.repo
        kind = f" (a new {'private' if self.private else 'public'} repository)" if self.created else ""
        lines = [f"{where}{kind}"]
        for entry in self.entries:
            state = "is there already" if entry.name in self.unchanged else "is added"
            lines.append(f"  {entry.name}  {entry.nbytes:,} bytes  {entry.sha256}  {state}")
        lines.append(f"  {CARD}  {'stays as it is' if self.page is None else 'is written'}")
        return "\n".join(lines)


def upload(
    files: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    bars: bool = False,
    progress: Progress | None = None,
) -> UploadPlan:
    """Add GGUF files (of a split model, all of them) to the repository ``org/name``, and return the plan carried out.

    A repository or branch (``revision``) that is not there is made, the repository ``private`` or for all. Its
    README.md is written from what the files say of themselves. A file of the same name and other contents, and a
    README.md that is there, are replaced with ``overwrite`` only: without, the former is an error, and the latter
    stays. With ``dry_run`` nothing is written. ``bars``: huggingface_hub draws how far it is on standard error;
    ``progress`` hears of reading.

    GGUFError for a file that is none, OutputError for one that would be replaced, RemoteError where the Hub refuses.
    """
    repo, revision = _target(repo, revision)
    opened = _open(files)
    names: dict[str, str] = {}
    for path in opened:
        other = names.setdefault(Path(path).name, path)
        if other != path:
            raise ArgumentError("two files of one name", path=path, field="files", got=f"also {other}")
    entries = _entries(opened, progress)
    there = _there(repo, revision)
    has = {} if there is None else there.files
    unchanged = tuple(entry.name for entry in entries if entry.name in has and has[entry.name].sha256 == entry.sha256)
    for entry in entries:
        if entry.name in has and entry.name not in unchanged and not overwrite:
            raise OutputError(
                "the repository has another file of that name",
                path=f"{repo}/{entry.name}",
                expected=f"SHA-256 {entry.sha256}",
                got=has[entry.name].sha256 or has[entry.name].blob,
                remedy="rename it, or say --overwrite (overwrite=True)",
            )
    text = model_card.page(repo, entries) if overwrite or CARD not in has else None
    plan = UploadPlan(
        repo=repo,
        revision=revision,
        private=private,
        entries=entries,
        unchanged=unchanged,
        page=text,
        created=there is None,
        paths=tuple(opened),
    )
    return plan if dry_run else _carry_out(plan, bars)


def _target(repo: str, revision: str | None) -> tuple[str, str | None]:
    found = reference.parse(repo) if isinstance(repo, str) else None
    if found is None or not found.repo or found.file is not None or found.type is not None:
        raise ArgumentError(
            "not the name of a repository", field="repo", expected="org/name or org/name@branch", got=repr(repo)
        )
    if revision is not None and found.revision not in (None, revision):
        raise ArgumentError("two revisions", path=repo, field="revision", got=repr(revision))
    return found.repo, revision or found.revision


def _open(files: Iterable[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[str]:
    """The paths of all files: of a split model, of all its shards. Errors as of ``container.open``."""
    if isinstance(files, str | os.PathLike):
        files = [files]
    paths: list[str] = []
    for each in files:
        if not isinstance(each, str | os.PathLike):
            raise ArgumentTypeError("not a path", field="files", expected="str or Path", got=repr(each)[:60])
        with container.open(each) as file:
            paths += [path for path in file.paths if path not in paths]
    if not paths:
        raise ArgumentError("no files", field="files", expected="at least one GGUF file")
    return paths


def _entries(paths: list[str], progress: Progress | None) -> tuple[model_card.Entry, ...]:
    total, done = sum(Path(path).stat().st_size for path in paths), 0
    entries = []
    for path in paths:
        with container.open(path, shards=False) as file:
            document = describe(file)
            whole = {key: file.metadata[key] for key in file.metadata if _short(file, key)}
        digest = hashlib.sha256()
        with Path(path).open("rb") as data:
            while chunk := data.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total, f"reading {Path(path).name}")
        entries.append(
            model_card.Entry(
                Path(path).name,
                document["file_bytes"],
                digest.hexdigest(),
                document["file_type"],
                document["parameters"],
                document["bits_per_weight"],
                whole,
            )
        )
    return tuple(entries)


def _short(file: container.GGUFFile, key: str) -> bool:
    return key.startswith(("general.", "gguflike.")) and file.metadata.count_of(key) <= 100


def _there(repo: str, revision: str | None) -> Repository | None:
    """What the repository has, or None where there is none that we may read. A branch that is new has what main has."""
    try:
        return client.list_repository(repo, revision)
    except RemoteError as error:
        if client.is_missing_repository(error):
            return None
        if client.is_missing_revision(error):
            return client.list_repository(repo)
        raise


def _carry_out(plan: UploadPlan, bars: bool) -> UploadPlan:
    paths = zip(plan.entries, plan.paths, strict=True)
    additions: dict[str, bytes | str] = {e.name: path for e, path in paths if e.name not in plan.unchanged}
    if plan.page is not None:
        additions[CARD] = plan.page.encode()
    if not additions:
        return plan
    names = [name for name in additions if name != CARD] or [CARD]
    message = (
        f"Add {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "") + f" (gguflike {__version__})"
    )
    url = client.commit(plan.repo, additions, message, revision=plan.revision, private=plan.private, bars=bars)
    return replace(plan, url=url)
