"""A file behind a URL, read by ranges: what is cut continues at the byte it reached, and all of it is of one state.

A file of the Hub is asked for at a commit, which never changes. The Hub sends one on to a storage elsewhere, by a link
that expires: it is kept as long as it works, then renewed, and never sees the token. Of any other file, size and ETag
must stay what the first answer said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Event
from typing import Any, NoReturn

from gguflike.checkpoint.hub import client, redirects, reference, retry
from gguflike.checkpoint.hub.listing import DEFAULT_REVISION, Repository
from gguflike.checkpoint.hub.retry import LEAST, Attempts, retry_after
from gguflike.errors import ChangedError, RemoteError

CONNECTIONS = 8
PART = 4 << 20  # bytes of a request; a larger piece is read by several at a time
SKIPPED = 32 << 20  # bytes thrown away at most, of a server that sends files whole whatever part is asked for
EXPIRED = (400, 401, 403, 404, 410)  # what storages answer to a link that is too old

_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)")


class RemoteFile:
    """A file behind ``url``, called ``name`` in errors.

    ``size`` in bytes and ``etag``, a digest without quotes, are what the file must have, where that is known before.
    """

    def __init__(self, name: str, url: str, size: int | None = None, etag: str | None = None) -> None:
        self.name = name
        self.url = url
        self.etag = etag
        self._size = size
        self._location: str | None = None  # where the Hub sent us last
        self._outside = False  # whether that must not turn out to be in this machine's network
        self.received = 0  # bytes of it that came so far, those that were not asked for among them

    @property
    def size(self) -> int:
        """Bytes of the file, which the server is asked for where they are not known."""
        if self._size is None:
            self.read_part(0, memoryview(bytearray(1)))
        assert self._size is not None
        return self._size

    def read(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset`` on, fewer at the end of the file. Errors as of ``read_into``."""
        data = bytearray(max(min(count, self.size - offset), 0))
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` with the bytes from ``offset`` on, on several connections where it is large.

        RemoteError where they cannot be had, or are not those of the file that was asked for first.
        """
        if offset + len(view) > self.size:
            self._changed("bytes", f"at least {offset + len(view)}", self.size)
        if len(view) <= PART:
            self.read_part(offset, view)
            return
        parts = [(start, view[start : start + PART]) for start in range(0, len(view), PART)]
        stop = Event()
        futures = [pool().submit(self.read_part, offset + start, part, stop) for start, part in parts]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            stop.set()
            wait(futures)  # nothing writes into the caller's memory any more

    def read_part(self, offset: int, view: memoryview, stop: Event | None = None) -> None:
        """Fill ``view`` by one request, and as many more as it takes; at the end of the file, only its beginning.
        RemoteError also where ``stop`` is set meanwhile."""
        attempts = Attempts(self.name, stop)
        done = 0
        while done < len(view):
            attempts.check()
            count, failure, after = self._request(offset + done, view[done:], attempts)
            done += count
            if count >= LEAST or done == len(view):
                attempts.succeeded()
            if self._size is not None:
                view = view[: max(self._size - offset, 0)]
            if failure is not None and done < len(view):
                attempts.failed(failure, after)

    def _request(
        self, offset: int, view: memoryview, attempts: Attempts
    ) -> tuple[int, RemoteError | None, float | None]:
        """One request: the number of bytes it gave, and where it gave too few, why, and how long the server asks to
        wait. What sends us elsewhere gives none, and says where to ask next."""
        location = self._location or self.url
        sent = self._headers(location, offset, offset + len(view))
        done = 0
        try:
            with client.get(self.name, location, sent, outside=location != self.url and self._outside) as answer:
                if answer.status_code in redirects.MOVED:
                    attempts.redirected()
                    self._follow(location, answer.headers)
                    return 0, None, None
                if answer.status_code in EXPIRED and location != self.url:
                    attempts.renewed(self._refused(answer))
                    self._location = None
                    return 0, None, None
                if answer.status_code in client.AGAIN:
                    return 0, self._refused(answer), retry_after(answer.headers)
                for chunk in self._chunks(answer, offset, location):
                    attempts.check()
                    self.received += len(chunk)
                    count = min(len(chunk), len(view) - done)
                    view[done : done + count] = chunk[:count]
                    done += count
                    if done == len(view):
                        break
            return done, self._cut("the server closed it", done, len(view)), None
        except client.transport_errors() as error:
            if not done:
                self._location = None  # the server behind it may be gone
            return done, self._cut(client.reason(error), done, len(view)), None
        except client.address_errors() as error:
            raise RemoteError("not an address", path=self.name, got=f"{location[:80]} ({error})") from error
        except OSError as error:  # offline mode
            raise RemoteError("cannot be read", path=self.name, got=str(error).partition(". ")[0]) from error

    def _headers(self, url: str, start: int, stop: int) -> dict[str, str]:
        sent = client.headers(url) | {"Accept-Encoding": "identity"}
        return sent | {"Range": f"bytes={start}-{stop - 1}"}

    def _follow(self, location: str, headers: Mapping[str, str]) -> None:
        """Remember where a redirect leads, once what it says of the file is right."""
        if reference.is_hub(location):
            self._check_stated(headers.get("x-linked-etag"), headers.get("x-linked-size"))
        self._location, self._outside = redirects.target(self.name, location, headers.get("location"))

    def _chunks(self, answer: Any, start: int, location: str) -> Any:
        """The bytes from ``start`` on of an answer that has them. RemoteError for any other."""
        if answer.status_code == 206:
            match = _RANGE.fullmatch(answer.headers.get("content-range") or "")
            encoded = answer.headers.get("content-encoding", "identity") != "identity"
            if match is None or retry.whole_number(match[1]) != start or encoded:
                raise RemoteError(
                    "the server sends another part than it was asked for",
                    path=self.name,
                    expected=f"the bytes from {start} on",
                    got=str(answer.headers.get("content-range"))[:80] + (", encoded" if encoded else ""),
                )
            self._check_answer(answer.headers, None if match[3] == "*" else match[3], location)
            return retry.paced(self.name, answer.iter_raw())
        if answer.status_code == 200:
            self._check_answer(answer.headers, answer.headers.get("content-length"), location)
            return self._skipping(answer, start)
        if answer.status_code == 416:
            if self._size is None and (answer.headers.get("content-range") or "").endswith("/0"):
                self._size = 0
                return ()
            self._changed("bytes", f"at least {start + 1}", answer.headers.get("content-range"))
        raise self._refused(answer)

    def _skipping(self, answer: Any, count: int) -> Any:
        """What follows the first ``count`` bytes of a file that the server sends whole."""
        if count > SKIPPED:
            raise RemoteError(
                "the server sends files whole, not the parts that are asked for",
                path=self.name,
                remedy="download it: --cache, or cache=True, keeps a copy",
            )
        for chunk in retry.paced(self.name, answer.iter_bytes()):
            if len(chunk) > count:
                yield chunk[count:]
            count = max(count - len(chunk), 0)

    def _check_answer(self, headers: Mapping[str, str], size: str | None, location: str) -> None:
        # Storages behind the Hub have ETags of their own.
        own = not reference.is_hub(self.url) or reference.is_hub(location)
        etag = headers.get("x-linked-etag") or headers.get("etag")
        encoded = headers.get("content-encoding", "identity") != "identity"
        self._check_stated(etag if own else None, None if encoded else size)
        if self._size is None:
            raise RemoteError(
                "the server does not say how large the file is, so that no part of it can be asked for",
                path=self.name,
                remedy="download the file, and give its path",
            )

    def _check_stated(self, etag: str | None, size: str | None) -> None:
        """Compare with what is known of the file, or take it as that."""
        count = retry.whole_number(size)
        if count is not None:
            if self._size not in (None, count):
                self._changed("bytes", self._size, count)
            self._size = count
        if etag and not etag.startswith("W/"):  # weak ones may differ between servers of the same file
            etag = etag.strip('"')
            if self.etag not in (None, etag):
                self._changed("ETag", self.etag, etag)
            self.etag = etag

    def _changed(self, what: str, expected: object, got: object) -> NoReturn:
        raise ChangedError(
            "the file is not what it was, or what the Hub's list of files says",
            path=self.name,
            field=what,
            expected=expected,
            got=got,
            remedy="start anew",
        )

    def _refused(self, answer: Any) -> RemoteError:
        what, remedy = client.refusal(answer.status_code, client.has_token())
        return RemoteError(what, path=self.name, got=f"HTTP status {answer.status_code}", remedy=remedy)

    def _cut(self, reason: str, done: int, count: int) -> RemoteError:
        return RemoteError(
            "the connection fails",
            path=self.name,
            got=f"{done:,} of {count:,} bytes ({reason})",
            remedy="check the network and start again",
        )


def pool() -> ThreadPoolExecutor:
    """The threads that read parts, of this process: a child that was forked has none of its parent's."""
    return _pool(os.getpid())


@lru_cache(maxsize=1)
def _pool(_: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="gguflike-hub")


def place(repository: Repository, file: str) -> str:
    """What a file of a repository is called where a path is asked for: ``hf://org/name@commit/file``."""
    name, stated = f"hf://{repository.id}@{repository.commit}/{file}", repository.files[file]
    _files.setdefault((os.getpid(), name), RemoteFile(name, _url(name), stated.size, stated.sha256 or stated.blob))
    return name


def opened(name: str, size: int | None = None) -> RemoteFile:
    """The file of that name: ``hf://org/name@revision/file`` or a URL. The same one is given again in a process."""
    key = (os.getpid(), name)
    return _files.get(key) or _files.setdefault(key, RemoteFile(name, _url(name), size))


def _url(name: str) -> str:
    found = reference.parse(name)
    assert found is not None
    return found.url or client.url_of(found.repo, found.revision or DEFAULT_REVISION, found.file or "")


_files: dict[tuple[int, str], RemoteFile] = {}
