"""A server on a thread with a tiny model, and the plainest of clients: what it sends is what the test says."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gguflike.serve import Server, Settings
from tests import tiny_gguf

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 512


def model(folder: Path, name: str = "tiny.gguf", **changes: Any) -> Path:
    path = folder / name
    tiny_gguf.write(path, "Q8_0", **{"seed": 5, "n_ctx": CONTEXT, "template": TEMPLATE, **changes})
    return path


@contextlib.contextmanager
def serving(path: Path | None, **settings: Any) -> Iterator[Server]:
    given = {"port": 0, "threads": 1, "context": CONTEXT, "grace": 1.0, **settings}
    with Server(Settings(model=None if path is None else str(path), **given)) as server:
        yield server


class Answer:
    """Status, headers (names in lower case) and body of a response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.data = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """The documents of a stream of events; "[DONE]" as text."""
        lines = [line[6:] for line in self.data.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def ask(server: Server, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Send a request: ``body`` as JSON unless it is bytes. Underscores in names of headers are dashes."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        named.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, data, named)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def post(server: Server, path: str, body: Any = None, **headers: str) -> Answer:
    return ask(server, "POST", path, body, **headers)


def get(server: Server, path: str, **headers: str) -> Answer:
    return ask(server, "GET", path, **headers)


def says(text: str = "hi", **more: Any) -> dict[str, Any]:
    """A body for chat."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8, **more}


CHAT = "/v1/chat/completions"

LONG = 100_000  # a context that takes minutes to fill


def endless(stream: bool, text: str = "hi") -> dict[str, Any]:
    return {**says(text, stream=stream, ignore_eos=True), "max_tokens": LONG - 1000}


def begin(server: Server, body: Any, path: str = CHAT) -> socket.socket:
    """Send a request, and do not wait for the answer."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(head.encode() + b"\r\n" + data)
    return connection


def engine(server: Server) -> Any:
    return server.models.loaded[0].engine


def idle(server: Server) -> bool:
    stats = engine(server).stats()
    return not stats.slots and not stats.waiting and server.models.loaded[0].users == 0
