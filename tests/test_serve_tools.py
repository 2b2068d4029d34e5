"""Reasoning and calls, from what a model writes to what clients of every interface put together.

What the model writes is said by the test: an engine that says it takes the place of the real one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

from gguflike.engine import Finished, Prefilled, Request, Token  # noqa: E402
from gguflike.runner import Generation  # noqa: E402
from gguflike.serve import Server  # noqa: E402
from tests.serving import TEMPLATE, model, post, says, serving  # noqa: E402

Say = Callable[..., None]
MESSAGES: Any = [{"role": "user", "content": "hi"}]
#: Reasons in tags, and calls as in ChatML's templates with tools.
THINKING = TEMPLATE + "{# <think> </think> <tool_call> #}"


def tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": None, "parameters": schema}}


TOOLS = [tool("weather"), tool("time")]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "time", "arguments": {"city": "Bonn"}}\n</tool_call>'


class Job:
    id = 1

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class Script:
    """Says a text, a few letters at a time, as passes of an engine would: ``told`` is called behind each. ``jobs`` are
    those that were asked for."""

    def __init__(self, text: str, reason: str, told: Callable[[], None]) -> None:
        self.text, self.reason, self.jobs, self.told = text, reason, list[Job](), told

    def submit(self, request: Request, listener: Callable[[Any], None]) -> Job:
        job = Job()
        self.jobs.append(job)
        threading.Thread(target=self._say, args=(request, listener), daemon=True).start()
        return job

    def _say(self, request: Request, listener: Callable[[Any], None]) -> None:
        listener(Prefilled(len(request.prompt), len(request.prompt)))
        pieces = [self.text[at : at + 3] for at in range(0, len(self.text), 3)]
        for number, piece in enumerate(pieces):
            listener(Token(number % 256, piece))
            self.told()
        done = Generation(prompt_tokens=len(request.prompt), tokens=list(range(len(pieces))), text=self.text)
        done.finish_reason = self.reason  # type: ignore[assignment]
        listener(Finished(done))
        self.told()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = model(tmp_path_factory.mktemp("tools"), template=THINKING, n_ctx=4096)
    with serving(path, context=4096) as made:
        yield made


@pytest.fixture
def say(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
    def scripted(text: str, reason: str = "stop") -> Script:
        loaded = server.models.loaded[0]
        script = Script(text, reason, loaded.post.deliver)
        monkeypatch.setattr(loaded.engine, "submit", script.submit)
        return script

    return scripted


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(server: Server) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0) as made:
        yield made


def chat(client: Any, stream: bool, **more: Any) -> Any:
    """The choice that openai's client comes to, whichever way."""
    given = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, **more}
    if not stream:
        return client.chat.completions.create(**given).choices[0]
    with client.chat.completions.stream(**given) as events:
        for _ in events:
            pass
        return events.current_completion_snapshot.choices[0]


def calls_of(choice: Any) -> list[tuple[str, Any]]:
    made = choice.message.tool_calls or []
    assert len({each.id for each in made}) == len(made)
    assert all(each.type == "function" and each.id for each in made)
    return [(each.function.name, json.loads(each.function.arguments)) for each in made]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_as_openai_puts_them_together(client: Any, say: Say, stream: bool) -> None:
    say(f"Let me see.\n{CALL}\n{OTHER}")
    choice = chat(client, stream)
    assert calls_of(choice) == [("weather", {"city": "Köln"}), ("time", {"city": "Bonn"})]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.role == "assistant"


def test_deltas_of_calls_are_as_clients_need_them(server: Server, say: Say) -> None:
    say(CALL + OTHER)
    chunks = post(server, "/v1/chat/completions", says(tools=TOOLS, stream=True)).events[:-1]
    deltas = [delta for chunk in chunks for delta in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert all("index" in delta for delta in deltas)
    for index, name in enumerate(["weather", "time"]):
        begin, *rest = [delta for delta in deltas if delta["index"] == index]
        assert begin["function"] == {"name": name, "arguments": ""}
        assert begin["type"] == "function"
        assert all(not {"id", "type"} & delta.keys() and "name" not in delta["function"] for delta in rest)
    assert chunks[-1]["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_single_call_where_only_one_is_wanted(client: Any, say: Any, stream: bool) -> None:
    script = say(CALL + OTHER)
    choice = chat(client, stream, parallel_tool_calls=False)
    assert calls_of(choice) == [("weather", {"city": "Köln"})]
    assert choice.finish_reason == "tool_calls"
    assert script.jobs[0].cancelled.wait(10)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_cut_off_is_none(server: Server, say: Say, stream: bool) -> None:
    say(CALL + OTHER[:40], "length")
    answer = post(server, "/v1/chat/completions", says(tools=TOOLS, stream=stream))
    text = answer.data.decode()
    assert text.count('"name":"weather"') == 1
    assert '"name":"time"' not in text
    assert '"finish_reason":"length"' in text


def test_without_tools_there_are_no_calls(server: Server, say: Say) -> None:
    for body in (says(), says(tools=TOOLS, tool_choice="none")):
        say(CALL)
        (choice,) = post(server, "/v1/chat/completions", body).json["choices"]
        assert choice["message"]["content"] == CALL
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_stands_apart(client: Any, say: Say, stream: bool) -> None:
    say("<think>\nHm, hm.\n</think>\n\nIt is so.")
    choice = chat(client, stream)
    assert choice.message.reasoning_content == "Hm, hm."
    assert choice.message.content == "It is so."
    assert choice.finish_reason == "stop"


def test_tokens_of_reasoning_are_counted(client: Any, say: Say) -> None:
    say("<think>abcdef</think>xyz")
    usage = client.chat.completions.create(model="tiny", messages=MESSAGES).usage
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


def test_what_was_called_is_part_of_the_next_prompt(server: Server) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    prompt = post(server, "/apply-template", {"messages": history, "tools": TOOLS}).json["prompt"]
    assert "Köln" in prompt
    assert "rain" in prompt
    assert "weather" in prompt
    broken = {**call, "function": {"name": "weather", "arguments": "{"}}
    answer = post(server, "/v1/chat/completions", says(messages=[history[0], {**history[1], "tool_calls": [broken]}]))
    assert answer.status == 400
    assert answer.error["param"].startswith("messages[1]")


# The other interfaces


@pytest.mark.parametrize("stream", [False, True])
def test_calls_as_anthropic_puts_them_together(claude: Any, say: Say, stream: bool) -> None:
    say(f"<think>Hm.</think>Let me see.\n{CALL}\n{OTHER}")
    tools = [{"name": each["function"]["name"], "input_schema": each["function"]["parameters"]} for each in TOOLS]
    given: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 100, "tools": tools}
    if stream:
        with claude.messages.stream(**given) as events:
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**given)
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("Hm.", "Let me see.")
    assert [(each.name, each.input) for each in answer.content[2:]] == [
        ("weather", {"city": "Köln"}),
        ("time", {"city": "Bonn"}),
    ]
    assert answer.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": answer.content[2].id, "content": [{"type": "text", "text": "rain"}]}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": [block.model_dump() for block in answer.content]},
        {"role": "user", "content": [result]},
    ]
    assert claude.messages.count_tokens(model="tiny", messages=history, tools=tools).input_tokens > 20


@pytest.mark.parametrize("stream", [False, True])
def test_calls_as_responses_put_them_together(client: Any, say: Say, stream: bool) -> None:
    say(f"<think>Hm.</think>Let me see.\n{CALL}\n{OTHER}")
    tools = [{"type": "function", **each["function"], "strict": False} for each in TOOLS]
    given: dict[str, Any] = {"model": "tiny", "input": "hi", "tools": tools}
    if stream:
        with client.responses.stream(**given) as events:
            kinds = [event.type for event in events]
            answer = events.get_final_response()
        assert kinds.count("response.function_call_arguments.done") == 2
        assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    else:
        answer = client.responses.create(**given)
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    assert answer.output_text == "Let me see."
    assert [(item.name, json.loads(item.arguments)) for item in answer.output[2:]] == [
        ("weather", {"city": "Köln"}),
        ("time", {"city": "Bonn"}),
    ]
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "rain"} for item in answer.output[2:]
    ]
    say("Done.")
    history = [{"role": "user", "content": "hi"}, *[item.model_dump() for item in answer.output], *results]
    assert client.responses.create(model="tiny", input=history, tools=tools).output_text == "Done."
