"""OpenAI's and Anthropic's own clients, which must not be able to tell this server from the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

from gguflike import runner  # noqa: E402
from gguflike.runner import Model  # noqa: E402
from gguflike.serve import Server  # noqa: E402
from tests.serving import CONTEXT, model, serving  # noqa: E402

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Server]:
    with serving(file, api_keys=("key",)) as made:
        yield made


@pytest.fixture(scope="module")
def text(file: Path) -> Iterator[str]:
    """What the model answers."""
    with runner.load(file, threads=1, context=CONTEXT) as alone:
        yield alone.chat(MESSAGES, 8).result().text


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(server: Server) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0) as made:
        yield made


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "temperature": 0, **more}
    )


# OpenAI's


def test_openai_lists_models(client: Any) -> None:
    assert [each.id for each in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_openai_chats(client: Any, text: str) -> None:
    answer = chat(client)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id.startswith("req_")


def test_openai_streams(client: Any, text: str) -> None:
    manager = client.chat.completions.stream(
        model="tiny", messages=MESSAGES, temperature=0, stop=text[3:], stream_options={"include_usage": True}
    )
    with manager as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text[:3]
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.prompt_tokens > 0
    assert "content.delta" in kinds


def test_openai_asks_at_the_same_time(server: Server, text: str) -> None:
    async def one(client: Any, streamed: bool) -> str:
        if not streamed:
            answer = await chat(client)
            return str(answer.choices[0].message.content)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in await chat(client, stream=True)])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
            return list(await asyncio.gather(*(one(client, number % 2 == 0) for number in range(8))))

    assert asyncio.run(all_of_them()) == [text] * 8


def test_openai_completes(client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=4, temperature=0, logprobs=2)
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.top_logprobs[0]) == 2
    streamed = client.completions.create(model="tiny", prompt="a", max_tokens=4, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_openai_hears_of_errors_by_their_class(client: Any, server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages=[{"role": "user", "content": "x" * 600}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.body["n_ctx"] == CONTEXT
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, stream=True, messages=[{"role": "user", "content": "x" * 600}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, temperature=-3)
    assert caught.value.param == "temperature"
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="no", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            chat(stranger)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_openai_responds(client: Any, text: str) -> None:
    answer = client.responses.create(model="tiny", input="hi", max_output_tokens=8, temperature=0)
    assert answer.output_text == text
    assert answer.status in ("completed", "incomplete")
    assert answer.usage.input_tokens > 0
    items = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    again = client.responses.create(model="tiny", input=items, max_output_tokens=8, temperature=0)
    assert again.output_text == text
    # What it answered is input for the next question, as it is.
    history = [*items, *[item.model_dump() for item in again.output], {"role": "user", "content": "more"}]
    assert client.responses.create(model="tiny", input=history, max_output_tokens=3).usage.input_tokens > 0


def test_openai_streams_a_response(client: Any, text: str) -> None:
    manager = client.responses.stream(
        model="tiny", input="hi", temperature=0, top_logprobs=1, extra_body={"stop": text[3:]}
    )
    with manager as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == final.output_text == text[:3]
    assert {(event.output_index, event.content_index) for event in deltas} == {(0, 0)}
    assert final.output[0].content[0].logprobs[0].logprob < 0
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"


def test_openai_takes_the_vectors_of_an_embedder(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="pooling"):
        client.embeddings.create(model="tiny", input="x")


def test_openai_counts_logprobs(client: Any) -> None:
    answer = chat(client, logprobs=True, top_logprobs=2)
    told = answer.choices[0].logprobs.content
    assert len(told) == answer.usage.completion_tokens
    assert all(len(each.top_logprobs) == 2 and np.isclose(each.logprob, each.top_logprobs[0].logprob) for each in told)


# Anthropic's


def message(claude: Any, **more: Any) -> Any:
    given = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "extra_body": {"temperature": 0}, **more}
    return claude.messages.create(**given)


def test_anthropic_chats(claude: Any, text: str) -> None:
    answer = message(claude)
    assert [block.text for block in answer.content] == [text]
    assert answer.role == "assistant"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    counted = claude.messages.count_tokens(model="tiny", messages=MESSAGES).input_tokens
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == counted


def test_anthropic_streams(claude: Any, text: str) -> None:
    with claude.messages.stream(model="tiny", messages=MESSAGES, max_tokens=8, extra_body={"temperature": 0}) as stream:
        assert "".join(stream.text_stream) == text
        final = stream.get_final_message()
    assert [block.text for block in final.content] == [text]
    assert final.usage.output_tokens > 0


def test_anthropic_stops_at_a_sequence(claude: Any, text: str) -> None:
    stop = text[2:4]
    answer = message(claude, stop_sequences=["never", stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert answer.content[0].text == text[: text.index(stop)]


def test_anthropic_goes_on_with_the_last_message(claude: Any, file: Path) -> None:
    with runner.load(file, threads=1, context=CONTEXT) as alone:
        want = alone.generate("<|system|>be\n<|user|>hi\n<|assistant|>Well", 6).result().text
    begun = [*MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": "Well"}]}]
    answer = message(claude, system=[{"type": "text", "text": "be"}], messages=begun, max_tokens=6)
    assert answer.content[0].text == want


def test_anthropic_hears_of_errors_by_their_class(claude: Any, server: Server) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        message(claude, messages=[{"role": "user", "content": "x" * 600}])
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert "prompt is too long" in caught.value.body["error"]["message"]
    picture = {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}
    with pytest.raises(anthropic.BadRequestError, match="text and tools only"):
        message(claude, messages=[{"role": "user", "content": [picture]}])
    with (
        anthropic.Anthropic(base_url=server.url, api_key="no", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        message(stranger)


def test_a_model_is_given_back_by_every_client(server: Server, client: Any, claude: Any) -> None:
    """Nobody holds a model longer than for an answer, whatever became of it."""
    chat(client)
    message(claude)
    with pytest.raises(openai.BadRequestError):
        chat(client, messages=[{"role": "user", "content": "x" * 600}])
    (loaded,) = server.models.loaded
    assert loaded.users == 0
    assert isinstance(loaded.model, Model)
