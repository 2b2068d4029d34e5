"""What a request made goes with it: nothing of it waits for the garbage collector, which a busy server runs seldom."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pytest

from gguflike.engine import Engine
from gguflike.serve import Server
from tests.engines import until
from tests.serving import ask, model, says, serving

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHAT = "/v1/chat/completions"
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": (CHAT, says()),
    "streamed": (CHAT, says(stream=True, n=2, logprobs=True)),
    "tools": (CHAT, says(tools=[TOOL], tool_choice="required")),
    "text": ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 4}),
    "llama.cpp": ("/completion", {"prompt": "a b", "n_predict": 4, "stream": True}),
    "responses": ("/v1/responses", {"input": "a b", "max_output_tokens": 16, "stream": True}),
    "anthropic": ("/v1/messages", {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}),
    "wrong": (CHAT, says(temperature=-1)),
    "too long": (CHAT, says("word " * 2000)),
    "a template that fails": (CHAT, says(chat_template_kwargs={"messages": 3})),
    "no grammar": (CHAT, says(grammar="root ::= (")),
    "nowhere": ("/nowhere", {}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model(tmp_path_factory.mktemp("garbage"))) as made:
        yield made


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def garbage() -> Counter[str]:
    """What nobody can reach of ours, by its class."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        names = [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()  # what was only saved, or each later look finds it again
    return Counter(name for name in names if name.startswith("gguflike."))


def engine(server: Server) -> Engine:
    made = server.models.loaded[0].engine
    assert made is not None
    return made


def idle(server: Server) -> bool:
    stats = engine(server).stats()
    return not (stats.slots or stats.waiting or server.models.loaded[0].users)


@pytest.mark.parametrize("kind", REQUESTS)
def test_an_answer_leaves_no_garbage(server: Server, kind: str, uncollected: None) -> None:
    path, body = REQUESTS[kind]
    ask(server, "POST", path, body)  # what is imported and made once
    until(lambda: idle(server))
    garbage()
    rounds = []
    for _ in range(3):
        for _ in range(3):
            ask(server, "POST", path, body)
        until(lambda: idle(server))
        rounds.append(garbage())
        if not rounds[-1]:
            break
    # What is let go of once, such as the model's file when kernels are compiled, is in one of them.
    assert reduce(and_, rounds) == {}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_leaves_no_garbage(server: Server, stream: bool, uncollected: None) -> None:
    before = engine(server).stats().cancelled
    data = json.dumps({**says(stream=stream, ignore_eos=True), "max_tokens": 400}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + data)
        until(lambda: engine(server).stats().slots)
    until(lambda: engine(server).stats().cancelled > before and idle(server))
    assert garbage() == {}


def test_the_server_collects_garbage_as_python_does(tmp_path: Path) -> None:
    """What `gguflike` sets for itself is for what ends soon: asyncio leaves garbage of its own with each connection."""
    code = (
        "import gc, sys; from gguflike import cli, serve\n"
        "serve.Server.run = lambda server: print(gc.get_threshold()[0], gc.get_freeze_count() > 0)\n"
        "sys.exit(cli.script())"
    )
    command = [sys.executable, "-c", code, "serve", str(model(tmp_path)), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["700", "True"], done.stderr
