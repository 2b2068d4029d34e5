"""What stands before every endpoint, as plain ASGI: hosts, origins and keys are checked, failures become answers.

A page of any site can make a browser send requests to this machine. Three things keep it out: the Host header must be
a name of this machine where only it can reach the server (else the page's own name could be pointed here), origins must
be allowed, and bodies must be declared as JSON, which browsers ask leave for.
"""

from __future__ import annotations

import fnmatch
import hmac
import re
import time
import traceback
import uuid
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from gguflike.serve.bodies import JSON, encoded, too_large
from gguflike.serve.errors import ApiError, ClientLeft, of
from gguflike.serve.settings import Settings, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Headers = list[tuple[bytes, bytes]]

METHODS = b"GET, POST, OPTIONS"
EXPOSED = b"x-request-id, retry-after"
#: In `cors_origins` any site of this machine, which is all where nothing is said.
THIS_MACHINE = "localhost"
PREFLIGHT_SECONDS = b"600"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^/@]*)", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/.*)?", re.IGNORECASE)
_CLOSED_BY_CLIENT = 499  # nginx's number, for the log


class Guard:
    """``open_paths`` need no key. ``seen(method, path, status, seconds)`` hears of every answer."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        open_paths: Iterable[str],
        seen: Callable[[str, str, int, float], None],
    ) -> None:
        self._app, self._settings, self._seen = app, settings, seen
        self._open = frozenset(open_paths)
        # Whatever bytes the command line had.
        self._keys = [key.encode("utf-8", "surrogateescape") for key in settings.api_keys]
        self._hosts = {settings.host.lower().strip("[]"), *(host.lower() for host in settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = _as_meant(scope)
        headers = dict(scope["headers"])
        begin, path, status = time.monotonic(), scope["path"], 0
        added: Headers = [(b"x-request-id", _request_id(headers)), (b"x-content-type-options", b"nosniff")]

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        try:
            self._check_host(headers)
            added += self._cors(headers)
            if scope["method"] == "OPTIONS":
                await _empty(sending, _preflight(headers))
                return
            self._check_key(path, headers)
            self._check_length(headers)
            await self._app(scope, receive, sending)
        except ClientLeft:
            status = status or _CLOSED_BY_CLIENT
        except Exception as error:
            # No name but this one, which ends here: with another the error, its frames and all that these hold (say, a
            # prompt of megabytes) would keep each other until the garbage is collected.
            if of(error).code == "internal_error":
                self._settings.log("".join(traceback.format_exception(error)).rstrip())
            if not status:
                await answer(sending, of(error), path)
        finally:
            self._seen(scope["method"], path, status, time.monotonic() - begin)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        if not self._settings.local or b"host" not in headers:  # browsers always send one
            return
        host = _without_port(headers[b"host"].decode("latin-1")).lower()
        if not (is_loopback(host) or host in self._hosts):
            raise ApiError(
                403,
                f"the Host header names {host[:80]!r}, but this server answers to this machine's own names only; "
                "--allowed-hosts adds others",
                code="host_not_allowed",
            )

    def _cors(self, headers: dict[bytes, bytes]) -> Headers:
        """Headers that let the origin read the answer, none where it may not."""
        if b"origin" not in headers:
            return []
        origin = headers[b"origin"].decode("latin-1")
        if not self._allowed(origin):
            return [(b"vary", b"origin")]
        return [
            (b"access-control-allow-origin", headers[b"origin"]),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"origin"),
        ]

    def _allowed(self, origin: str) -> bool:
        patterns = self._settings.cors_origins or (THIS_MACHINE,)
        if any(pattern == "*" or fnmatch.fnmatchcase(origin, pattern) for pattern in patterns):
            return True
        found = _ORIGIN.fullmatch(origin)
        return THIS_MACHINE in patterns and found is not None and is_loopback(_without_port(found[1]))

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if not self._keys or path in self._open:
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = [token] if scheme.lower() == b"bearer" else []
        given.append(headers.get(b"x-api-key", b""))  # some clients send both, and something made up as one of them
        # Every key is compared, and each in the same time however much of it is right.
        fits = [hmac.compare_digest(each.strip(), key) for each in given for key in self._keys]
        if not any(fits):
            raise ApiError(
                401,
                "no key, or a wrong one: send it as Authorization: Bearer KEY, or as x-api-key: KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _check_length(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.max_body:
            raise too_large(self._settings.max_body)


def _as_meant(scope: Scope) -> Scope:
    """A request by the path that it means. Slashes that stand for nothing, as clients put them between an address and
    a path, are left out. Of one that names the whole URI, as proxies send it, the path is the URI's, and its authority
    stands for the Host header, whatever that says (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
    if found is not None:
        scope = _of_origin(scope, found)
    path = re.sub("//+", "/", scope["path"])
    return {**scope, "path": path.rstrip("/") or "/"}


def _of_origin(scope: Scope, found: re.Match[bytes]) -> Scope:
    authority, path = found[1], found[2] or b"/"
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    headers.append((b"host", authority.rpartition(b"@")[2]))
    return {**scope, "raw_path": path, "path": unquote_to_bytes(path).decode("utf-8", "replace"), "headers": headers}


def _without_port(host: str) -> str:
    """The name or address of "name:port", "[::1]:port" or either without a port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    """The client's own id of the request, if it is one to repeat."""
    given = headers.get(b"x-request-id", b"")
    return given if re.fullmatch(rb"[\w.:-]{1,128}", given) else f"req_{uuid.uuid4().hex}".encode()


def _preflight(headers: dict[bytes, bytes]) -> Headers:
    """What any origin hears; whether it may go on is told by the origin that is allowed, or not."""
    asked = headers.get(b"access-control-request-headers", b"*")  # whatever it asks for: x-stainless-... among them
    return [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", asked),
        (b"access-control-max-age", PREFLIGHT_SECONDS),
        (b"allow", METHODS),
    ]


async def _empty(send: Send, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, (b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def answer(send: Send, error: ApiError, path: str) -> None:
    """Send an error as the answer."""
    body = encoded(error.body(path))
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
