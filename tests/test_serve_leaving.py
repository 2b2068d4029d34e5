"""Clients that leave, queues that are full, bodies that are nonsense: the work of others goes on."""

from __future__ import annotations

import http.client
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gguflike.serve import Server
from tests.engines import until
from tests.nonsense import nonsense
from tests.serving import CHAT, CONTEXT, LONG, begin, endless, engine, get, idle, model, post, says, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that works for two at a time, and lets two wait."""
    path = model(tmp_path_factory.mktemp("leaving"), n_ctx=LONG)
    with serving(path, parallel=2, queue=2, context=LONG) as made:
        yield made


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_who_leaves_stops_the_work(server: Server, path: str, stream: bool) -> None:
    body = {**endless(stream), "input": "hi", "max_output_tokens": 90_000}
    if path == "/v1/completions":
        body["prompt"] = "hi"
    cancelled = engine(server).stats().cancelled
    connection = begin(server, body, path)
    until(lambda: any(slot.generated > 2 for slot in engine(server).stats().slots))
    connection.close()
    until(lambda: idle(server))
    assert engine(server).stats().cancelled == cancelled + 1


def test_who_leaves_while_it_asks(tmp_path: Path) -> None:
    """That is nothing wrong of ours, so the log has a line of it and no traceback."""
    said: list[str] = []
    with serving(model(tmp_path), log=said.append) as server:
        asking = socket.create_connection(("127.0.0.1", server.port))
        asking.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode())
        asking.sendall(b'content-length: 99\r\n\r\n{"messages"')
        time.sleep(0.1)
        asking.close()
        until(lambda: any(CHAT in line for line in said))
    (line,) = [line for line in said if CHAT in line]
    assert line.startswith(f"POST {CHAT!r} 499 ")
    assert not any("Traceback" in each for each in said)


def test_who_leaves_stops_nobody_else(server: Server) -> None:
    want = post(server, CHAT, says(max_tokens=60, ignore_eos=True)).json["choices"][0]["message"]["content"]
    leaving = begin(server, endless(True, "other"))
    staying = begin(server, says(max_tokens=60, ignore_eos=True))
    queued = begin(server, endless(False, "third"))
    until(lambda: len(engine(server).stats().slots) == 2)
    queued.close()
    leaving.close()
    response = http.client.HTTPResponse(staying)
    response.begin()
    assert json.loads(response.read())["choices"][0]["message"]["content"] == want
    response.close()
    staying.close()
    until(lambda: idle(server))


def test_a_full_queue_says_when_to_come_again(server: Server) -> None:
    busy = [begin(server, endless(number % 2 == 0, f"text {number}")) for number in range(4)]
    until(lambda: engine(server).stats().waiting == 2)
    for body in (says(), says(stream=True)):
        answer = post(server, CHAT, body)
        assert (answer.status, answer.error["code"]) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
    assert get(server, "/health").status == 200
    assert [slot["is_processing"] for slot in get(server, "/slots").json] == [True, True]
    for connection in busy:
        connection.close()
    until(lambda: idle(server))
    assert post(server, CHAT, says()).status == 200


def test_who_waits_hears_where_it_stands(server: Server) -> None:
    busy = [begin(server, endless(False, f"text {number}")) for number in range(2)]
    until(lambda: len(engine(server).stats().slots) == 2)
    waiting = begin(server, says(stream=True))
    data = b""
    while b": queued 0\n\n" not in data:
        data += waiting.recv(4096)
    assert b": ping\n\n" in data
    for connection in busy:
        connection.close()
    while b"[DONE]" not in data:
        data += waiting.recv(4096)
    waiting.close()
    until(lambda: idle(server))


def test_an_engine_that_stands_still_is_not_healthy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine(server), "health", lambda: 1000.0)
    answer = get(server, "/health")
    assert answer.status == 503
    assert answer.error["type"] == "unavailable_error"
    assert "made no step for 1000 s" in answer.error["message"]
    monkeypatch.setattr(engine(server), "health", lambda: float("inf"))
    assert get(server, "/health").status == 503


def test_a_thousand_bodies_of_nonsense(server: Server) -> None:
    """Every one is refused as the client's fault, and the server works on."""
    rng = random.Random(0)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    seen: dict[int, int] = {}
    for number in range(1000):
        path, data, kind = nonsense(rng)
        connection.request("POST", path, data, {"content-type": kind})
        response = connection.getresponse()
        answer = response.read()
        assert 400 <= response.status < 500, (number, path, data[:200], answer)
        assert json.loads(answer)["error"]["message"]
        seen[response.status] = seen.get(response.status, 0) + 1
        if response.getheader("connection") == "close":
            connection.close()
    connection.close()
    assert seen.keys() == {400, 415}
    assert idle(server)
    assert post(server, CHAT, says()).status == 200


def test_a_server_that_ends_cancels_what_is_left(tmp_path: Path) -> None:
    with serving(model(tmp_path, n_ctx=LONG), context=LONG) as made:
        connection = begin(made, endless(True))
        until(lambda: bool(engine(made).stats().slots))
    data = b""
    while piece := connection.recv(65536):
        data += piece
    connection.close()
    assert b"[DONE]" not in data
    assert CONTEXT < LONG
