"""Answers that have to be something: JSON by a schema, a call, a grammar's text. The model is random: nothing but the
constraint makes them so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

from pydantic import BaseModel  # noqa: E402

from gguflike.serve import Server  # noqa: E402
from tests.serving import TEMPLATE, model, post, says, serving  # noqa: E402

CHAT = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": "hi"}]
CONTEXT = 4096


class City(BaseModel):
    kind: Literal["town", "village"]
    walled: bool


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["town", "village"]}, "walled": {"type": "boolean"}},
    "required": ["kind", "walled"],
    "additionalProperties": False,
}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA}}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "strict", "parameters": schema, "strict": True}}


TOOLS = [tool("build"), tool("find")]


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model(tmp_path_factory.mktemp("structured"), n_ctx=CONTEXT), context=CONTEXT) as made:
        yield made


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that reasons in tags, and whose prompts end within reasoning."""
    template = TEMPLATE.replace("<|assistant|>", "<|assistant|><think>\n") + "{# </think> #}"
    path = model(tmp_path_factory.mktemp("thinking"), n_ctx=CONTEXT, template=template)
    with serving(path, context=CONTEXT) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as made:
        yield made


def form(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": form()},
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA},
    ],
    ids=lambda asked: json.dumps(asked)[:40],
)
def test_an_answer_is_what_its_schema_says(server: Server, asked: Any, seed: int) -> None:
    body = says(temperature=1.5, seed=seed, max_tokens=400, **asked)
    answer = post(server, CHAT, body).json["choices"][0]
    City.model_validate_json(answer["message"]["content"], strict=True)
    assert answer["finish_reason"] == "stop"
    pieces = [
        event["choices"][0]["delta"].get("content", "")
        for event in post(server, CHAT, {**body, "stream": True}).events[:-1]
    ]
    assert "".join(pieces) == answer["message"]["content"]


def test_any_object(server: Server) -> None:
    body = says(temperature=1, seed=3, max_tokens=20, response_format={"type": "json_object"})
    assert post(server, CHAT, body).json["choices"][0]["message"]["content"].lstrip().startswith("{")


def test_openai_parses_what_it_asked_for(client: Any) -> None:
    answer = client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=City, temperature=1, n=2)
    assert all(isinstance(choice.message.parsed, City) for choice in answer.choices)
    parsed = client.responses.parse(model="tiny", input="hi", text_format=City, temperature=1)
    assert isinstance(parsed.output_parsed, City)


def test_anthropic_gets_what_it_asked_for(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0) as claude:
        answer = claude.messages.create(
            model="tiny",
            messages=MESSAGES,
            max_tokens=400,
            output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        )
    City.model_validate_json(answer.content[0].text)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"build", "find"}),
        ({"type": "function", "function": {"name": "find"}}, {"find"}),
        (allowed("required", "find"), {"find"}),
    ],
    ids=["required", "named", "allowed"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_has_to_be_made_is_made(client: Any, choice: Any, names: set[str], stream: bool) -> None:
    given: dict[str, Any] = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
    if stream:
        with client.chat.completions.stream(model="tiny", temperature=1, seed=1, **given) as events:
            for _ in events:
                pass
            answer = events.get_final_completion().choices[0]
    else:
        answer = client.chat.completions.create(model="tiny", temperature=1, seed=1, **given).choices[0]
    (call,) = answer.message.tool_calls
    assert call.function.name in names
    City.model_validate_json(call.function.arguments)
    assert answer.finish_reason == "tool_calls"
    assert not answer.message.content


def test_tools_that_are_not_allowed_are_as_if_they_were_not_there(server: Server) -> None:
    def counted(**more: Any) -> int:
        count: int = post(server, CHAT + "/input_tokens", says(**more)).json["input_tokens"]
        return count

    only = counted(tools=TOOLS[1:])
    assert counted(tools=TOOLS, tool_choice=allowed("auto", "find")) == only < counted(tools=TOOLS)
    tools = [{"type": "function", **each["function"]} for each in TOOLS]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "find"}]}
    body = {"input": "hi", "tools": tools, "tool_choice": choice, "temperature": 1, "parallel_tool_calls": False}
    answer = post(server, "/v1/responses", body).json
    assert [item["name"] for item in answer["output"] if item["type"] == "function_call"] == ["find"]
    assert answer["tool_choice"] == choice


def test_a_model_reasons_before_what_it_has_to_be(thinking: Server) -> None:
    """The random model need not end its reasoning: with a bias to the letters that do, it does."""
    bias = {str(ord(letter)): 3 for letter in "</think>"}
    body = says(temperature=1, seed=5, max_tokens=3000, response_format=form(), logit_bias=bias)
    answer = post(thinking, CHAT, body).json["choices"][0]
    message = answer["message"]
    if answer["finish_reason"] == "stop":
        assert message["reasoning_content"]
        City.model_validate_json(message["content"])
    else:
        assert message["content"] in (None, "")


def test_a_text_is_what_its_schema_says(server: Server) -> None:
    for asked in ({"response_format": form()}, {"json_schema": SCHEMA}):
        body = {"prompt": ["a", "b"], "max_tokens": 400, "temperature": 1, "seed": 4, **asked}
        for choice in post(server, "/v1/completions", body).json["choices"]:
            City.model_validate_json(choice["text"])
    body = {"prompt": "a", "max_tokens": 50, "temperature": 1, "grammar": 'root ::= ("yes" | "no") "!"'}
    assert post(server, "/v1/completions", body).json["choices"][0]["text"] in ("yes!", "no!")


def test_a_grammar_of_the_request(server: Server) -> None:
    body = says(temperature=1, max_tokens=50, grammar='root ::= ("yes" | "no") "!"')
    assert post(server, CHAT, body).json["choices"][0]["message"]["content"] in ("yes!", "no!")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": form({"type": "string", "pattern": "(?<=a)b"})}, "response_format"),
        ({"response_format": form({"type": "nonsense"})}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": 'root ::= "a"', "response_format": form()}, "grammar"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "burn"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "find", "burn")}, "tool_choice"),
        ({"tool_choice": allowed("auto", "find")}, "tool_choice"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": True}}}, "response_format.schema"),
        ({"grammar": 'root ::= "a"', "tools": [strict(SCHEMA)]}, "grammar"),
        ({"tools": [strict({"type": "object", "properties": {"a": {"pattern": "(?<=a)b"}}})]}, "tools"),
        ({"tools": [strict({"type": "nonsense"})], "tool_choice": "auto"}, "tools"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_enforced_is_refused(server: Server, more: Any, param: str) -> None:
    for stream in (False, True):
        answer = post(server, CHAT, says(stream=stream, **more))
        assert (answer.status, answer.error["param"]) == (400, param), answer.data


def test_prompts_are_as_long_as_ever(tmp_path: Path, server: Server) -> None:
    """What constrains an answer stands beside the prompt, not in it."""
    plain = post(server, CHAT, says(max_tokens=1)).json["usage"]["prompt_tokens"]
    assert post(server, CHAT, says(max_tokens=1, response_format=form())).json["usage"]["prompt_tokens"] == plain
