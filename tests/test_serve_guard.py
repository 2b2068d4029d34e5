"""Who is let in: keys, hosts, origins, sizes, addresses."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguflike.cli import main
from gguflike.errors import ArgumentError
from gguflike.serve import Server, Settings
from tests.serving import Answer, ask, get, model, post, says, serving

CHAT = "/v1/chat/completions"
BODY = says(max_tokens=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("guard"))


@pytest.fixture(scope="module")
def closed(file: Path) -> Iterator[Server]:
    """A server with two keys."""
    with serving(
        file, api_keys=("secret", "schlüssel", "\udcff"), max_body=2048, cors_origins=("https://app.example",)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def open_one(file: Path) -> Iterator[Server]:
    """A server without keys."""
    with serving(file, ui=False) as made:
        yield made


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret"},
        {"authorization": "bearer secret"},
        {"x_api_key": "secret"},
        {"authorization": "Bearer schlüssel".encode().decode("latin-1")},
        {"authorization": "Bearer made-up", "x_api_key": "secret"},
        {"authorization": "Bearer secret", "x_api_key": "made-up"},
        {"authorization": "Basic dTpw", "x_api_key": "secret"},
        {"x_api_key": "\xff"},
    ],
    ids=str,
)
def test_a_key_lets_in(closed: Server, headers: dict[str, str]) -> None:
    assert post(closed, CHAT, BODY, **headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong", "x_api_key": "wrong"},
        {"authorization": "Bearer wrong"},
        {"authorization": "secret"},
        {"x_api_key": "Secret"},
        {"x_api_key": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/models", "/metrics", "/slots", "/props", "/nothing"])
def test_without_one_nobody_is_let_in(closed: Server, path: str, headers: dict[str, str]) -> None:
    answer = post(closed, path, BODY, **headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    kind = answer.json["error"]["type"]
    assert kind == "authentication_error"
    assert (answer.json.get("type") == "error") == (path == "/v1/messages")


@pytest.mark.parametrize("path", ["/health", "/", "/page.js", "/openapi.json"])
def test_what_needs_no_key(closed: Server, path: str) -> None:
    assert get(closed, path).status == 200


def test_any_key_will_do_where_none_is_set(open_one: Server) -> None:
    for headers in ({}, {"authorization": "Bearer sk-anything"}, {"authorization": "Bearer "}, {"x_api_key": "x"}):
        assert post(open_one, CHAT, BODY, **headers).status == 200


def test_no_page_where_none_is_wanted(open_one: Server) -> None:
    assert get(open_one, "/").status == 404


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST:5", "a.localhost", "127.9.9.9"])
def test_names_of_this_machine(open_one: Server, host: str) -> None:
    assert get(open_one, "/v1/models", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "8.8.8.8", "[2001::1]"]
)
def test_names_that_were_pointed_here(open_one: Server, host: str) -> None:
    answer = get(open_one, "/v1/models", host=host)
    assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")


def as_proxies_ask(server: Server, target: str, host: str = "localhost") -> Answer:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection, method="GET")
        response.begin()
        return Answer(response)


def test_targets_that_are_whole_uris(open_one: Server) -> None:
    for target in ("http://localhost/v1/models", "HTTP://127.0.0.1:8080/v1/models?x=1", "https://[::1]/v1/m%6Fdels"):
        assert as_proxies_ask(open_one, target).json["object"] == "list"
    assert as_proxies_ask(open_one, "http://localhost:1").status == 404  # the root, where no page is
    assert "there is no /;" in as_proxies_ask(open_one, "http://localhost?x=1").error["message"]


def test_slashes_that_stand_for_nothing(open_one: Server, closed: Server) -> None:
    for path in ("/v1/models/", "//v1/models", "/v1//models", "///v1/models//"):
        assert as_proxies_ask(open_one, path).json["object"] == "list"
        assert as_proxies_ask(closed, path).status == 401
    assert as_proxies_ask(closed, "//health/").status == 200
    assert as_proxies_ask(open_one, "http://localhost//v1/models/").status == 200


def test_the_uri_names_the_host_whatever_the_header_says(open_one: Server) -> None:
    assert as_proxies_ask(open_one, "http://localhost/health", host="evil.example").status == 200
    for authority in ("evil.example", "localhost@evil.example", "localhost:x@evil.example:80", ""):
        answer = as_proxies_ask(open_one, f"http://{authority}/health")
        assert (answer.status, answer.error["code"]) == (403, "host_not_allowed"), authority


def test_further_names_may_be_allowed(file: Path) -> None:
    with serving(file, allowed_hosts=("box.lan",)) as server:
        assert get(server, "/health", host="box.lan:80").status == 200
        assert get(server, "/health", host="other.lan").status == 403


def preflight(server: Server, origin: str, **headers: str) -> Any:
    asked = {"access_control_request_method": "POST", "origin": origin, **headers}
    return ask(server, "OPTIONS", CHAT, **asked)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173"])
def test_pages_of_this_machine_may_ask(open_one: Server, origin: str) -> None:
    wanted = "authorization, content-type, x-stainless-os, x-stainless-retry-count"
    answer = preflight(open_one, origin, access_control_request_headers=wanted)
    assert (answer.status, answer.data) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == wanted
    assert "POST" in answer.headers["access-control-allow-methods"]
    real = post(open_one, CHAT, BODY, origin=origin)
    assert (real.status, real.headers["access-control-allow-origin"]) == (200, origin)
    assert "origin" in real.headers["vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"])
def test_other_pages_may_not(open_one: Server, origin: str) -> None:
    assert "access-control-allow-origin" not in preflight(open_one, origin).headers
    assert "access-control-allow-origin" not in get(open_one, "/v1/models", origin=origin).headers


def test_origins_that_were_allowed(closed: Server) -> None:
    assert preflight(closed, "https://app.example").headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in preflight(closed, "http://localhost").headers
    refused = post(closed, CHAT, BODY, origin="https://app.example")  # and a refusal can be read by the page
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")


def test_any_origin(file: Path) -> None:
    with serving(file, cors_origins=("*",)) as server:
        for origin in ("https://app.example", "chrome-extension://abc", "null"):
            assert preflight(server, origin).headers["access-control-allow-origin"] == origin


def sent_at_once(server: Server, length: str, body: bytes) -> Answer:
    """The answer to a request that is sent in one piece: one in several may find the connection closed behind the
    refusal, before all of it was said."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-api-key: secret\r\n{length}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response)


def test_bodies_have_a_limit(closed: Server) -> None:
    large = json.dumps(says("x" * 3000)).encode()
    answer = sent_at_once(closed, f"content-length: {len(large)}", large)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    pieces = (b"3e8\r\n" + b"x" * 1000 + b"\r\n") * 5  # whose length nobody was told
    assert sent_at_once(closed, "transfer-encoding: chunked", pieces + b"0\r\n\r\n").status == 413


def test_requests_have_ids(open_one: Server) -> None:
    assert get(open_one, "/health", x_request_id="abc-1").headers["x-request-id"] == "abc-1"
    made = [get(open_one, "/health", x_request_id="a b").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert get(open_one, "/nothing").headers["x-request-id"].startswith("req_")


def test_no_address_for_others_without_a_key() -> None:
    with pytest.raises(ArgumentError, match="no key is asked") as caught:
        Settings(model="x", host="0.0.0.0")
    assert caught.value.field == "host"
    for more in ({"no_auth": True}, {"api_keys": ("k",)}):
        assert not Settings(model="x", host="0.0.0.0", **more).local
    with pytest.raises(ArgumentError, match="an empty key"):
        Settings(model="x", api_keys=(" ",))


def test_the_command_line_says_so_too(file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", "x.gguf", "--host", "0.0.0.0"]) == 2
    assert "--api-key KEY, or say --no-auth" in capsys.readouterr().err
    assert main(["serve"]) == 2
    assert "FILE is required" in capsys.readouterr().err
    keys = tmp_path / "keys"
    keys.write_text("\n")
    assert main(["serve", "x.gguf", "--api-key-file", str(keys)]) == 2
    assert "holds no key" in capsys.readouterr().err
    keys.write_bytes(b"\xff")
    assert main(["serve", "x.gguf", "--api-key-file", str(keys)]) == 2
    assert "keys: byte 0: this is no UTF-8" in capsys.readouterr().err
    gone = str(tmp_path / "gone")
    for options, told in (
        (["--api-key", ""], "--api-key: an empty key"),
        (["--models-dir", gone], f"--models-dir: no such folder; got {gone}"),
        (["--slot-save-path", gone], "gone, --slot-save-path: no such folder"),
    ):
        assert main(["serve", str(file), "--port", "0", *options]) == 2
        assert told in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none.gguf"), "--port", "0"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_an_address_that_is_taken(file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use") as caught:
            Server(Settings(model=str(file), port=taken.getsockname()[1]))
        assert caught.value.filename == f"127.0.0.1:{taken.getsockname()[1]}"


def test_small_answers_are_not_held_back(open_one: Server) -> None:
    """Nagle's algorithm and delayed acknowledgements would make each answer on an open connection take 40 ms."""
    connection = http.client.HTTPConnection("127.0.0.1", open_one.port, timeout=30)
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        connection.request("POST", CHAT, b"{}", {"content-type": "application/json"})
        assert connection.getresponse().read()
        took.append(time.perf_counter() - begin)
    connection.close()
    assert sorted(took)[2] < 0.03


def test_this_machine_s_sites_beside_others(file: Path) -> None:
    with serving(file, cors_origins=("localhost", "https://app.example")) as server:
        for origin in ("http://localhost:3000", "http://[::1]", "https://app.example"):
            assert preflight(server, origin).headers["access-control-allow-origin"] == origin
        for origin in ("http://localhost.evil.example", "https://evil.example"):
            assert "access-control-allow-origin" not in preflight(server, origin).headers
