"""A Hub, or a server behind a URL, that wishes us ill: whatever it answers, a command ends with one sentence."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import close_session

from gguflike.checkpoint.hub import client, downloads, listing, redirects, remote, retry
from gguflike.cli import main
from gguflike.errors import RemoteError
from tests import hub_server, tiny, tiny_gguf
from tests.hub_server import Answer, Handler, Hub

COMMIT = "c0ffee" * 7  # 42 digits, as no algorithm has, and as good as any


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("GGUFLIKE_CACHE_DIR", str(tmp_path / "ours"))
    with hub_server.in_use(monkeypatch, tmp_path) as running:
        yield running


def ranged(said: str, **headers: str) -> Answer:
    """The right bytes, and another Content-Range."""

    def answer(handler: Handler, body: bytes) -> None:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.reply(206, handler.part(body), {"Content-Range": said, **more})

    return answer


def raw(*lines: str, body: bytes = b"") -> Answer:
    """An answer as it is written here."""

    def answer(handler: Handler, _: bytes) -> None:
        handler.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        handler.close_connection = True

    return answer


def encoded(handler: Handler, body: bytes) -> None:
    handler.reply(206, gzip.compress(handler.part(body)), {**said(handler, body), "Content-Encoding": "gzip"})


BOMB = gzip.compress(bytes(1 << 26), 1)


def bomb(handler: Handler, _: bytes) -> None:
    """The whole file, which 64 KiB on the way become 64 MiB of."""
    handler.reply(200, BOMB, {"Content-Encoding": "gzip"})


def said(handler: Handler, body: bytes) -> dict[str, str]:
    return {"Content-Range": handler.range_of(body)[2]}


DIGITS = "9" * 5000  # more than Python makes a number of
#: What is answered to every request for a file, and what is said about it.
ANSWERS: dict[str, tuple[Answer, str]] = {
    "redirect to a file": (hub_server.status(302, Location="file:///etc/passwd"), "redirects to what is no address"),
    "redirect to nothing": (hub_server.status(302), "redirects to what is no address"),
    "redirect to brackets": (
        hub_server.status(302, Location="http://[::1"),
        "redirects to what is no address|not an addr|Invalid URL",
    ),
    "redirect to a port": (hub_server.status(302, Location="http://localhost:99999999/"), "no address"),
    "redirect to letters": (hub_server.status(302, Location="http://localhost:port/"), "no address|Invalid URL"),
    "redirect to a name": (hub_server.status(302, Location="http://xn--/"), "not an address|connection fails"),
    "range of too many digits": (ranged(f"bytes 0-{DIGITS}/{DIGITS}"), "does not say how large|another part"),
    "range from too many digits": (ranged(f"bytes {DIGITS}-{DIGITS}/{DIGITS}"), "another part"),
    "range of other digits": (ranged("bytes \xb2-\xb3/\xb2"), "another part"),
    "range of another part": (
        ranged("bytes 7-99/100"),
        "another part than it was asked for; expected the bytes from 0",
    ),
    "no range": (raw("HTTP/1.1 206 Partial", "Content-Length: 4", body=b"GGUF"), "another part"),
    "encoded": (encoded, "another part than.*, encoded"),
    "no length": (raw("HTTP/1.1 200 OK", "Content-Type: x/y", body=b"GGUF"), "does not say how large"),
    "length of two kinds": (raw("HTTP/1.1 200 OK", "Content-Length: 3", "Content-Length: 9"), "connection fails"),
    "length of letters": (raw("HTTP/1.1 200 OK", "Content-Length: many", body=b"GGUF"), "connection fails|how large"),
    "length too large": (raw("HTTP/1.1 200 OK", "Content-Length: 99", body=b"GGUF"), "connection fails|header"),
    "no HTTP": (raw("SSH-2.0-OpenSSH_9.6"), "connection fails"),
    "too many headers": (
        raw("HTTP/1.1 200 OK", *(f"x-{i}: {'y' * 100}" for i in range(5000))),
        "connection fails|large",
    ),
    "redirects without end": (hub_server.status(302, Location="/m.gguf?"), "redirects without end|no address"),
    "retry of too many digits": (hub_server.status(503, Retry_After=DIGITS), "the server has a fault"),
    "retry of other digits": (hub_server.status(503, Retry_After="\xb2"), "the server has a fault"),
    "retry before the flood": (hub_server.status(503, Retry_After="Mon, 01 Jan 0001 00:00:00 +2359"), "has a fault"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_is_answered_for_a_file_is_one_error(
    name: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, expected = ANSWERS[name]
    tiny_gguf.write(tmp_path / "m.gguf")
    hub.files["/m.gguf"] = (tmp_path / "m.gguf").read_bytes()
    hub.fault(r"/m\.gguf", answer, times=10**6)
    url = f"{hub.storage_url}/m.gguf"
    begun = time.process_time()
    for command in (["inspect", url], ["verify", url], ["estimate", url], ["diff", url, "m.gguf"]):
        assert main(command) == 1, command
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = [each for each in printed.err.splitlines() if not each.startswith("fetching")]
        assert re.search(expected, line), line
        assert "internal error" not in line
    assert time.process_time() - begun < 5
    assert not list((tmp_path / "ours").rglob("*.gguf"))


def info(**changes: Any) -> dict[str, Any]:
    """The Hub's answer about a repository that has one file, with changes."""
    file = {"rfilename": "m.gguf", "size": 9, "blobId": "0" * 40}
    return {"id": "org/m", "modelId": "org/m", "sha": COMMIT, "siblings": [file], "tags": [], **changes}


def file(**changes: Any) -> dict[str, Any]:
    return info(siblings=[{"rfilename": "m.gguf", "size": 9, "blobId": "0" * 40, **changes}])


LISTS: dict[str, tuple[Any, str]] = {
    "no JSON": (b"<html>", "makes no sense; got JSONDecodeError"),
    "deep": (b"[" * 100_000, "makes no sense.*too deeply"),
    "a number": (7, "makes no sense"),
    "a list": ([], "makes no sense"),
    "no commit": (info(sha=None), "does not say which commit"),
    "a path as commit": (
        info(sha="../../../../etc"),
        "does not say which commit.*expected 40 hex.*got '../../../../etc'",
    ),
    "a number as commit": (info(sha=7), "does not say which commit"),
    "files are a number": (info(siblings=7), "makes no sense"),
    "files are texts": (info(siblings=["m.gguf"]), "makes no sense"),
    "a file without a name": (info(siblings=[{}]), "makes no sense"),
    "a file's name is a number": (file(rfilename=7), "makes no sense"),
    "a file's size is a text": (file(size="9"), "makes no sense"),
    "a file's size is negative": (file(size=-1), "makes no sense"),
    "a large file's size is a list": (file(lfs={"size": [], "sha256": "0" * 64, "pointerSize": 1}), "makes no sense"),
    "a large file is a text": (file(lfs="x"), "makes no sense"),
    "a digest is a number": (file(lfs={"size": 9, "sha256": 7, "pointerSize": 1}), "makes no sense"),
    "a digest of letters": (file(lfs={"size": 9, "sha256": "z" * 64, "pointerSize": 1}), "makes no sense"),
    "a digest too short": (file(lfs={"size": 9, "sha256": "0" * 40, "pointerSize": 1}), "makes no sense"),
    "a digest too long": (file(blobId="0" * 41), "makes no sense"),
    "no digest at all": (file(blobId=""), "makes no sense"),
    "only names that lead elsewhere": (file(rfilename="../m.gguf"), "holds no GGUF file|holds no model"),
}


@pytest.mark.parametrize("name", LISTS)
def test_whatever_is_listed_is_looked_at(name: str, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    document, expected = LISTS[name]
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    hub.fault("/api/models/", lambda handler, _: handler.reply(200, body, {"Content-Type": "application/json"}), 10**6)
    for command in (["inspect", "org/m"], ["verify", "hf://org/m"], ["convert", "org/m", "-o", "out.gguf"]):
        assert main(command) == 1, command
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(expected, line), line
        assert "internal error" not in line


def test_digests_are_those_of_any_letters() -> None:
    found = listing.of("org/m", "main", file(blobId="AB" * 20, lfs={"sha256": "CD" * 32}))
    assert found.files["m.gguf"][1:] == ("cd" * 32, "ab" * 20)


def test_nobody_is_sent_from_outside_into_a_private_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    private = "127.0.0.1 127.1 2130706433 0x7f.1 localhost LOCALHOST. a.localhost [::1] 10.0.0.7 192.168.1.1 0.0.0.0"
    inner = [*private.split(), "169.254.169.254", "[fe80::1]", "[::ffff:10.0.0.1]"]
    here = "https://example.org/x"
    for host in inner:
        there = f"https://{host}/y"
        with pytest.raises(RemoteError, match="from outside into this machine or its network"):
            redirects.target("x", here, there)
        assert redirects.target("x", "https://10.1.1.1/x", there) == (there, False)  # whoever is inside already
    for host in ("example.com", "8.8.8.8", "[2606:4700::1111]", "localhost.example.com", "10.example.com"):
        assert redirects.target("x", here, f"https://{host}/y") == (f"https://{host}/y", True)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")  # a company's own may have its storage where it likes
    there = "https://10.0.0.7/y"
    assert redirects.target("x", "https://hub.example.org/x", there) == (there, False)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every name below example.org is one of this machine, and nobody has noticed yet."""
    real = socket.getaddrinfo

    def found(host: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        return real("127.0.0.1" if name.endswith("example.org") else name, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setattr(redirects, "_inner", set())
    close_session()  # whose connections, and proxies, are of the environment that was
    yield
    close_session()


@pytest.mark.usefixtures("names")
def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(hub: Hub) -> None:
    hub.files["/x"] = bytes(4096)
    for _ in range(2):  # the second time, the name is known
        file = remote.RemoteFile("x", "https://example.com/x", 4096)
        file._location, file._outside = f"http://inside.example.org:{hub.port}/x", True
        with pytest.raises(
            RemoteError, match=r"x: the server redirects from outside into.*got http://inside.example.org"
        ):
            file.read(0, 10)
    assert hub.log == []
    # Who names it himself means it, and may be sent on from there.
    hub.fault("/a$", hub_server.status(302, Location=f"http://127.0.0.1:{hub.port}/x"))
    assert remote.RemoteFile("x", f"http://other.example.org:{hub.port}/a", 4096).read(0, 10) == bytes(10)


@pytest.mark.usefixtures("names")
def test_a_proxy_may_be_inside(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["/x"] = bytes(4096)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{hub.port}")
    file = remote.RemoteFile("x", "http://example.com/x", 4096)
    file._location, file._outside = "http://somewhere.example.net/x", True
    assert file.read(0, 10) == bytes(10)
    assert not redirects._inner


def endless(piece: bytes, pause: float = 0.0, code: int = 200, **headers: str) -> Answer:
    """An answer that goes on for as long as anybody reads it."""

    def answer(handler: Handler, _: bytes) -> None:
        handler.send_response(code)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.close_connection = True
        while True:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)

    return answer


def test_a_list_that_does_not_end_is_left(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(client, "MOST_SECONDS", 0.5)
    answers = {
        "too long": (endless(b"[" * 60_000), r"does not end; expected at most 1,048,576 bytes in 0 s; got 1,\d+,"),
        "too slow": (
            endless(b"[" * 2000, 0.02),
            "does not end; .* in 0 s; got .* in 1 s, and more",
        ),
        "encoded": (endless(BOMB, Content_Encoding="gzip"), "does not end"),
    }
    for answer, expected in answers.values():
        hub.fault("/api/models/", answer)
        begun = time.monotonic()
        with pytest.raises(RemoteError, match=f"org/m: the server's answer {expected}"):
            client.list_repository("org/m")
        assert time.monotonic() - begun < 5
    monkeypatch.setattr(retry, "PATIENCE", 0.1)
    hub.fault("/api/models/", endless(b"[", 0.02))
    with pytest.raises(RemoteError, match="org/m: the server sends too slowly"):
        client.list_repository("org/m")
    for code in (404, 500):  # an error may not go on either
        hub.fault("/api/models/", endless(b" " * 60_000, code=code), times=10**6)
        with pytest.raises(RemoteError, match="does not end"):
            client.list_repository("org/m")
        hub.faults.clear()
    hub.fault("/api/models/", lambda handler, _: handler.reply(200, BOMB, {"Content-Encoding": "gzip"}))
    with pytest.raises(RemoteError, match="list of files is encoded; got gzip"):
        client.list_repository("org/m")


def test_a_list_may_have_moved(hub: Hub) -> None:
    hub.repo("org/new", {"a.gguf": b"x"})
    moved = hub_server.status(307, Location="/api/models/org/new?blobs=true")
    hub.fault("/api/models/org/old", moved)
    assert list(client.list_repository("org/old").files) == ["a.gguf"]
    hub.fault("/api/models/org/old", hub_server.status(307, Location="/api/models/org/old?again"), times=10**6)
    with pytest.raises(RemoteError, match=r"org/old: the server redirects (without end|to what is no address)"):
        client.list_repository("org/old")
    hub.faults.clear()
    hub.fault("/api/models/org/old", hub_server.status(302, Location="http://xn--/"), times=10**6)
    with pytest.raises(RemoteError, match=r"org/old: the (request to the Hub failed|Hub cannot be reached)"):
        client.list_repository("org/old")


def test_a_download_stops_at_the_size_that_was_said(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/m", {"config.json": b"{}"})
    found = client.list_repository("org/m")
    hub.fault("/resolve/", endless(b" " * (1 << 16)), times=10**6)
    with pytest.raises(RemoteError, match=r"org/m/config.json: what is downloaded is longer than the Hub says"):
        client.fetch(found, "config.json")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 1 << 25


def test_a_server_that_sends_a_byte_now_and_then_is_left(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE", 0.3)

    def trickle(count: int) -> Callable[[Handler, bytes], None]:
        def answer(handler: Handler, body: bytes) -> None:
            handler.range_headers(body)
            for start in range(0, len(body), count):
                handler.wfile.write(handler.part(body)[start : start + count])
                handler.wfile.flush()
                time.sleep(0.02)

        return answer

    hub.files["/x"] = bytes(range(256)) * 16
    url = f"{hub.storage_url}/x"
    assert remote.RemoteFile("x", url).size == 4096
    hub.fault("/x", trickle(1), times=1)
    with pytest.raises(RemoteError, match=r"sends too slowly; expected 1,024 bytes a second; got .* in 0 s"):
        remote.RemoteFile("x", url, 4096).read(0, 4096)
    hub.fault("/x", trickle(200), times=1)
    assert remote.RemoteFile("x", url, 4096).read(0, 4096) == hub.files["/x"]


def test_a_small_file_that_drips_is_left(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub bounds the time between two bytes alone, and gathers ten megabytes before it says so."""
    monkeypatch.setattr(client, "MOST_SECONDS", 1.0)
    hub.repo("org/m", {"config.json": b"{}" + b" " * 200})
    gone = threading.Event()

    def drip(handler: Handler, _: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "202")
        handler.end_headers()
        while not gone.wait(0.1):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    hub.fault("/resolve/", drip, times=9)
    found = client.list_repository("org/m")
    begun = time.monotonic()
    with pytest.raises(RemoteError, match=r"org/m/config.json: the server sends too slowly; got not all of it in 1 s"):
        client.fetch(found, "config.json")
    assert time.monotonic() - begun < 8
    gone.set()


def test_a_byte_in_each_answer_is_no_progress(hub: Hub) -> None:
    hub.files["/x"] = bytes(4096)
    file = remote.RemoteFile("x", f"{hub.storage_url}/x", 4096)
    hub.fault("/x", hub_server.cut(1), times=10**6)
    with pytest.raises(RemoteError, match=r"the connection fails.*7 times in a row"):
        file.read(0, 4096)
    assert len(hub.asked("/x")) == 7


def test_an_encoded_file_that_grows_is_read_in_bounds(hub: Hub) -> None:
    hub.files["/x"] = b"x"
    hub.fault("/x", bomb, times=10**6)
    file = remote.RemoteFile("x", f"{hub.storage_url}/x", 1 << 26)
    assert file.read(0, 1000) == bytes(1000)


def test_a_repository_of_many_files(hub: Hub) -> None:
    """200,000 names are read as fast as JSON is."""
    siblings = [{"rfilename": f"{i}.gguf", "size": 9, "blobId": "0" * 40} for i in range(200_000)]
    body = json.dumps(info(siblings=siblings)).encode()
    hub.fault("/api/models/", lambda handler, _: handler.reply(200, body, {"Content-Type": "application/json"}), 9)
    begun = time.process_time()
    assert len(client.list_repository("org/m").files) == 200_000
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/m.gguf", "m.gguf"),
        ("/a/..", "file"),
        ("/a/%2e%2e", "file"),
        ("/a/..%2f..%2fm.gguf", "m.gguf"),
        ("/a/..%5c..%5cm.gguf", ".._.._m.gguf"),
        ("/m%00.gguf", "m_.gguf"),
        ("/" + "m" * 5000 + ".gguf", "m" * 55 + ".gguf"),
        ("/a%3Ab%0A.gguf", "a_b_.gguf"),
    ],
)
def test_names_of_urls_are_names_of_files(path: str, name: str) -> None:
    assert downloads._name(f"https://example.org{path}") == name


def test_the_token_stays_with_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever address the Hub sends us on to, and whoever answers there."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    tiny.checkpoint(tmp_path / "checkpoint")
    hub.repo("org/m", {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}, token="hf_secret")
    assert main(["convert", "org/m", "--dry-run"]) == 0
    tokens = {(path.split("/")[1], sent) for _, path, _, sent in hub.log}
    assert ("storage", None) in tokens
    assert {sent for place, sent in tokens if place == "storage"} == {None}
    assert {sent for place, sent in tokens if place != "storage"} == {"Bearer hf_secret"}


def test_ports_that_nobody_listens_on(capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert main(["inspect", f"http://127.0.0.1:{taken.getsockname()[1]}/m.gguf"]) == 1
    assert "the connection fails" in capsys.readouterr().err
