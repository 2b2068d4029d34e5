"""Server-sent events, and work that ends when whoever asked for it has gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from gguflike.serve.bodies import encoded
from gguflike.serve.errors import ApiError, ClientLeft, of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")

#: Proxies close connections that say nothing for 60 s.
PING_SECONDS = 10.0
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def data(document: Any) -> bytes:
    """An event of OpenAI's interface."""
    return b"data: " + encoded(document) + b"\n\n"


class Frame:
    """An event of OpenAI's interface that comes again and again with another text in it: ``make(text)`` is the
    document, of which all but the text is encoded once."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._before, _, self._behind = data(make(_HOLE)).partition(encoded(_HOLE))

    def __call__(self, text: str) -> bytes:
        return self._before + encoded(text) + self._behind


_HOLE = "\0"  # occurs in no name


def event(name: str, document: Any) -> bytes:
    """An event with a name, as of Anthropic's interface and of responses."""
    return b"event: " + name.encode() + b"\ndata: " + encoded(document) + b"\n\n"


def comment(text: str) -> bytes:
    """What keeps the connection alive and clients ignore."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """What ``work`` comes to. It is cancelled, and ClientLeft raised, when the client leaves before that.

    The body must have been read: all that ``receive`` can still say is that the client has left.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await working
        del working  # it holds the error, whose frames, this one among them, would hold it and all of the request


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """A response of events, with a comment wherever nothing is said for ``PING_SECONDS``.

    ``close`` is called at the end, also when the client leaves and when the server ends. ``failed`` makes of an
    exception what stands in the stream in place of its end.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        failed: Callable[[ApiError], bytes],
        close: Callable[[], None],
    ) -> None:
        self._events, self._failed, self._close = events, failed, close
        self._said = 0.0

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": PING, "more_body": True})  # with the headers
            await while_connected(receive, self._all(send))
        finally:
            self._close()

    async def _all(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._said = loop.time()
        pinging = asyncio.ensure_future(self._pings(send))
        try:
            async with contextlib.aclosing(self._events) as events:  # type: ignore[type-var]
                async for piece in events:
                    await self._say(send, piece)
        except Exception as error:
            await self._say(send, self._failed(of(error)))
            if of(error).code == "internal_error":
                raise
        finally:
            pinging.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say(self, send: Send, piece: bytes) -> None:
        self._said = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _pings(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wait = self._said + PING_SECONDS - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                await self._say(send, PING)
