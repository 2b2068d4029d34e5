"""How often a request that failed is made again, and after how long."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from email.utils import parsedate_to_datetime
from threading import Event
from typing import NoReturn, TypeVar

from gguflike.errors import RemoteError

T = TypeVar("T")

REDIRECTS = 8  # that one answer may take
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds after each failure in a row
LEAST = 1024  # bytes a second that a server must send, and bytes of an answer that count as progress
PATIENCE = 60.0  # seconds over which that is looked at
LONGEST_WAIT = 300.0  # seconds; what a server may ask for. The Hub counts requests in windows of five minutes


def wait(seconds: float, stop: Event | None) -> None:
    """Wait, but no longer than until ``stop`` is set."""
    (stop or Event()).wait(seconds)


class Attempts:
    """Counts failures in a row; what makes progress starts anew. ``stop`` is set when nobody wants the answer any more,
    which is a RemoteError."""

    def __init__(self, name: str, stop: Event | None = None) -> None:
        self.name = name
        self.stop = stop
        self.failures = 0
        self.redirects = self.renewals = 0

    def succeeded(self) -> None:
        self.failures = self.redirects = self.renewals = 0

    def check(self) -> None:
        """RemoteError where nobody wants the answer any more."""
        if self.stop is not None and self.stop.is_set():
            raise RemoteError("stopped", path=self.name)

    def redirected(self) -> None:
        """RemoteError where the server sends us from one address to the next without end."""
        self.redirects += 1
        if self.redirects > REDIRECTS:
            raise RemoteError("the server redirects without end", path=self.name, got=f"{self.redirects} redirections")

    def renewed(self, error: RemoteError) -> None:
        """Raise ``error`` where a link that has expired was renewed, and is refused again."""
        self.renewals += 1
        if self.renewals > 1:
            raise error

    def failed(self, error: RemoteError, after: float | None = None, most: int = len(WAITS)) -> None:
        """Wait as long as the server asks (``after``, seconds), or longer from failure to failure; raise ``error``
        where it is one more than ``most``, or the wait too long."""
        if self.failures >= most:
            self._give_up(error, f"{self.failures + 1} times in a row")
        if after is not None and after > LONGEST_WAIT:
            self._give_up(error, f"the server asks to wait for {after:.0f} s")
        wait(WAITS[self.failures] if after is None else after, self.stop)
        self.check()
        self.failures += 1
        self.redirects = 0

    def _give_up(self, error: RemoteError, why: str) -> NoReturn:
        got = f"{error.got}, {why}" if error.got is not None else why
        raise RemoteError(error.what, path=error.path or self.name, got=got, remedy=error.remedy) from error.__cause__


def paced(name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks as they come. RemoteError where they come slower than LEAST bytes a second for PATIENCE seconds: a
    server that sends a byte now and then would keep us waiting for years."""
    begun, count = time.monotonic(), 0
    for chunk in chunks:
        count += len(chunk)
        seconds = time.monotonic() - begun
        if seconds >= PATIENCE:
            if count < LEAST * seconds:
                raise RemoteError(
                    "the server sends too slowly",
                    path=name,
                    expected=f"{LEAST:,} bytes a second",
                    got=f"{count:,} bytes in {seconds:.0f} s",
                    remedy="check the network and start again",
                )
            begun, count = time.monotonic(), 0
        yield chunk


def bounded(name: str, chunks: Iterable[bytes], most: int, seconds: float) -> Iterator[bytes]:
    """The chunks as they come. RemoteError where they are more than ``most`` bytes, come too slowly as of `paced`, or
    for more than ``seconds``."""
    begun, count = time.monotonic(), 0
    for chunk in paced(name, chunks):
        count += len(chunk)
        taken = time.monotonic() - begun
        if count > most or taken > seconds:
            raise RemoteError(
                "the server's answer does not end",
                path=name,
                expected=f"at most {most:,} bytes in {seconds:.0f} s",
                got=f"{count:,} bytes in {taken:.0f} s, and more to come",
            )
        yield chunk


def within(name: str, seconds: float, get: Callable[[], T], stop: Event) -> T:
    """What ``get`` gives. RemoteError where that takes more than so many seconds: libraries bound the time between two
    pieces of an answer, and not that of all of it. ``get`` runs in a thread of its own, which is left behind then, and
    where this is interrupted: ``stop`` is set for it."""
    came: Future[T] = Future()

    def run() -> None:
        try:
            came.set_result(get())
        except BaseException as error:
            came.set_exception(error)

    threading.Thread(target=run, name="gguflike-hub-download", daemon=True).start()
    try:
        return came.result(seconds)
    except TooLate:
        if came.done():  # its own
            raise
        got = f"not all of it in {seconds:.0f} s"
        remedy = "check the network and start again"
        raise RemoteError("the server sends too slowly", path=name, got=got, remedy=remedy) from None
    finally:
        stop.set()


def whole_number(text: str | None) -> int | None:
    """The number that a header says, None for anything that is none, or more than any file has bytes."""
    return int(text) if text is not None and re.fullmatch(r"\s*[0-9]{1,18}\s*", text) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait (Retry-After, a number or a date), or None."""
    stated = headers.get("retry-after") or ""
    seconds = whole_number(stated)
    if seconds is not None:
        return float(seconds)
    try:
        return max(parsedate_to_datetime(stated).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
