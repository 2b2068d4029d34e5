"""The server's endpoints: what they take, what they answer, and how they say that something is wrong."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import runner
from gguflike.convert import convert
from gguflike.runner import Model
from gguflike.serve import Server
from gguflike.serve.settings import DEFAULTS
from tests import embedders
from tests.serving import CONTEXT, TEMPLATE, ask, get, model, post, says, serving

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Server]:
    with serving(file) as made:
        yield made


@pytest.fixture(scope="module")
def alone(file: Path) -> Iterator[Model]:
    """The same model without a server: what it says is what the server must say."""
    with runner.load(file, threads=1, context=CONTEXT) as made:
        yield made


def prompt(text: str) -> str:
    return f"<|user|>{text}\n<|assistant|>"


# Text


def test_a_completion_is_what_the_model_says(server: Server, alone: Model) -> None:
    want = alone.generate("ab", 12).result()
    answer = post(server, TEXT, {"prompt": "ab", "max_tokens": 12, "temperature": 0}).json
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"], choice["index"]) == (want.text, want.finish_reason, 0)
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == len(want.tokens)
    assert answer["usage"]["total_tokens"] == 2 + len(want.tokens)


def test_an_answer_is_what_the_model_says(server: Server, alone: Model) -> None:
    want = alone.chat([{"role": "user", "content": "hi"}], 8).result()
    answer = post(server, CHAT, says()).json
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == want.text
    assert choice["finish_reason"] == want.finish_reason
    assert answer["timings"]["predicted_n"] == len(want.tokens)
    assert answer["timings"]["predicted_per_second"] > 0


@pytest.mark.parametrize(
    "given",
    [
        "ab",
        ["ab", "cd"],
        [97, 98],
        [[97, 98], [99, 100]],
    ],
    ids=str,
)
def test_prompts_in_every_form(server: Server, alone: Model, given: Any) -> None:
    texts = ["ab", "cd"] if isinstance(given[0], list) or given == ["ab", "cd"] else ["ab"]
    want = [alone.generate(text, 5).result().text for text in texts]
    answer = post(server, TEXT, {"prompt": given, "max_tokens": 5, "temperature": 0}).json
    assert [choice["text"] for choice in answer["choices"]] == want
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))


def test_echo_puts_the_prompt_before_the_text(server: Server, alone: Model) -> None:
    want = "ab" + alone.generate("ab", 5).result().text
    body = {"prompt": "ab", "max_tokens": 5, "temperature": 0, "echo": True}
    assert post(server, TEXT, body).json["choices"][0]["text"] == want
    pieces = [e["choices"][0]["text"] for e in post(server, TEXT, {**body, "stream": True}).events[:-1]]
    assert "".join(pieces) == want


def test_the_same_seed_says_the_same_and_each_choice_has_its_own(server: Server) -> None:
    body = says(temperature=1.5, seed=7, n=3)
    first, second = ([c["message"]["content"] for c in post(server, CHAT, body).json["choices"]] for _ in range(2))
    assert first == second
    assert len(set(first)) == 3
    single = post(server, CHAT, says(temperature=1.5, seed=8)).json
    assert single["choices"][0]["message"]["content"] == first[1]


def test_a_seed_of_the_server_is_as_one_of_the_request(server: Server, file: Path) -> None:
    body = says(temperature=1.5, n=2)
    want = [choice["message"]["content"] for choice in post(server, CHAT, {**body, "seed": 7}).json["choices"]]
    with serving(file, sampling={**DEFAULTS, "seed": 7}) as seeded:
        assert [choice["message"]["content"] for choice in post(seeded, CHAT, body).json["choices"]] == want


def test_a_stop_string_ends_the_text(server: Server, alone: Model) -> None:
    text = alone.generate("ab", 12).result().text
    stop = text[2:4]
    answer = post(server, TEXT, {"prompt": "ab", "max_tokens": 12, "temperature": 0, "stop": [stop]}).json
    assert answer["choices"][0]["text"] == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_full_context_is_a_length(server: Server) -> None:
    body = {"prompt": "a" * (CONTEXT - 4), "max_tokens": -1, "temperature": 0, "ignore_eos": True}
    answer = post(server, TEXT, body).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == CONTEXT


def test_a_bias_bans_and_forces_tokens(server: Server) -> None:
    forced = {"prompt": "ab", "max_tokens": 3, "temperature": 0, "logit_bias": {"120": 100}}
    assert post(server, TEXT, forced).json["choices"][0]["text"] == "xxx"
    body = says(max_tokens=1, logprobs=True)
    first = post(server, CHAT, body).json["choices"][0]["logprobs"]["content"][0]
    (token,) = first["bytes"]  # of which the tokens of this vocabulary are made
    for banned in ({str(token): -100}, [[token, False]]):
        other = post(server, CHAT, {**body, "logit_bias": banned}).json["choices"][0]["logprobs"]["content"][0]
        assert other["bytes"] != [token]
        assert other["logprob"] < first["logprob"]


def test_logprobs_are_those_of_the_model(server: Server, alone: Model) -> None:
    ids = alone.tokenize(prompt("hi"))
    logits = alone.logits(ids)[-1].astype(np.float64)
    want = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
    order = np.argsort(-want, kind="stable")[:3]
    body = says(max_tokens=1, logprobs=True, top_logprobs=3)
    for answer in (post(server, CHAT, body).json, *post(server, CHAT, {**body, "stream": True}).events[1:2]):
        (content,) = answer["choices"][0]["logprobs"]["content"]
        assert content["logprob"] == pytest.approx(want[order[0]], abs=1e-4)
        assert [each["logprob"] for each in content["top_logprobs"]] == pytest.approx(want[order].tolist(), abs=1e-4)
        assert bytes(content["bytes"]) == alone.tokenizer.token_bytes(int(order[0]))
    older = post(server, TEXT, {"prompt": prompt("hi"), "max_tokens": 2, "temperature": 0, "logprobs": 2}).json
    told = older["choices"][0]["logprobs"]
    assert told["token_logprobs"][0] == pytest.approx(want[order[0]], abs=1e-4)
    assert len(told["tokens"]) == len(told["top_logprobs"]) == len(told["text_offset"]) == 2


def test_logprobs_end_with_the_text(server: Server) -> None:
    """Tokens of a stop string are not among them, as with OpenAI and llama-server."""
    forced = {"97": 100, "98": 100, "99": 100}
    for path, body in ((CHAT, says(logprobs=True)), (TEXT, {"prompt": "x", "logprobs": 0})):
        body |= {"temperature": 1, "min_p": 0, "seed": 4, "max_tokens": 40, "logit_bias": forced}
        (choice,) = post(server, path, body).json["choices"]
        text = choice["message"]["content"] if path == CHAT else choice["text"]
        assert set(text) == {"a", "b", "c"}
        stop = text[20:23]
        before = text.partition(stop)[0]
        for stream in (False, True):
            answer = post(server, path, {**body, "stop": stop, "stream": stream})
            told, said = "", ""
            for document in answer.events[:-1] if stream else [answer.json]:
                (choice,) = document["choices"]
                part = choice.get("delta", choice.get("message", {"content": choice.get("text")}))
                said += part.get("content") or ""
                likely = choice["logprobs"] or {}
                told += "".join([each["token"] for each in likely.get("content", ())] + likely.get("tokens", []))
            assert (said, told) == (before, before)
    body = {"prompt": "x", "n_probs": 1, "temperature": 1, "min_p": 0, "seed": 4, "n_predict": 40, "logit_bias": []}
    body["logit_bias"] = [[int(token), bias] for token, bias in forced.items()]
    answer = post(server, "/completion", {**body, "stop": [stop]}).json
    assert "".join(each["token"] for each in answer["completion_probabilities"]) == before == answer["content"]


# Streams


def test_a_stream_says_the_role_once_and_ends_properly(server: Server, alone: Model) -> None:
    want = alone.chat([{"role": "user", "content": "hi"}], 8).result()
    answer = post(server, CHAT, says(stream=True))
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    *chunks, done = answer.events
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta.get("content", "") for delta in deltas) == want.text
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [
        *[None] * (len(chunks) - 1),
        want.finish_reason,
    ]
    assert deltas[-1] == {}
    assert all("usage" not in chunk for chunk in chunks)


def test_counts_are_streamed_only_when_asked_for(server: Server) -> None:
    for path, body in ((CHAT, says()), (TEXT, {"prompt": "ab", "max_tokens": 4, "temperature": 0})):
        events = post(server, path, {**body, "stream": True, "stream_options": {"include_usage": True}}).events
        assert events[-1] == "[DONE]"
        assert events[-2]["choices"] == []
        assert events[-2]["usage"]["completion_tokens"] > 0
        assert all("usage" not in event for event in events[:-2])


def test_several_choices_in_a_stream(server: Server) -> None:
    body = says(n=2, temperature=1.5, seed=3)
    want = [choice["message"]["content"] for choice in post(server, CHAT, body).json["choices"]]
    texts, roles = ["", ""], [0, 0]
    for chunk in post(server, CHAT, {**body, "stream": True}).events[:-1]:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
            roles[choice["index"]] += "role" in choice["delta"]
    assert (texts, roles) == (want, [1, 1])


def test_a_stream_is_alive_before_its_first_token(server: Server) -> None:
    answer = post(server, CHAT, says(stream=True))
    assert answer.data.startswith(b": ping\n\n")
    assert b": prompt " in answer.data


def test_progress_of_the_prompt_is_told_when_asked_for(server: Server) -> None:
    events = post(server, CHAT, says("long " * 20, stream=True, return_progress=True)).events
    told = [event["prompt_progress"] for event in events[:-1] if "prompt_progress" in event]
    assert told[-1]["processed"] == told[-1]["total"] > 100
    again = post(server, CHAT, says("long " * 20, stream=True, return_progress=True)).events
    told = [event["prompt_progress"] for event in again[:-1] if "prompt_progress" in event]
    assert told[0]["cache"] == told[0]["processed"] > 100
    assert {each["cache"] for each in told} == {told[0]["cache"]}


# Conversations


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "<|user|>a\nb\n",
        ),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": None},
                {"role": "user", "content": "b"},
            ],
            "<|user|>a\n<|assistant|>\n<|user|>b\n",
        ),
        ([{"role": "developer", "content": "d"}, {"role": "user", "content": "a"}], "<|system|>d\n<|user|>a\n"),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "system", "content": "s"},
                {"role": "developer", "content": "d"},
            ],
            "<|user|>a\n<|system|>s\n<|system|>d\n",
        ),
    ],
)
def test_messages_in_every_form(server: Server, messages: Any, text: str) -> None:
    assert post(server, "/apply-template", {"messages": messages}).json["prompt"] == text + "<|assistant|>"


def test_the_last_message_is_continued(server: Server, alone: Model) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well"}]
    want = alone.generate(prompt("hi") + "Well", 6).result().text
    body = says(messages=messages, max_tokens=6, continue_final_message=True)
    assert post(server, CHAT, body).json["choices"][0]["message"]["content"] == want
    other = post(server, CHAT, says(continue_final_message=True))
    assert (other.status, other.error["param"]) == (400, "continue_final_message")


# Errors


WRONG: list[tuple[str, Any, str]] = [
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (CHAT, says(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0]"),
    (CHAT, says(temperature=-1), "temperature"),
    (CHAT, says(temperature="hot"), "temperature"),
    (CHAT, says(temperature=True), "temperature"),
    (CHAT, says(top_p=1.5), "top_p"),
    (CHAT, says(min_p=1), "min_p"),
    (CHAT, says(max_tokens=1.5), "max_tokens"),
    (CHAT, says(n=0), "n"),
    (CHAT, says(n=99), "n"),
    (CHAT, says(seed="x"), "seed"),
    (CHAT, says(stop=[1]), "stop[0]"),
    (CHAT, says(logit_bias=[[-1, 1]]), "logit_bias"),
    (CHAT, says(logit_bias={"100000": 1}), "logit_bias"),
    (CHAT, says(logit_bias={"1": 1000}), "logit_bias.1"),
    (CHAT, says(top_logprobs=3), "top_logprobs"),
    (CHAT, says(stream="yes"), "stream"),
    (CHAT, says(response_format={"type": "xml"}), "response_format.type"),
    (CHAT, says(tool_choice="required"), "tool_choice"),
    (CHAT, says(tools=[{"type": "function"}]), "tools[0].function"),
    (CHAT, says(functions=[{"name": "f"}]), "functions"),
    (CHAT, says(guided_json={"type": "object"}), "guided_json"),
    (CHAT, says(samplers=["magic"]), "samplers[0]"),
    (TEXT, {"prompt": "a", "suffix": "b"}, "suffix"),
    (TEXT, {"prompt": "a", "best_of": 4}, "best_of"),
    (TEXT, {"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": [5000]}, "prompt"),
    (TEXT, {"prompt": [[1], "a"]}, "prompt[1]"),
    (TEXT, {"prompt": [-1]}, "prompt[0]"),
    (CHAT, says(tools=[{"type": "custom", "custom": {"name": "f"}}]), "tools[0].type"),
    (CHAT, says(tool_choice={"type": "allowed_tools"}), "tool_choice.type"),
    (CHAT, says(samplers=["top_k"], top_p=0.5), "samplers"),
    (CHAT, says(chat_template_kwargs={"messages": []}), "chat_template_kwargs"),
    (TEXT, {"prompt": ""}, "prompt"),
    ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
    ("/v1/responses", {"input": [{"type": "computer_call"}]}, "input[0].type"),
    ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
    ("/v1/responses", {"input": "x", "include": 5}, "include"),
    ("/v1/embeddings", {"input": "x", "dimensions": 5, "pooling": "mean"}, "dimensions"),
    ("/v1/embeddings", {"input": "x"}, "pooling"),
    ("/tokenize", {}, "content"),
    ("/detokenize", {"tokens": [5000]}, "tokens"),
]


@pytest.mark.parametrize(("path", "body", "param"), WRONG, ids=[f"{path} {param}" for path, _, param in WRONG])
def test_what_is_wrong_is_named(server: Server, path: str, body: Any, param: str) -> None:
    answer = post(server, path, body)
    assert answer.status == 400, answer.data
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert param.split("[")[0] in answer.error["message"]


@pytest.mark.parametrize("value", [None, False])
def test_what_asks_for_nothing_is_accepted(server: Server, value: Any) -> None:
    body = says(
        max_tokens=1, functions=value, logit_bias=None, stop=None, tools=None, made_up={"a": 1}, user="me", n=None
    )
    assert post(server, CHAT, body).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_refused_with_both_counts(server: Server, stream: bool) -> None:
    answer = post(server, CHAT, says("a" * 600, stream=stream))
    assert answer.status == 400
    error = answer.error
    assert error["code"] == "context_length_exceeded"
    assert error["n_prompt_tokens"] > 600
    assert error["n_ctx"] == CONTEXT
    for phrase in ("maximum context length", "prompt is too long", "context window"):
        assert phrase in error["message"]


def test_what_is_not_there(server: Server) -> None:
    assert get(server, "/v1/nothing").status == 404
    assert get(server, "/v1/nothing").error["code"] == "not_found"
    answer = get(server, CHAT)
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    assert get(server, "/v1/models/none").status == 404
    assert get(server, "/../../etc/passwd").status == 404


def test_bodies_must_be_json(server: Server) -> None:
    assert post(server, CHAT, b"{}", content_type="text/plain").status == 415
    assert post(server, CHAT, b"a=b", content_type="application/x-www-form-urlencoded").status == 415
    numbers = (b'{"a": NaN}', b'{"a": 1e999}', b'{"n": ' + b"9" * 5000 + b"}")
    for data in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": "\xed\xa0\x80"}', b"[" * 100_000, *numbers):
        answer = post(server, CHAT, data)
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")


# Beside it


def test_models_are_listed_with_what_agents_read(server: Server) -> None:
    (card,) = get(server, "/v1/models").json["data"]
    assert card["id"] == "tiny"
    assert card["context_length"] == card["max_model_len"] == CONTEXT
    assert card["meta"]["n_vocab"] == 300
    assert card["meta"]["n_params"] > 10_000
    assert get(server, "/v1/models/tiny").json == card
    assert post(server, CHAT, says(model="gpt-5", max_tokens=1)).json["model"] == "tiny"


def test_tokens_go_both_ways(server: Server, alone: Model) -> None:
    text = "zq and é"
    ids = post(server, "/tokenize", {"content": text}).json["tokens"]
    assert ids == alone.tokenize(text, add_special=False)
    assert post(server, "/detokenize", {"tokens": ids}).json["content"] == text
    pieces = post(server, "/tokenize", {"content": "é", "with_pieces": True}).json["tokens"]
    assert [each["piece"] for each in pieces] == [[0xC3], [0xA9]]


def test_health_slots_props(server: Server) -> None:
    assert get(server, "/health").json == {"status": "ok"}
    slots = get(server, "/slots").json
    assert [(slot["id"], slot["is_processing"]) for slot in slots] == [(number, False) for number in range(8)]
    props = get(server, "/props").json
    assert props["chat_template"] == TEMPLATE
    assert props["default_generation_settings"]["params"] == {"temperature": 0.8, "min_p": 0.05}


def test_metrics_are_prometheus_text(server: Server) -> None:
    def read() -> dict[str, float]:
        answer = get(server, "/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.data.decode().splitlines()
        assert all(re.fullmatch(r"# (HELP|TYPE) [\w:]+ .+|[\w:]+(\{.*\})? [-+.\deinf]+", line) for line in lines)
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    before = read()
    post(server, TEXT, {"prompt": "abc", "max_tokens": 5, "temperature": 0, "cache_prompt": False})
    after = read()
    assert after["llamacpp:tokens_predicted_total"] - before["llamacpp:tokens_predicted_total"] == 5
    assert after["llamacpp:prompt_tokens_total"] - before["llamacpp:prompt_tokens_total"] == 3
    assert after["llamacpp:n_tokens_max"] >= 8
    assert after["llamacpp:predicted_tokens_seconds"] > 0
    key = 'gguflike_http_requests_total{endpoint="/v1/completions",status="200"}'
    assert after[key] - before.get(key, 0) == 1


def test_cached_tokens_are_told(server: Server) -> None:
    body = {"prompt": "cached " * 10, "max_tokens": 2, "temperature": 0}
    post(server, TEXT, body)
    again = post(server, TEXT, body).json
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == again["timings"]["cache_n"] > 60


def test_every_endpoint_is_in_the_openapi_document(server: Server) -> None:
    document = get(server, "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert {CHAT, TEXT, "/v1/responses", "/v1/messages", "/v1/embeddings", "/health"} <= document["paths"].keys()
    chat = document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert chat["required"] == ["messages"]
    assert chat["properties"]["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 1000}


def test_the_page_is_served_with_a_strict_policy(server: Server) -> None:
    page = get(server, "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    names = re.findall(r'(?:src|href)="([^"]+)"', page.data.decode())
    assert names == ["data:,", "page.css", "page.js"]
    for name in ["page.css", "page.js", "markdown.js"]:
        data = get(server, f"/{name}").data
        assert b"innerHTML" not in data
        assert not re.search(rb"(src|href)=.?https?:|@import|url\(", data)


def test_models_that_make_no_text(server: Server) -> None:
    answer = post(server, "/v1/embeddings", {"input": "x"})
    assert answer.status == 400
    assert answer.error["param"] == "pooling"
    assert post(server, "/v1/rerank", {"query": "x", "documents": ["y"]}).status == 400


def test_head_and_trailing_paths(server: Server) -> None:
    assert ask(server, "HEAD", "/health").status == 200


def test_vectors_are_as_the_model_gives_them(tmp_path: Path) -> None:
    folder = embedders.qwen3(tmp_path / "hf")
    embedders.modules(folder, pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False)
    convert(folder, tmp_path / "x.gguf", "F32")
    with runner.load(tmp_path / "x.gguf", threads=1) as alone, serving(tmp_path / "x.gguf", context=None) as server:
        want = alone.embed(["one", "two"])
        body = {"input": ["one", "two"]}
        floats = post(server, "/v1/embeddings", body).json
        assert np.array_equal(np.array([each["embedding"] for each in floats["data"]], np.float32), want)
        packed = post(server, "/v1/embeddings", {**body, "encoding_format": "base64"}).json
        data = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in packed["data"]]
        assert np.array_equal(np.stack(data), want)
        ids = [alone.tokenize(text) for text in body["input"]]
        tokens = post(server, "/v1/embeddings", {"input": ids}).json
        assert [each["embedding"] for each in tokens["data"]] == [each["embedding"] for each in floats["data"]]
        assert tokens["usage"]["prompt_tokens"] == sum(map(len, ids))
        counted = get(server, "/metrics").data.decode()
        assert f"\nllamacpp:prompt_tokens_total {3 * sum(map(len, ids))}\n" in counted
        assert "\nllamacpp:n_decode_total 6\n" in counted
        assert post(server, CHAT, says()).error["param"] == "model"


def test_documents_are_ranked_as_the_model_does(tmp_path: Path) -> None:
    folder = embedders.qwen3(tmp_path / "Qwen3-Reranker-tiny", max_position_embeddings=1024)
    convert(folder, tmp_path / "x.gguf", "F32")
    documents = ["a", "bc", "def"]
    with runner.load(tmp_path / "x.gguf", threads=1) as alone, serving(tmp_path / "x.gguf", context=None) as server:
        want = alone.rerank("q", documents)
        body = {"query": "q", "documents": [documents[0], {"text": documents[1]}, documents[2]]}
        for path in ("/v1/rerank", "/rerank"):
            results = post(server, path, {**body, "return_documents": True}).json["results"]
            assert [each["index"] for each in results] == np.argsort(-want, kind="stable").tolist()
            assert all(np.float32(each["relevance_score"]) == want[each["index"]] for each in results)
            assert all(each["document"]["text"] == documents[each["index"]] for each in results)
        assert len(post(server, "/rerank", {**body, "top_n": 1}).json["results"]) == 1
        tei = {"query": "q", "texts": documents, "top_n": 2}
        told = post(server, "/rerank", {**tei, "return_text": True}).json
        assert told == [
            {"index": each["index"], "score": each["relevance_score"], "text": documents[each["index"]]}
            for each in results[:2]
        ]
        assert "text" not in post(server, "/rerank", tei).json[0]
        assert post(server, "/rerank", {"query": "q"}).error["param"] == "documents"


def test_slots_are_kept_as_files(file: Path, tmp_path: Path) -> None:
    text = {"prompt": "keep this " * 10, "max_tokens": 2, "temperature": 0}
    with serving(file, slots_dir=str(tmp_path), parallel=1) as server:
        said = post(server, TEXT, text).json["choices"]
        held = get(server, "/slots").json[0]["n_held"]
        saved = post(server, "/slots/0?action=save", {"filename": "kept"}).json
        assert saved["n_saved"] == held > 99
        assert post(server, "/slots/0?action=erase").json == {"id_slot": 0, "n_erased": held}
        assert get(server, "/slots").json[0]["n_held"] == 0
    with serving(file, slots_dir=str(tmp_path), parallel=1) as server:
        assert post(server, "/slots/0?action=restore", {"filename": "kept"}).json["n_restored"] == held
        again = post(server, TEXT, text).json
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 90
        assert again["choices"] == said
        (tmp_path / "kept.slot").write_bytes(b"nonsense")
        answer = post(server, "/slots/0?action=restore", {"filename": "kept"})
        assert (answer.status, answer.error["code"]) == (400, "slot_not_restored")
        assert str(tmp_path) not in answer.error["message"]
        assert get(server, "/slots").json[0]["n_held"] == 0
        for path, body in [
            ("/slots/0?action=save", {"filename": "../x"}),
            ("/slots/0?action=save", {"filename": "/tmp/x"}),
            ("/slots/0?action=restore", {}),
            ("/slots/9?action=erase", None),
            ("/slots/x?action=erase", None),
            ("/slots/0?action=burn", None),
            ("/slots/0", None),
        ]:
            assert post(server, path, body).status == 400, path


def test_slots_are_not_kept_unasked(server: Server) -> None:
    assert post(server, "/slots/0?action=save", {"filename": "x"}).status == 501


def test_a_prompt_without_the_begin_of_an_answer(server: Server) -> None:
    messages = says("hi")["messages"]
    for given, text in (({}, "<|user|>hi\n<|assistant|>"), ({"add_generation_prompt": False}, "<|user|>hi\n")):
        assert post(server, "/apply-template", {"messages": messages, **given}).json["prompt"] == text
        counted = post(server, "/v1/chat/completions/input_tokens", {"messages": messages, **given}).json
        assert counted["input_tokens"] == post(server, CHAT, {**says("hi"), **given}).json["usage"]["prompt_tokens"]
        assert counted["input_tokens"] == len(text)


def test_biases_that_forbid_are_told_as_requests_have_them(file: Path) -> None:
    biases = {5: float("-inf"), 7: 1.5}
    with serving(file, sampling={"logit_bias": biases}) as server:
        params = get(server, "/props").json["default_generation_settings"]["params"]
        assert params["logit_bias"] == {"5": -100.0, "7": 1.5}
        assert post(server, CHAT, says(**params)).status == 200


@pytest.mark.parametrize("form", [{"type": "json_object", "schema": 123}, {"type": "json_schema", "schema": [1]}])
def test_a_schema_that_is_none_is_refused(server: Server, form: Any) -> None:
    assert post(server, CHAT, says(response_format=form)).error["param"] == "response_format.schema"


def test_timings_leave_out_the_first_token(server: Server) -> None:
    timings = post(server, TEXT, {"prompt": "abc", "max_tokens": 1, "temperature": 0}).json["timings"]
    assert (timings["predicted_per_second"], timings["predicted_per_token_ms"]) == (0, 0)
    timings = post(server, TEXT, {"prompt": "abc", "max_tokens": 5, "temperature": 0, "ignore_eos": True}).json[
        "timings"
    ]
    assert timings["predicted_per_second"] == pytest.approx(4e3 / timings["predicted_ms"])
    assert timings["predicted_per_token_ms"] == pytest.approx(timings["predicted_ms"] / 4)


def test_a_model_whose_template_is_wrong_continues_texts(tmp_path: Path) -> None:
    said: list[str] = []
    with serving(model(tmp_path, template="{{ nothing.at.all }}"), log=said.append) as server:
        assert any(line.startswith("tiny answers no conversations: ") for line in said)
        answer = post(server, CHAT, says())
        assert (answer.status, answer.error["code"]) == (400, "template_error")
        assert post(server, TEXT, {"prompt": "abc", "max_tokens": 2}).status == 200
