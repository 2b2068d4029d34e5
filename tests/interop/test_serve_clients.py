"""The server as langchain-openai, llm, litellm and schemathesis see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguflike import runner
from gguflike.serve import Server
from tests.serving import model, serving

CHECKS = [
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    *("negative_data_rejection", "unsupported_method", "ignored_auth"),
]

#: Of endpoints that have another name.
OTHER_NAMES = "^/(chat/completions|completions|embeddings|models|v1/health|reranking|v1/reranking|rerank)$"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("clients"), n_ctx=4096)


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Server]:
    with serving(file, api_keys=("key",), context=4096) as made:
        yield made


@pytest.fixture(scope="module")
def text(file: Path) -> str:
    """What the model answers."""
    with runner.load(file, threads=1) as alone:
        return alone.chat([{"role": "user", "content": "hi"}], 8).result().text


def test_langchain(server: Server, text: str) -> None:
    langchain = pytest.importorskip("langchain_openai")
    given: dict[str, Any] = {"model": "tiny", "api_key": "key", "base_url": f"{server.url}/v1", "max_retries": 0}
    chat = langchain.ChatOpenAI(**given, temperature=0, max_tokens=8, stream_usage=True)
    answer = chat.invoke("hi")
    assert answer.content == text
    assert answer.usage_metadata["output_tokens"] > 0
    pieces = list(chat.stream("hi"))
    assert "".join(piece.content for piece in pieces) == text
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    assert whole.usage_metadata["total_tokens"] == answer.usage_metadata["total_tokens"]
    responses = langchain.ChatOpenAI(**given, temperature=0, max_tokens=8, use_responses_api=True)
    assert responses.invoke("hi").text == text
    with pytest.raises(Exception, match=r"maximum context length"):
        chat.invoke("x" * 5000)


def test_langchain_gets_what_it_asked_for(server: Server) -> None:
    langchain = pytest.importorskip("langchain_openai")
    from pydantic import BaseModel

    class City(BaseModel):
        walled: bool

    settings = {"api_key": "key", "base_url": f"{server.url}/v1", "max_retries": 0}
    # Without a seed, one call in twenty of a model that knows nothing is white space up to the end of the context.
    chat = langchain.ChatOpenAI(model="tiny", temperature=1, seed=3, **settings)
    for method in ("json_schema", "function_calling"):
        answer = chat.with_structured_output(City, method=method).invoke("hi")
        assert isinstance(answer, City)
    called = chat.bind_tools([City], tool_choice="any").invoke("hi")
    assert {call["name"] for call in called.tool_calls} == {"City"}


def test_litellm(server: Server, text: str) -> None:
    litellm = pytest.importorskip("litellm")
    messages = [{"role": "user", "content": "hi"}]
    given: dict[str, Any] = {"messages": messages, "temperature": 0, "max_tokens": 8, "num_retries": 0}
    base = {"model": "openai/tiny", "api_base": f"{server.url}/v1", "api_key": "key"}
    assert litellm.completion(**base, **given).choices[0].message.content == text
    pieces = litellm.completion(**base, **given, stream=True, stream_options={"include_usage": True})
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text
    claude = {"model": "anthropic/tiny", "api_base": server.url, "api_key": "key"}
    assert litellm.completion(**claude, **given).choices[0].message.content == text
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**base, **{**given, "messages": [{"role": "user", "content": "x" * 5000}]})


def test_llm(server: Server, text: str, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    models = [{"model_id": "served", "model_name": "tiny", "api_base": f"{server.url}/v1", "api_key_name": "served"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    (tmp_path / "keys.json").write_text(json.dumps({"served": "key"}))
    command = [sys.executable, "-m", "llm", "-m", "served", "-o", "temperature", "0", "-o", "max_tokens", "8"]
    environment = {"LLM_USER_PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    for flags in ([], ["--no-stream"]):
        done = subprocess.run([*command, *flags, "hi"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == text.strip()


@pytest.mark.timeout(1500)
def test_schemathesis(file: Path, tmp_path: Path) -> None:
    """Requests made of the OpenAPI document, good and bad ones: no answer that the document does not name, and none
    that is the server's fault."""
    pytest.importorskip("schemathesis")
    with serving(file, api_keys=("key",), context=64, slots_dir=str(tmp_path)) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        command += ["--header", "Authorization: Bearer key", "--phases", "examples,coverage,fuzzing"]
        command += ["--checks", ",".join(CHECKS), "--max-examples", "15", "--generation-deterministic"]
        command += ["--request-timeout", "60", "--seed", "1", "--no-color"]
        command += ["--exclude-path-regex", OTHER_NAMES]
        environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-16000:] + done.stderr[-2000:]
        assert server.models.loaded[0].users == 0
