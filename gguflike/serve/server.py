"""The server as a process: an address, signals, an end."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import uvicorn

from gguflike.chat.template import keep_ready
from gguflike.machine import trim_heap
from gguflike.serve.app import create
from gguflike.serve.models import Models
from gguflike.serve.settings import Settings

if TYPE_CHECKING:
    from gguflike.progress import Progress

TIDY_SECONDS = 10
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep idle connections, which else use one that is gone


class _Uvicorn(uvicorn.Server):
    """Ends when it is asked to, and leaves it at that: uvicorn would send itself the signal again afterwards."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        self.force_exit = self.should_exit  # asked a second time
        self.should_exit = True


class Server:
    """A server with an address of its own. `run` serves until a signal; as a context manager it serves on a thread.

    OSError where the address cannot be had, which is at once. ``models`` is what it serves, ``port`` the port that it
    has, ``url`` its address.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = Models(settings)
        self._error: BaseException | None = None
        self._ready = threading.Event()
        self._socket = _listening(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            create(settings, self.models),
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(settings.grace)),
        )
        self._server = _Uvicorn(config)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches the server, such as "http://localhost:8080"."""
        host = self.settings.host
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}"

    def load(self, progress: Progress | None = None) -> None:
        """Load the model that is always there, as `run` does unless it is loaded. Errors as of `gguflike.load`."""
        try:
            self.models.start(progress)
        except BaseException:
            self._socket.close()
            raise

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM: then nothing new is accepted, answers in progress have ``grace`` seconds to
        end, and are cut after that. A second signal cuts them at once."""
        try:
            with keep_ready():
                self.load()
                asyncio.run(self._serve())
        finally:
            self._socket.close()

    async def _serve(self) -> None:
        tidying = asyncio.ensure_future(self._tidy())
        try:
            self.settings.log(f"serving on {self.url}")
            self._ready.set()
            await self._server.serve(sockets=[self._socket])
        finally:
            tidying.cancel()
            await self.models.close()

    async def _tidy(self) -> None:
        """Give memory back that requests have left, now and then, also while there are always some."""
        seen = 0
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            answered = self._server.server_state.total_requests
            if answered != seen:
                seen = answered
                await asyncio.to_thread(trim_heap)

    def __enter__(self) -> Server:
        def serve() -> None:
            try:
                self.run()
            except BaseException as error:
                self._error = error
            finally:
                self._ready.set()

        self._thread = threading.Thread(target=serve, name="gguflike-serve", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        assert self._thread is not None
        self._thread.join()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens on the address. OSError names it where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only of a socket that says that it is TCP does asyncio switch off what holds small packets back for 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    return listening
