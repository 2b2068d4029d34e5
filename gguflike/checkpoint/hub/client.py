"""What is asked of huggingface_hub: the one module that imports it, and only when something is asked of the Hub.

The library knows tokens (HF_TOKEN, ``hf auth login``), where the Hub and the cache are (HF_ENDPOINT, HF_HOME), whether
to stay offline (HF_HUB_OFFLINE), proxies and certificates. Its errors become RemoteError, in plain words.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gguflike import jsontext
from gguflike.checkpoint.hub import downloaded, listing, redirects, reference, retry
from gguflike.checkpoint.hub.listing import DEFAULT_REVISION, Repository, RepositoryFile
from gguflike.checkpoint.hub.reference import endpoint
from gguflike.checkpoint.hub.retry import Attempts, retry_after
from gguflike.errors import RemoteError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from gguflike.progress import Progress

AGAIN = (408, 429, 500, 502, 503, 504)  # answers that may be another one in a moment
UNREACHABLE = 2  # times that a Hub is asked again which does not answer at all
TIMEOUT = 30.0  # seconds without a byte of an answer of the Hub's API
MOST_BYTES, MOST_SECONDS = 64 << 20, 300.0  # of one answer: 200,000 files are 16 to 60 MB


def list_repository(repo: str, revision: str | None = None) -> Repository:
    """The files of a repository at a branch, tag or commit. RemoteError where the Hub does not tell.

    In offline mode they are those that the cache has of it.
    """
    if is_offline():
        return _cached_repository(repo, revision)
    attempts = Attempts(repo)
    while True:
        try:
            with plain_errors(repo, revision):
                return _listed(repo, revision)
        except RemoteError as error:
            response = getattr(error.__cause__, "response", None)
            refused = response is not None and response.status_code not in AGAIN
            if refused or not isinstance(error.__cause__, transport_errors()):
                raise
            if response is None:
                attempts.failed(error, most=UNREACHABLE)
            else:
                attempts.failed(error, retry_after(response.headers))


def _listed(repo: str, revision: str | None) -> Repository:
    """The files as the Hub lists them. RemoteError for an answer that is none."""
    url = f"{endpoint()}/api/models/{repo}"
    if revision is not None:
        url += f"/revision/{quote(revision, safe='')}"
    body = _answer(repo, f"{url}?blobs=true")
    try:
        return listing.of(repo, revision or DEFAULT_REVISION, jsontext.parsed(body.decode("utf-8")))
    except (ValueError, TypeError) as error:
        got = f"{type(error).__name__}: {reason(error)}"
        raise RemoteError("the Hub's list of files makes no sense", path=repo, got=got) from error


def _answer(repo: str, url: str) -> bytes:
    """All of an answer of the Hub's API, which is not read beyond MOST_BYTES and MOST_SECONDS. RemoteError for a longer
    one, what huggingface_hub raises for one that refuses."""
    from huggingface_hub.utils import hf_raise_for_status, validate_repo_id  # type: ignore[attr-defined]

    validate_repo_id(repo)
    attempts, outside = Attempts(repo), False
    while True:
        sent = headers(url) | {"Accept-Encoding": "identity"}
        with get(repo, url, sent, outside=outside, timeout=TIMEOUT) as answer:
            if answer.status_code not in redirects.MOVED:
                encoding = answer.headers.pop("content-encoding", "identity")
                body = b"".join(retry.bounded(repo, answer.iter_raw(), MOST_BYTES, MOST_SECONDS))
                # As huggingface_hub takes it, which would read an answer that is not there yet, however long it is.
                hf_raise_for_status(type(answer)(answer.status_code, headers=answer.headers, request=answer.request))
                if encoding != "identity":
                    raise RemoteError("the Hub's list of files is encoded", path=repo, got=encoding[:80])
                return body
            attempts.redirected()
            url, outside = redirects.target(repo, url, answer.headers.get("location"))


def cached(repository: Repository, name: str) -> Path | None:
    """Where the cache has a file of a repository, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository.id, name, revision=repository.commit)
    return Path(found) if isinstance(found, str) else None


def fetch(repository: Repository, name: str, progress: Progress | None = None) -> Path:
    """The path of a file of a repository in the Hub's cache, downloaded if it is not there.

    What is downloaded is compared with the digest that the Hub has of it. RemoteError where it differs, where the file
    cannot be had, or does not come at LEAST bytes a second and MOST_SECONDS more.
    """
    from huggingface_hub import hf_hub_download

    found = cached(repository, name)
    if found is not None:
        _remember(repository)
        return found
    stop = Event()
    options: dict[str, Any] = {**_agent(), "tqdm_class": downloaded.bar(repository, name, progress, stop)}
    download = partial(hf_hub_download, repository.id, name, revision=repository.commit, endpoint=endpoint(), **options)
    stated = repository.files.get(name)
    size = MOST_BYTES if stated is None or stated.size is None else stated.size
    with plain_errors(repository.id, repository.commit, name):
        path = Path(retry.within(f"{repository.id}/{name}", MOST_SECONDS + size / retry.LEAST, download, stop))
    downloaded.check(path, repository, name, progress)
    _remember(repository)
    return path


def url_of(repo: str, commit: str, name: str) -> str:
    """The address of a file of a repository."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, name, revision=commit, endpoint=endpoint())


def headers(url: str) -> dict[str, str]:
    """What is sent along with a request: who asks, and on the Hub alone the token."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    built: dict[str, str] = build_hf_headers(token=None if reference.is_hub(url) else False, **_agent())
    return built


def has_token() -> bool:
    """Whether there is a token to be sent to the Hub."""
    from huggingface_hub import get_token

    return bool(get_token())


@contextmanager
def get(
    name: str, url: str, sent: Mapping[str, str], *, outside: bool = False, timeout: float | None = None
) -> Iterator[Any]:
    """The answer to a GET as it comes (of httpx or httpx2); redirects are answers too.

    ``name`` is what errors call what is asked for; ``timeout``: seconds between two pieces of the answer. RemoteError
    where the connection leads into this machine's network and must lie ``outside``: a server sent us there.
    """
    from huggingface_hub import constants, get_session

    host = _library().URL(url).raw_host.decode("ascii")
    if outside and redirects.is_inner(host):
        raise redirects.led_inside(name, url)
    options: dict[str, Any] = {
        "follow_redirects": False,
        "timeout": timeout or constants.HF_HUB_DOWNLOAD_TIMEOUT,
        "extensions": {"trace": redirects.watch(name, url, host, outside)},
    }
    with get_session().stream("GET", url, headers=dict(sent), **options) as response:
        yield response


def _library() -> Any:
    """The HTTP client in use, httpx or httpx2."""
    return sys.modules[transport_errors()[0].__module__.partition(".")[0]]


@lru_cache(maxsize=1)
def transport_errors() -> tuple[type[Exception], ...]:
    """What a connection that fails raises: the base of the errors of the HTTP client in use."""
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError.__bases__[0],)


@lru_cache(maxsize=1)
def address_errors() -> tuple[type[Exception], ...]:
    """What that client raises for what is no address."""
    return (_library().InvalidURL, ValueError)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other processes that take the same lock out; where a file system has no locks, nobody is."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    with WeakFileLock(path):
        yield


def commit(
    repo: str, additions: Mapping[str, bytes | str], message: str, *, revision: str | None, private: bool, bars: bool
) -> str:
    """Add files to a repository, which is made if there is none of that name, and say the address of the commit.

    ``additions`` are bytes, or paths on disk, by their paths in the repository. ``revision`` is a branch, which is made
    too; ``private`` counts for a new repository; ``bars``: huggingface_hub draws how far it is. RemoteError where the
    Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in additions.items()]
    with plain_errors(repo, revision), _bars(bars):
        hub = api()
        hub.create_repo(repo, private=private, exist_ok=True)
        if revision not in (None, DEFAULT_REVISION):
            hub.create_branch(repo, branch=revision, exist_ok=True)
        try:
            made = hub.create_commit(repo, operations, commit_message=message, revision=revision)
        except RuntimeError as error:  # what an upload in one of its threads raised
            raise error.__cause__ or error from None
    return str(made.commit_url)


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Let huggingface_hub draw progress, or not, in the block."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def is_missing_repository(error: RemoteError) -> bool:
    """Whether the Hub says that there is no such repository, or none for this user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    cause = error.__cause__
    return isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError)


def is_unreachable(error: RemoteError) -> bool:
    """Whether there was no answer at all."""
    return isinstance(error.__cause__, transport_errors()) and not hasattr(error.__cause__, "response")


def is_missing_revision(error: RemoteError) -> bool:
    """Whether the Hub says that there is no such branch, tag or commit."""
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error.__cause__, RevisionNotFoundError)


@contextmanager
def plain_errors(repo: str, revision: str | None = None, name: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into a RemoteError that says what happened and what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repo}/{name}" if name else repo
    page = f"{endpoint()}/{repo}"
    failures: tuple[type[Exception], ...] = (OSError, *address_errors())
    try:
        yield
    except GatedRepoError as error:
        remedy = (
            f"accept its conditions on {page} with the account of the token in use"
            if has_token()
            else f"accept its conditions on {page}, then set HF_TOKEN or run `hf auth login`"
        )
        raise RemoteError(
            "the repository is gated: its authors decide who reads it", path=repo, remedy=remedy
        ) from error
    except RepositoryNotFoundError as error:
        remedy = (
            "check the name; if it is private, use the token of an account that may read it"
            if has_token()
            else "check the name; if it is private, set HF_TOKEN or run `hf auth login`"
        )
        raise RemoteError("there is no such repository, or it is private", path=repo, remedy=remedy) from error
    except RevisionNotFoundError as error:
        raise RemoteError(
            "the repository has no such revision", path=repo, field="revision", got=repr(revision)
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        offline = is_offline()
        raise RemoteError(
            "not in the cache, and offline mode is on" if offline else "the Hub cannot be reached",
            path=where,
            got=None if offline else reason(error.__cause__ or error),
            remedy="unset HF_HUB_OFFLINE to fetch it" if offline else _OFFLINE,
        ) from error
    except EntryNotFoundError as error:
        raise RemoteError("the repository has no such file", path=where) from error
    except HfHubHTTPError as error:
        what, advice = refusal(error.response.status_code, has_token())
        raise RemoteError(what, path=where, got=reason(error), remedy=advice) from error
    except transport_errors() as error:
        raise RemoteError("the Hub cannot be reached", path=where, got=reason(error), remedy=_OFFLINE) from error
    except failures as error:  # a full disk, an id that the Hub's rules do not allow
        raise RemoteError("the request to the Hub failed", path=where, got=reason(error)) from error


def refusal(status: int, known: bool) -> tuple[str, str | None]:
    """What the status of an answer that refuses means, and what to do; ``known``: a token was sent."""
    login = "set HF_TOKEN or run `hf auth login`"
    if status == 401:
        return "the server does not accept who asks", f"check the token: {login}" if known else login
    if status == 403:
        return "access is forbidden", "use a token with the right to do this" if known else login
    if status == 404:
        return "there is no such file", "check the name"
    if status == 429:
        return "the server has had too many requests", "wait a while" + ("" if known else f", or {login}")
    return ("the server has a fault", "try again later") if status >= 500 else ("the server refuses", None)


_OFFLINE = "check the network; HF_HUB_OFFLINE=1 takes what is in the cache already"


def reason(error: BaseException) -> str:
    """What an error says, in one line; its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@lru_cache(maxsize=1)
def _agent() -> dict[str, Any]:
    import gguflike

    return {"library_name": "gguflike", "library_version": gguflike.__version__}


def api() -> HfApi:
    """The Hub's API."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), **_agent())


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE, or what it stands for, says that no server is to be asked."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _cache_of(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _remember(repository: Repository) -> None:
    """Write down in the cache to which commit a branch or tag points, as huggingface_hub does, for offline mode."""
    path = _cache_of(repository.id) / "refs" / repository.revision
    with suppress(OSError):  # a cache that others made, and that we may only read
        if repository.revision != repository.commit and not (path.exists() and path.read_text() == repository.commit):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(repository.commit)


def _cached_repository(repo: str, revision: str | None) -> Repository:
    """What the cache has of a repository, by its documented layout: refs/<name> holds a commit, snapshots/<commit> the
    files."""
    folder = _cache_of(repo)
    commit = revision or DEFAULT_REVISION
    with suppress(OSError, ValueError):
        commit = (folder / "refs" / commit).read_text("utf-8").strip()
    snapshot = folder / "snapshots" / commit
    if not snapshot.is_dir():
        raise RemoteError(
            "not in the cache, and offline mode is on",
            path=f"{repo}@{revision}" if revision else repo,
            remedy="unset HF_HUB_OFFLINE to fetch it",
        )
    paths = [path for path in snapshot.rglob("*") if path.is_file()]
    files = {path.relative_to(snapshot).as_posix(): RepositoryFile(path.stat().st_size) for path in paths}
    return Repository(repo, commit, files, revision or DEFAULT_REVISION, offline=True)
