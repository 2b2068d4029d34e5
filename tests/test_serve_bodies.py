"""Bodies of requests: numbers, characters and packings that clients send, nulls where they have nothing to say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gguflike.serve import Server
from tests.serving import model, post, says, serving

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model(tmp_path_factory.mktemp("bodies"))) as made:
        yield made


@pytest.mark.parametrize("name", ["max_tokens", "seed", "n", "top_k", "temperature"])
def test_numbers_of_any_length_are_out_of_range(server: Server, name: str) -> None:
    answer = post(server, CHAT, says(**{name: 10**400}))
    assert (answer.status, answer.error["param"]) == (400, name)


HALF = "\ud83d"
CUT: list[tuple[str, dict[str, Any]]] = [
    (CHAT, says(f"a{HALF}b")),
    (CHAT, says(dry_multiplier=1, dry_sequence_breakers=[HALF])),
    (CHAT, says(grammar=f'root ::= "{HALF}"')),
    (CHAT, says(response_format={"type": "json_schema", "json_schema": {"schema": {"enum": [HALF]}}})),
    (CHAT, says(tools=[{"type": "function", "function": {"name": f"f{HALF}", "strict": True}}])),
    (CHAT, says(chat_template_kwargs={HALF: HALF}, stop=HALF, model=HALF, logit_bias={HALF: 1})),
    (TEXT, {"prompt": HALF, "max_tokens": 1, "echo": True}),
    ("/v1/responses", {"input": HALF, "max_output_tokens": 1, "metadata": {HALF: HALF}}),
    ("/v1/messages", {"messages": [{"role": "user", "content": HALF}], "max_tokens": 1, "stop_sequences": [HALF]}),
    ("/tokenize", {"content": HALF, "with_pieces": True}),
]


@pytest.mark.parametrize(("path", "body"), CUT, ids=[f"{path} {number}" for number, (path, _) in enumerate(CUT)])
def test_characters_that_were_cut_in_two(server: Server, path: str, body: dict[str, Any]) -> None:
    """Clients that cut texts by UTF-16 send halves of surrogate pairs, which no UTF-8 can hold."""
    assert post(server, path, body).status == 200
    whole = post(server, "/tokenize", b'{"content": "\\ud83d\\ude00"}').json["tokens"]
    assert whole == post(server, "/tokenize", {"content": "\U0001f600"}).json["tokens"]


def test_bodies_that_are_packed(server: Server) -> None:
    packed = gzip.compress(json.dumps(says()).encode())
    answer = post(server, CHAT, packed, content_encoding="gzip")
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert "content-encoding: gzip" in answer.error["message"]
    assert post(server, CHAT, says(), content_encoding="identity").status == 200
