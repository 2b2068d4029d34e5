"""Bodies of requests: numbers, characters and packings that clients send, nulls where they have nothing to say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import runner
from gguflike.errors import ArgumentError
from gguflike.serve import Server
from gguflike.serve.openapi import document
from tests.serving import CONTEXT, model, post, says, serving

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("bodies"))


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Server]:
    with serving(file) as made:
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


# Nothing to say


NULLS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, says(tools=[{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}])),
    (
        CHAT,
        says(
            messages=[
                {"role": "user", "content": "hi", "name": None, "tool_calls": None},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": None, "type": None, "function": {"name": "f", "arguments": None}}],
                },
                {"role": "tool", "content": "5", "tool_call_id": None},
            ]
        ),
    ),
    (
        "/v1/responses",
        {
            "max_output_tokens": 1,
            "input": [
                {"type": None, "id": None, "role": "user", "content": "hi"},
                {"type": "function_call", "id": None, "status": None, "call_id": None, "name": "f", "arguments": None},
                {"type": "function_call_output", "call_id": None, "output": None},
            ],
            "tools": [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}],
            "text": {"format": None},
        },
    ),
    (
        "/v1/messages",
        {
            "max_tokens": 1,
            "system": [{"type": "text", "text": "x", "cache_control": None}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": None}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": None}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": None}]},
            ],
            "tools": [{"type": None, "name": "f", "description": None, "input_schema": None, "cache_control": None}],
            "tool_choice": {"type": "auto", "name": None, "disable_parallel_tool_use": None},
            "thinking": {"type": None},
        },
    ),
]


@pytest.mark.parametrize(("path", "body"), NULLS, ids=[f"{path} {number}" for number, (path, _) in enumerate(NULLS)])
def test_null_is_nothing_said(server: Server, path: str, body: dict[str, Any]) -> None:
    """Many clients write all that they know of, and null where they have nothing to say."""
    answer = post(server, path, body)
    assert answer.status == 200, answer.data


def test_null_where_something_has_to_be_said(server: Server) -> None:
    for body, param in (
        (says(messages=[{"role": "user", "content": None}]), "messages[0]"),
        (says(messages=[{"role": None, "content": "x"}]), "messages[0].role"),
        (says(logit_bias={"5": None}), "logit_bias.5"),
        (says(stop=[None]), "stop[0]"),
    ):
        answer = post(server, CHAT, body)
        assert (answer.status, answer.error["param"]) == (400, param)


def test_the_document_says_where_null_may_stand() -> None:
    tools = _property(document(), "/v1/messages", "tools")["items"]["properties"]
    assert {"type": "null"} in tools["description"]["anyOf"]
    assert "anyOf" not in tools["name"]


def _property(told: Any, path: str, name: str) -> Any:
    """The schema of a parameter, of those that it may have the one that is not null."""
    body = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return body["properties"][name]["anyOf"][0]


# What is wrong


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/completion", {"prompt": [True]}, "prompt[0]: expected an integer or a string or an object or an array"),
        (TEXT, {"prompt": [-1]}, "prompt[0]: out of range: expected at least 0"),
        (TEXT, {"prompt": [[]]}, "prompt[0]: expected at least 1 items"),
        (CHAT, says(samplers=["top_k", "top_k"]), "samplers: a step stands twice; got top_k, top_k"),
        (CHAT, says(dry_sequence_breakers=[""]), "dry_sequence_breakers: an empty text; leave it out"),
        (CHAT, says(samplers=["temp"], xtc_probability=0.5), "samplers: xtc is on, but not among the steps"),
    ],
)
def test_what_is_wrong_is_said_of_what_was_meant(server: Server, path: str, body: Any, said: str) -> None:
    answer = post(server, path, body)
    assert answer.status == 400
    assert answer.error["message"].startswith(said)
    assert "None" not in answer.error["message"]


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": 5}]}]}, ".content[0].content"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": "x"}]}]}, ".content[0].input"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
    ],
)
def test_what_anthropic_s_clients_get_wrong(server: Server, more: dict[str, Any], place: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **more}
    answer = post(server, "/v1/messages", body)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert f"{place}: " in answer.error["message"]


# What is meant


def test_steps_that_are_left_out_are_off(file: Path) -> None:
    """Those that the server was started with; what a request itself switches on must be among its steps."""
    with serving(file, sampling={"temperature": 0.8, "min_p": 0.5, "repetition_penalty": 1.5}) as made:
        told = post(made, "/completion", {"prompt": "ab", "n_predict": 1, "samplers": ["top_k"], "top_k": 3}).json
    settings = told["generation_settings"]
    assert (settings["samplers"], settings["top_k"]) == (["top_k"], 3)
    assert (settings["min_p"], settings["repeat_penalty"], settings["temperature"]) == (0.0, 1.0, 1.0)


def test_vectors_as_they_are_asked_for(server: Server, file: Path) -> None:
    with runner.load(file, context=CONTEXT, threads=1) as alone:
        want = alone.embed(["ab"], pooling="last")[0]
        with pytest.raises(ArgumentError, match=r"texts\[1\]: a text without tokens; got ''; leave it out"):
            alone.embed(["ab", ""], pooling="last")
    size = len(want)
    answer = post(server, "/v1/embeddings", {"input": "ab", "pooling": "last", "dimensions": size})
    assert np.array_equal(np.float32(answer.json["data"][0]["embedding"]), want)
    answer = post(server, "/v1/embeddings", {"input": "ab", "pooling": "last", "dimensions": size - 1})
    assert (answer.status, answer.error["param"]) == (400, "dimensions")


def test_reasoning_stands_with_what_is_said_behind_it(server: Server) -> None:
    """Items of a response, sent back, make the messages that they were."""
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    hidden = {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "x"}
    words = {"role": "user", "content": "hi"}

    def length(*items: Any) -> int:
        answer = post(server, "/v1/responses", {"input": [*items, words], "max_output_tokens": 1})
        return int(answer.json["usage"]["input_tokens"])

    assert length(words, thought, said) == length(words, hidden, said) == length(words, said)
