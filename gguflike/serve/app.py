"""The application: endpoints as routes behind the guard, the page, and the models' life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from gguflike.serve import bodies
from gguflike.serve.context import Call, Server
from gguflike.serve.endpoints import ENDPOINTS, Endpoint
from gguflike.serve.errors import ApiError
from gguflike.serve.guard import Guard
from gguflike.serve.line import Texts
from gguflike.serve.metrics import Metrics
from gguflike.serve.models import Models
from gguflike.serve.openapi import document
from gguflike.serve.parameters import parsed
from gguflike.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = Path(__file__).with_name("page")
#: Path -> file of the page and its content type.
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/markdown.js": ("markdown.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
#: Nothing but the page's own files, and no request to anybody but this server.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create(settings: Settings, models: Models) -> ASGIApp:
    """The ASGI application that serves ``models``, which are loaded and closed by who made them."""
    server = Server(settings, models, Metrics(), Texts())
    routes = [
        Route(path, _Endpoint(server, endpoint), methods=[endpoint.method])
        for endpoint in ENDPOINTS
        for path in endpoint.paths
    ]
    routes.append(Route("/openapi.json", _openapi))
    if settings.ui:
        routes += [Route(path, _file(name, kind)) for path, (name, kind) in FILES.items()]
    router = Router(routes, redirect_slashes=False)

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = router  # for which the router raises what it would else answer itself
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            raise _nowhere(scope["method"], scope["path"][:200], error) from None

    free = {path for endpoint in ENDPOINTS if endpoint.free for path in endpoint.paths}
    names = {route.path for route in routes}

    def seen(method: str, path: str, status: int, seconds: float) -> None:
        server.metrics.answered(path if path in names else "other", status, seconds)
        if path not in ("/health", "/metrics"):
            settings.log(f"{method} {path[:200]!r} {status} {seconds * 1e3:.0f} ms")

    return Guard(routed, settings, free | FILES.keys() | {"/openapi.json", "/favicon.ico"}, seen)


class _Endpoint:
    """An endpoint as an application, so that nothing stands between what it sends and the guard."""

    def __init__(self, server: Server, endpoint: Endpoint) -> None:
        self._server, self._endpoint = server, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint, request = self._endpoint, Request(scope, receive)
        body: dict[str, Any] = {}
        size = 0
        if endpoint.table is not None and not (endpoint.bare and "content-type" not in request.headers):
            body, size = await bodies.read(request, self._server.settings.max_body)
        made = await endpoint.handler(Call(self._server, request, parsed(body, endpoint.table or ()), size))
        if isinstance(made, tuple):
            made = Response(made[0], media_type=made[1])
        elif isinstance(made, dict | list):
            made = Response(bodies.encoded(made), media_type=bodies.JSON)
        await made(scope, receive, send)


async def _openapi(_: Request) -> Response:
    return Response(bodies.encoded(document()), media_type=bodies.JSON)


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    async def handled(_: Request) -> Response:
        data = await asyncio.to_thread((PAGE / name).read_bytes)
        headers = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
        return Response(data, media_type=kind, headers=headers)

    return handled


def _nowhere(method: str, path: str, error: HTTPException) -> ApiError:
    """404 and 405 of the router."""
    if error.status_code == 405:
        allowed = dict(error.headers or {}).get("Allow", "")
        return ApiError(405, f"{method} is not for {path}; expected {allowed}", headers={"allow": allowed})
    return ApiError(error.status_code, f"there is no {path}; /openapi.json lists what there is", code="not_found")
