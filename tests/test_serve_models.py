"""Several models behind one server: named by their files, loaded when asked for, unloaded when memory is short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gguflike import runner
from gguflike.errors import ArgumentError
from gguflike.runner.needs import PROCESS
from gguflike.serve import Server, Settings
from gguflike.serve.models import found_in, name_of
from gguflike.serve.reserve import reserve
from tests.engines import until
from tests.serving import CONTEXT, begin, endless, get, model, post, says, serving

CHAT = "/v1/chat/completions"
CACHE = 1 << 20  # bytes for what is kept of texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    (root / "org").mkdir()
    for seed, name in enumerate(["a.gguf", "b.gguf", "org/c.gguf"]):
        model(root, name, seed=seed + 5, n_ctx=10_000)
    (root / "mmproj-a.gguf").write_bytes(b"")
    (root / "a.txt").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def texts(folder: Path) -> dict[str, str]:
    """What each model answers."""
    said = {}
    for name in ("a", "b", "org/c"):
        with runner.load(folder / f"{name}.gguf", threads=1, context=CONTEXT) as alone:
            said[name] = alone.chat([{"role": "user", "content": "hi"}], 8).result().text
    assert len(set(said.values())) == 3
    return said


@pytest.fixture(scope="module")
def room(folder: Path) -> int:
    """Bytes for two models, at the moment when the second is loaded."""
    settings = Settings(models_dir=str(folder), threads=1, context=CONTEXT, cache_bytes=CACHE)
    found = reserve(str(folder / "a.gguf"), settings, 1 << 34)
    return PROCESS + 2 * found.total + found.loading


@pytest.fixture
def server(folder: Path, room: int) -> Iterator[Server]:
    """A server with room for two of the three."""
    with serving(None, models_dir=str(folder), memory=room, cache_bytes=CACHE) as made:
        yield made
        assert PROCESS + sum(each.reserve.total for each in made.models.loaded) <= room


def text_of(server: Server, name: str) -> str:
    answer = post(server, CHAT, says(model=name)).json
    assert answer["model"] == name
    text: str = answer["choices"][0]["message"]["content"]
    return text


def loaded(server: Server) -> list[str]:
    return [each["id"] for each in get(server, "/v1/models").json["data"] if each["status"]["value"] == "loaded"]


def test_models_come_and_go(server: Server, texts: dict[str, str]) -> None:
    assert [each["id"] for each in get(server, "/v1/models").json["data"]] == ["a", "b", "org/c"]
    assert loaded(server) == []
    assert text_of(server, "a") == texts["a"]
    assert text_of(server, "b") == texts["b"]
    assert loaded(server) == ["a", "b"]
    assert text_of(server, "a") == texts["a"]  # and b is the one that was used least recently
    assert text_of(server, "org/c") == texts["org/c"]
    assert loaded(server) == ["a", "org/c"]
    assert get(server, "/v1/models/org/c").json["context_length"] == CONTEXT
    assert get(server, "/health").status == 200


def test_one_that_is_used_stays(server: Server, texts: dict[str, str]) -> None:
    busy = [begin(server, {**endless(True), "model": name, "max_tokens": CONTEXT - 50}) for name in ("a", "b")]
    for connection in busy:
        connection.recv(100)
    held = server.models.loaded
    for each in held:
        each.users += 1  # as answers do that take longer than this test
    answer = post(server, CHAT, says(model="org/c"))
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) > 0
    assert loaded(server) == ["a", "b"]
    for each in held:
        each.users -= 1
    for connection in busy:
        connection.close()
    until(lambda: all(not each.users for each in server.models.loaded))
    assert text_of(server, "org/c") == texts["org/c"]


def test_many_ask_for_the_same_that_is_not_loaded(server: Server, texts: dict[str, str]) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: text_of(server, "b"), range(6))) == [texts["b"]] * 6
    assert loaded(server) == ["b"]


@pytest.mark.parametrize("name", ["none", "../models/a", "/etc/passwd", "a.gguf", "mmproj-a", "org\\c"])
def test_names_are_no_paths(server: Server, name: str) -> None:
    answer = post(server, CHAT, says(model=name))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "a, b, org/c" in answer.error["message"]


def test_a_model_that_cannot_be_loaded(folder: Path, server: Server) -> None:
    (folder / "broken.gguf").write_bytes(b"GGUF nonsense")
    try:
        answer = post(server, CHAT, says(model="broken"))
        assert answer.status == 500
        assert str(folder) not in answer.error["message"]
    finally:
        (folder / "broken.gguf").unlink()
    assert get(server, "/health").status == 200


def test_an_alias_and_a_folder(folder: Path, texts: dict[str, str]) -> None:
    with serving(folder / "a.gguf", models_dir=str(folder / "org"), alias="mine") as server:
        assert loaded(server) == ["mine"]
        assert [each["id"] for each in get(server, "/v1/models").json["data"]] == ["c", "mine"]
        assert post(server, CHAT, says()).json["model"] == "mine"
        assert text_of(server, "c") == texts["org/c"]


def test_names_of_files(tmp_path: Path) -> None:
    assert name_of("x/y/m-Q4_K_M.gguf") == "m-Q4_K_M"
    assert name_of("m-00001-of-00003.gguf") == "m"
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"")
    assert found_in(str(tmp_path)) == {"m": str(tmp_path / "m-00001-of-00002.gguf")}
    (tmp_path / "none").mkdir()
    with pytest.raises(ArgumentError, match="no GGUF files in the folder"):
        Server(Settings(models_dir=str(tmp_path / "none")))
    with pytest.raises(ArgumentError, match="models_dir: no such folder"):
        Server(Settings(models_dir=str(tmp_path / "gone")))
    with pytest.raises(ArgumentError, match="no model"):
        Settings()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_when_it_is_asked_to(folder: Path, sent: signal.Signals) -> None:
    """It finishes what it has begun, and says that all is well."""
    command = [
        sys.executable,
        "-m",
        "gguflike",
        "serve",
        str(folder / "a.gguf"),
        "--port",
        "0",
        "-c",
        str(CONTEXT),
        "-t",
        "1",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if line.startswith("serving on "))
            port = int(line.rpartition(":")[2])
            server = type("Address", (), {"port": port})()
            connection = begin(server, {**says(stream=True, ignore_eos=True), "max_tokens": 200})
            data = connection.recv(10)
            process.send_signal(sent)
            while piece := connection.recv(65536):
                data += piece
            connection.close()
            assert b"data: [DONE]" in data
            rest = process.stderr.read()
        finally:
            process.kill() if process.poll() is None and process.wait(20) is None else None
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert "200" in rest
