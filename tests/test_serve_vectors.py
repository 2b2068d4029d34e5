"""/v1/embeddings and /v1/rerank: odd requests, texts that are cut, and models of another kind than was meant."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from gguflike.families import registry
from gguflike.families.family import Family
from gguflike.families.parts import Graph
from gguflike.families.parts.extras import Layer, Pooling
from gguflike.runner import embedding
from gguflike.serve import Server
from tests import by_hand
from tests.by_hand import WIDTH, Sizes
from tests.serving import Answer, get, post, serving
from tests.test_embedding import CONTEXT, bert

VECTORS = "/v1/embeddings"
RANKS = "/v1/rerank"
HEADS = {
    "vectors": Pooling("mean", WIDTH),
    "scores": Pooling("cls", WIDTH, (Layer("cls.output", 1, WIDTH),), ("",)),
    "classes": Pooling("cls", WIDTH, (Layer("cls.output", 3, WIDTH),), ("a", "b", "c")),
}
LONG = "x" * (3 * CONTEXT)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """One for each head."""
    folder, made = tmp_path_factory.mktemp("vectors"), {}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as running:
        for name, head in HEADS.items():
            graph = bert(head)
            by_hand.write(folder / f"{name}.gguf", graph)
            patch.setattr(registry, "for_gguf", partial(_family, graph))  # asked when the file is loaded
            made[name] = running.enter_context(serving(folder / f"{name}.gguf", context=None))
        yield made


def _family(graph: Graph, _: Any) -> Family:
    return Family("by-hand", Sizes, lambda _: graph, {})


def wrong(answer: Answer) -> tuple[int, Any, Any]:
    return answer.status, answer.error["param"], answer.error["code"]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ([], "input"),
        ("", "input"),
        (["a", ""], "input[1]"),
        ([[1], []], "input[1]"),
        (["a", [1]], "input[1]"),
        ([1, "a"], "input[1]"),
        ([True], "input[0]"),
        ([-1], "input[0]"),
        ([1 << 20], "input"),
        ([[1], [1 << 20]], "input[1]"),
        ([[[1]]], "input[0][0]"),
        ({"text": "a"}, "input"),
        (["a"] * 2049, "input"),
    ],
)
def test_what_is_no_text_is_named_by_its_place(servers: dict[str, Server], given: Any, where: str) -> None:
    assert wrong(post(servers["vectors"], VECTORS, {"input": given})) == (400, where, 400)


@pytest.mark.parametrize(
    ("given", "where"), [(LONG, "input"), (["a", LONG], "input[1]"), ([1] * (CONTEXT + 1), "input")]
)
def test_a_text_that_is_too_long(servers: dict[str, Server], given: Any, where: str) -> None:
    """Clients find out by the code, and by the two numbers, how much is to be cut."""
    error = post(servers["vectors"], VECTORS, {"input": given}).error
    assert (error["param"], error["code"]) == (where, "context_length_exceeded")
    assert error["n_prompt_tokens"] > error["n_ctx"] == CONTEXT
    assert f"{error['n_prompt_tokens']} tokens > {CONTEXT} maximum" in error["message"]
    assert '"truncate": true' in error["message"]


def test_of_a_text_that_is_cut_the_rest_is_counted(servers: dict[str, Server]) -> None:
    before = _counted(servers["vectors"])
    cut = post(servers["vectors"], VECTORS, {"input": [1] * (CONTEXT + 9), "truncate": True}).json
    assert cut["usage"] == {"prompt_tokens": CONTEXT, "total_tokens": CONTEXT}
    assert _counted(servers["vectors"]) - before == CONTEXT
    whole = post(servers["vectors"], VECTORS, {"input": [1] * CONTEXT}).json
    assert cut["data"] == whole["data"]


def _counted(server: Server) -> int:
    lines = get(server, "/metrics").data.decode().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("llamacpp:prompt_tokens_total "))


@pytest.mark.parametrize(
    ("path", "name", "value", "meant"),
    [
        (VECTORS, "truncate_prompt_tokens", 5, None),
        (VECTORS, "output_dimension", 5, None),
        (VECTORS, "late_chunking", True, False),
        (VECTORS, "embedding_type", "binary", "float"),
        (VECTORS, "output_dtype", "int8", "float"),
        (VECTORS, "normalize", False, True),
        (VECTORS, "normalized", False, True),
        (VECTORS, "add_special_tokens", False, True),
        (VECTORS, "truncation_direction", "Left", "Right"),
        (RANKS, "truncation_direction", "left", "right"),
        (RANKS, "rank_fields", ["title"], []),
        (RANKS, "return_embeddings", True, False),
    ],
)
def test_what_would_change_the_answer_is_not_ignored(
    servers: dict[str, Server], path: str, name: str, value: Any, meant: Any
) -> None:
    server = servers["vectors" if path == VECTORS else "scores"]
    body = {"input": "a"} if path == VECTORS else {"query": "q", "documents": ["a"]}
    assert wrong(post(server, path, {**body, name: value})) == (400, name, "unsupported_parameter")
    assert post(server, path, {**body, name: meant}).status == 200


@pytest.mark.parametrize(
    ("name", "path", "said"),
    [
        ("vectors", RANKS, "model: this model does not score texts; got vectors"),
        ("classes", RANKS, "model: this model tells classes apart, it does not rank documents; got classes"),
        ("scores", VECTORS, "model: this model scores texts, it has no vectors of them; got scores"),
    ],
)
def test_a_model_of_another_kind(servers: dict[str, Server], name: str, path: str, said: str) -> None:
    """Said of what was asked for, before anything is looked at closely, and not in words for Python."""
    answer = post(servers[name], path, {"input": "a", "query": "q", "documents": ["a", LONG]})
    assert wrong(answer) == (400, "model", 400)
    assert answer.error["message"] == said


def test_documents_are_named_by_their_place(servers: dict[str, Server]) -> None:
    server, body = servers["scores"], {"query": "q", "documents": ["a", LONG]}
    assert wrong(post(server, RANKS, body)) == (400, "documents[1]", "context_length_exceeded")
    assert wrong(post(server, RANKS, {"query": "q", "texts": [LONG]})) == (400, "texts[0]", "context_length_exceeded")
    cut = post(server, RANKS, {**body, "truncate": True}).json
    alone = post(server, RANKS, {**body, "documents": ["a"]}).json
    assert cut["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"] + CONTEXT
    answer = post(server, RANKS, {"query": LONG, "documents": ["a"], "truncate": True})  # which cuts documents
    assert wrong(answer) == (400, "query", "context_length_exceeded")
    assert "truncate" not in answer.error["message"]


def test_documents_under_two_names(servers: dict[str, Server]) -> None:
    body = {"query": "q", "documents": ["a"], "texts": ["b"]}
    assert wrong(post(servers["scores"], RANKS, body)) == (400, "texts", 400)
    assert "results" in post(servers["scores"], RANKS, {**body, "texts": None}).json


def test_nobody_waits_for_another_s_text_to_become_tokens(
    servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    going, free, encode = threading.Event(), threading.Event(), embedding.single

    def slow(tokenizer: Any, text: str) -> embedding.Tokens:
        if text == "slow":
            going.set()
            assert free.wait(60)
        return encode(tokenizer, text)

    monkeypatch.setattr("gguflike.serve.openai.vectors.single", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, servers["vectors"], VECTORS, {"input": "slow"})
        try:
            assert going.wait(60)
            assert post(servers["vectors"], VECTORS, {"input": "quick"}).status == 200
            assert not first.done()
        finally:
            free.set()
        assert first.result().status == 200
