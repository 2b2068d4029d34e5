"""Many at the same time, with some who leave and some who err: each hears what it would hear alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gguflike import runner
from gguflike.serve import Server
from tests.engines import until
from tests.serving import CONTEXT, begin, idle, model, post, serving

TEXT = "/v1/completions"
COUNT, CONNECTIONS = 64, 16


def requests() -> list[dict[str, Any]]:
    """Prompts of every length, many of which begin alike, chosen from in every way."""
    rng = random.Random(1)
    made = []
    for number in range(COUNT):
        shared = rng.choice(["", "You are helpful. " * 5, "Once upon a time " * 12])
        settings = rng.choice(
            [{"temperature": 0}, {"temperature": 1.3, "seed": number}, {"temperature": 0.7, "seed": 1}]
        )
        penalty = rng.choice([{}, {"repetition_penalty": 1.3}, {"top_k": 20}, {"min_p": 0.1}])
        body = {"prompt": shared + f"{number % 9}" * rng.randrange(1, 20), "max_tokens": rng.randrange(1, 40)}
        made.append({"min_p": 0, **body, **settings, **penalty})
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Server]:
    with serving(file, parallel=6, threads=2) as made:
        yield made


def test_each_hears_what_it_would_hear_alone(server: Server, file: Path) -> None:
    bodies = requests()
    with runner.load(file, threads=1, context=CONTEXT) as alone:
        wanted = []
        for body in bodies:
            settings = {name: value for name, value in body.items() if name not in ("prompt", "max_tokens")}
            wanted.append(alone.generate(body["prompt"], body["max_tokens"], **settings).result().text)

    def ask(number: int) -> str:
        body = bodies[number]
        if number % 5 == 1:  # who leaves before the answer
            begin(server, {**body, "max_tokens": 400, "ignore_eos": True, "stream": number % 2 == 0}, TEXT).close()
        if number % 5 == 2:  # who errs
            assert post(server, TEXT, {**body, "temperature": -1}).status == 400
            assert post(server, TEXT, b"{").status == 400
        if number % 2:
            return str(post(server, TEXT, body).json["choices"][0]["text"])
        events = post(server, TEXT, {**body, "stream": True}).events
        assert events[-1] == "[DONE]", json.dumps(events)[:300]
        return "".join(event["choices"][0]["text"] for event in events[:-1])

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        heard = list(pool.map(ask, range(COUNT)))
    assert heard == wanted
    until(lambda: idle(server))
    stats = server.models.loaded[0].engine.stats()  # type: ignore[union-attr]
    assert stats.failed == 0
    assert stats.cached_tokens > 0
