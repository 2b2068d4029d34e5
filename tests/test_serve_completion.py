"""/completion, as llama-server has it: prompts of every kind, what answers and events tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gguflike.serve import Server
from tests.serving import CONTEXT, model, post, serving

PATH = "/completion"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model(tmp_path_factory.mktemp("completion"))) as made:
        yield made


def asked(server: Server, prompt: Any = "Once", **more: Any) -> Any:
    answer = post(server, PATH, {"prompt": prompt, "n_predict": 6, "temperature": 0, "ignore_eos": True, **more})
    assert answer.status == 200, answer.data
    return answer.json


def test_what_an_answer_tells(server: Server) -> None:
    told = asked(server, return_tokens=True, stop=["nowhere"])
    same = post(server, "/v1/completions", {"prompt": "Once", "max_tokens": 6, "temperature": 0, "ignore_eos": True})
    assert told["content"] == same.json["choices"][0]["text"]
    assert len(told["tokens"]) == told["tokens_predicted"] == told["timings"]["predicted_n"] == 6
    assert told["tokens_evaluated"] == same.json["usage"]["prompt_tokens"]
    assert (told["stop"], told["stop_type"], told["stopping_word"], told["truncated"]) == (True, "limit", "", False)
    settings = told["generation_settings"]
    assert (settings["n_predict"], settings["temperature"], settings["stop"]) == (6, 0, ["nowhere"])
    assert settings["logit_bias"][0]["bias"] is None
    assert told["prompt"].endswith("Once")
    assert "completion_probabilities" not in told
    assert asked(server)["tokens"] == []


def test_why_it_stopped(server: Server) -> None:
    text = asked(server)["content"]
    stopped = asked(server, stop=[text[3]])
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", text[3])
    assert stopped["content"] == text[: text.index(text[3])]
    full = asked(server, n_predict=-1)
    assert (full["stop_type"], full["truncated"]) == ("limit", True)
    assert full["tokens_evaluated"] + full["tokens_predicted"] >= CONTEXT
    none = asked(server, n_predict=0)
    assert (none["content"], none["tokens_predicted"]) == ("", 0)


def test_prompts_of_every_kind(server: Server) -> None:
    ids = post(server, "/tokenize", {"content": "Once", "add_special": True}).json["tokens"]
    one = asked(server)
    for prompt in (ids, {"prompt_string": "Once"}, {"prompt_string": "Once", "multimodal_data": []}, [*ids[:-1], "e"]):
        told = asked(server, prompt)
        assert (told["content"], told["tokens_evaluated"]) == (one["content"], one["tokens_evaluated"]), prompt
    several = asked(server, ["Once", ids, {"prompt_string": "Once"}, [*ids[:-1], "e"], "Twice"])
    assert [each["index"] for each in several] == [0, 1, 2, 3, 4]
    assert {each["content"] for each in several[:4]} == {one["content"]}
    assert [len(asked(server, prompt, n_cmpl=2)) for prompt in ("Once", ["Once", "Twice"])] == [2, 4]
    assert len(asked(server, ["Once"])) == 1


@pytest.mark.parametrize(
    ("prompt", "more"),
    [
        ([], {}),
        (["a"] * 65, {}),
        ({}, {}),
        ({"prompt_string": "a", "multimodal_data": ["AAAA"]}, {}),
        ([1, {"prompt_string": "a"}], {}),
        ([1, 1 << 20], {}),
        ("a", {"post_sampling_probs": True}),
        ("a", {"t_max_predict_ms": 5}),
        ("a", {"n_probs": -1}),
        ("a" * 3000, {}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_refused(server: Server, prompt: Any, more: dict[str, Any]) -> None:
    for stream in (False, True):
        answer = post(server, PATH, {"prompt": prompt, "stream": stream, **more})
        assert answer.status == 400, answer.data
        assert answer.error["param"] in ("prompt", *more)


def test_events(server: Server) -> None:
    whole = asked(server, n_probs=3, return_tokens=True)
    body = {"prompt": "Once", "n_predict": 6, "temperature": 0, "ignore_eos": True, "stream": True, "n_probs": 3}
    *pieces, last = post(server, PATH, {**body, "cache_prompt": False, "return_progress": True}).events
    progress = [piece["prompt_progress"] for piece in pieces if "prompt_progress" in piece]
    assert progress[-1]["processed"] == progress[-1]["total"] == whole["tokens_evaluated"]
    assert "".join(piece["content"] for piece in [*pieces, last]) == whole["content"]
    assert [token for piece in pieces for token in piece["tokens"]] == whole["tokens"]
    assert [each for piece in pieces for each in piece["completion_probabilities"]] == whole["completion_probabilities"]
    assert not any(piece["stop"] for piece in pieces)
    assert (last["stop"], last["stop_type"]) == (True, "limit")
    assert last["generation_settings"]["n_probs"] == 3


def test_how_likely_tokens_were(server: Server) -> None:
    told = asked(server, n_probs=4, return_tokens=True)
    likely = told["completion_probabilities"]
    assert [each["id"] for each in likely] == told["tokens"]
    for each in likely:
        assert len(each["top_logprobs"]) == 4
        assert each["top_logprobs"][0]["id"] == each["id"]  # the likeliest was taken
        assert each["logprob"] <= 0


def test_fields_that_are_asked_for(server: Server) -> None:
    told = asked(server, response_fields=["content", "generation_settings/n_predict", "nothing", "content/x"])
    assert told == {"content": asked(server)["content"], "generation_settings/n_predict": 6}


def test_biases_of_texts(server: Server) -> None:
    told = asked(server, return_tokens=True, logit_bias=[["xy", 100]])
    tokens = post(server, "/tokenize", {"content": "xy"}).json["tokens"]
    assert set(told["tokens"]) <= set(tokens)
    banned = asked(server, return_tokens=True, logit_bias={"xy": -100, str(tokens[0]): -100})
    assert not set(banned["tokens"]) & set(tokens)
