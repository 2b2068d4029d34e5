"""A plugin of pytest that runs llama-server's own tests against `gguflike serve`: `test_llama_server.py` starts it.

Their class ``ServerProcess`` holds settings of a server, starts it and asks it. Here it becomes one that turns those
settings into flags of `gguflike serve`, gives these to the command line's own parser and serves on a thread, with a
tiny model for each of theirs. What is left out, and why, is told by llama_server.json.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.cli import _parsed, config
from gguflike.cli.serve import _settings
from gguflike.serve import Server
from tests import embedders
from tests.serving import TEMPLATE, model

TABLE: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text())
#: Settings of theirs that change nothing that a client sees, or that hold here whatever they say: batches, caches and
#: threads; where the model is from; the page and the endpoints that are always there; templates, which are always
#: rendered as Jinja; limits that requests of the tests have as well. ``pooling`` is a property of a file here.
SILENT = {
    *("debug", "external_server", "offline", "process", "server_port", "model_hf_repo", "model_hf_file", "jinja"),
    *("n_batch", "n_ubatch", "n_threads", "n_gpu_layer", "n_slots", "n_predict", "n_prompts", "kv_unified", "swa_full"),
    *("server_continuous_batching", "server_embeddings", "server_reranking", "server_metrics", "server_slots", "fa"),
    *("n_ctx", "chat_template", "chat_template_file", "id_slot", "cache_prompt", "pooling", "reasoning", "log_path"),
}
#: Another name of theirs for /completion; here it is one of OpenAI's /v1/completions.
ANOTHER_NAME = "/completions"
FLAGS = {
    "server_host": "--host",
    "temperature": "--temp",
    "seed": "--seed",
    "model_alias": "--alias",
    "api_key": "--api-key",
    "slot_save_path": "--slot-save-path",
    "cors_origins": "--cors-origins",
    "models_dir": "--models-dir",
}


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before anything of theirs is imported, which takes names out of ``utils``."""
    sys.path.insert(0, str(early_config.rootpath))
    wget: Any = types.ModuleType("wget")
    wget.download = _no_network
    sys.modules["wget"] = wget
    theirs = importlib.import_module("utils")
    folder = Path(os.environ["LLAMA_SERVER_FOLDER"])
    theirs.ServerProcess = _server_process(theirs, _Models(folder))
    theirs.ServerPreset.load_all = staticmethod(lambda: None)
    matches = theirs.match_regex
    theirs.match_regex = lambda regex, text: bool(text) if regex in TABLE["texts"] else matches(regex, text)
    early_config.pluginmanager.register(_Report(folder / "report.json"))


def _no_network(*_: Any, **__: Any) -> None:
    raise AssertionError("a test that needs the network is not in the table")


class _Models:
    """Tiny models, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, settings: Any) -> Path:
        if settings.server_embeddings:
            return self._embedder("embedder", {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False})
        if settings.server_reranking:
            return self._embedder("Qwen3-Reranker-tiny", None)
        template = settings.chat_template or TEMPLATE
        if settings.chat_template_file:
            template = Path(settings.chat_template_file).read_text(encoding="utf-8")
        name = f"tiny-{zlib.crc32(template.encode()):08x}.gguf"
        made = self.folder / name
        return made if made.exists() else model(self.folder, name, n_ctx=8192, template=template)

    def _embedder(self, name: str, pooling: dict[str, bool] | None) -> Path:
        made = self.folder / f"{name}.gguf"
        if not made.exists():
            source = embedders.qwen3(self.folder / name, max_position_embeddings=4096)
            if pooling is not None:
                embedders.modules(source, **pooling)
            gguflike.convert(source, made, "F32")
        return made


def _flags(settings: Any, models: _Models, port: int) -> list[str]:
    """What `gguflike serve` is started with. AssertionError for a setting that it has no flag for."""
    given = {name: getattr(settings, name) for name in dir(settings) if not name.startswith("_")}
    given = {name: value for name, value in given.items() if not callable(value) and value not in (None, False, [])}
    unknown = given.keys() - FLAGS.keys() - SILENT - {"no_ui"}
    assert not unknown, f"no flag of ours for {sorted(unknown)}"
    flags = ["--port", str(port), "--threads", "1", "--grace", "1", "--quiet"]
    flags += ["--logit-bias", "256=-inf"]  # random weights end a text anywhere
    for name in given.keys() & FLAGS.keys():
        flags += [FLAGS[name], str(given[name])]
    if given.get("no_ui"):
        flags.append("--no-ui")
    flags += ["--parallel", str(settings.n_slots or 4)]
    if settings.n_ctx and not settings.server_reranking:  # theirs is divided among the places for texts, unless unified
        flags += ["--context", str(settings.n_ctx // (1 if settings.kv_unified else settings.n_slots or 1))]
    if settings.model_hf_repo is None and settings.model_file is None:
        folder = models.folder / "several"
        folder.mkdir(exist_ok=True)
        if not any(folder.iterdir()):
            model(folder)
        return [*flags, "--models-dir", str(folder)]
    return [str(models.of(settings)), *flags]


def _server_process(theirs: Any, models: _Models) -> type:
    class Process(theirs.ServerProcess):  # type: ignore[misc, name-defined]
        """One of their servers, which is ours."""

        _serving: contextlib.ExitStack | None = None
        _port = 0  # that it had before, when it is started again

        def start(self, timeout_seconds: int = 0) -> None:  # noqa: ARG002 - their signature
            args = _parsed(["serve", *_flags(self, models, self._port)])
            config.settle(args)
            self._serving = contextlib.ExitStack()
            self.server_port = self._port = self._serving.enter_context(Server(_settings(args))).port
            theirs.server_instances.add(self)

        def stop(self) -> None:
            theirs.server_instances.discard(self)
            if self._serving is not None:
                self._serving.close()
                self._serving = None

        def make_request(self, method: str, path: str, data: Any = None, *args: Any, **kwargs: Any) -> Any:
            if path == "/apply-template" and self.reasoning is not None:  # a variable of each request here
                data = {**data, "chat_template_kwargs": {"enable_thinking": self.reasoning != "off"}}
            if path in ("/completion", ANOTHER_NAME) and method == "POST":
                path, data = "/completion", self._limited(data)
            answer = super().make_request(method, path, data, *args, **kwargs)
            answer.headers = theirs.requests.structures.CaseInsensitiveDict(answer.headers)
            return answer

        def make_stream_request(self, method: str, path: str, data: Any = None, *args: Any) -> Iterator[Any]:
            if path in ("/completion", ANOTHER_NAME):
                path, data = "/completion", self._limited(data)
            yield from super().make_stream_request(method, path, data, *args)

        def _limited(self, data: dict[str, Any]) -> dict[str, Any]:
            """A body with the limit that their server is started with, which ours has no flag for."""
            return {"n_predict": self.n_predict or -1, **data}

    return Process


class _Report:
    """Leaves out what the table names, and writes down what became of the rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: dict[str, Any] = {"outcomes": {}, "left_out": {}, "unknown": []}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        reasons = {name: reason for reason, names in TABLE["not applicable"].items() for name in names}
        kept, left_out, used = [], [], set()
        for item in items:
            test = item.nodeid.removeprefix("unit/")
            found = {test, test.split("[")[0], test.split("::")[0]} & reasons.keys()
            used |= found
            (left_out if found else kept).append(item)
            if found:
                self.told["left_out"][test] = reasons[max(found, key=len)]
        self.told["unknown"] = sorted(reasons.keys() - used)
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid.removeprefix("unit/")
        outcomes: dict[str, str] = self.told["outcomes"]
        if (report.when == "call" or not report.passed) and outcomes.get(test) != "failed":
            outcomes[test] = report.outcome

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.told))
