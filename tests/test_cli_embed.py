"""gguflike embed and gguflike rerank: what they print of what the library gives."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike.cli import main
from gguflike.families.parts.extras import Layer, Pooling
from gguflike.runner import Model
from tests import by_hand
from tests.by_hand import WIDTH
from tests.test_embedding import bert

HEADS = {
    "embed": Pooling("mean", WIDTH),
    "rerank": Pooling("cls", WIDTH, (Layer("cls.output", 1, WIDTH),), ("",)),
}


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    graph = bert(HEADS[request.param])
    by_hand.write(tmp_path / "x.gguf", graph)
    return by_hand.load(tmp_path / "x.gguf", graph, monkeypatch)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("model", ["embed"], indirect=True)
def test_vectors(model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one text", "another"]
    want = model.embed(texts)
    lines = said(capsys, "embed", model.path, *texts).splitlines()
    assert (np.array([line.split() for line in lines], np.float32) == want).all()
    document = json.loads(said(capsys, "embed", model.path, *texts, "--json"))
    assert document["dimensions"] == WIDTH
    assert (np.array(document["vectors"], np.float32) == want).all()
    monkeypatch.setattr("sys.stdin", io.StringIO("one text\r\nanother\n"))
    assert said(capsys, "embed", model.path).splitlines() == lines
    raw = json.loads(said(capsys, "embed", model.path, "one text", "--json", "--raw", "--pooling", "cls"))
    assert (np.array(raw["vectors"], np.float32) == model.embed("one text", pooling="cls", normalize=False)).all()
    assert said(capsys, "embed", model.path, "--pooling", "mean", *texts).splitlines() == lines
    assert said(capsys, "embed", model.path, texts[0], "--pooling", "mean", texts[1]).splitlines() == lines
    long = "x" * 200
    cut = json.loads(said(capsys, "embed", model.path, long, "--json", "--truncate"))
    assert (np.array(cut["vectors"], np.float32) == model.embed(long, truncate=True)).all()
    assert main(["embed", model.path, long]) == 1
    assert "--truncate" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["rerank"], indirect=True)
def test_documents_come_best_first(
    model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = ["some", "other", "documents", "to", "sort"]
    scores = model.rerank("query", documents)
    order = np.argsort(-scores).tolist()
    ranked: list[dict[str, Any]] = json.loads(said(capsys, "rerank", model.path, "query", *documents, "--json"))
    assert [each["index"] for each in ranked] == order
    assert [each["document"] for each in ranked] == [documents[index] for index in order]
    assert np.array([each["score"] for each in ranked], np.float32).tolist() == scores[order].tolist()
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(documents)))
    lines = said(capsys, "rerank", model.path, "query").splitlines()
    assert [line.split("\t")[1] for line in lines] == [documents[index] for index in order]


@pytest.mark.parametrize("model", ["rerank"], indirect=True)
def test_a_command_for_another_kind_of_model(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", model.path, "x"]) == 1
    assert "gguflike rerank" in capsys.readouterr().err
    assert main(["run", model.path, "-p", "x"]) == 1
    assert "gguflike embed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["embed"], ["rerank", "x"], ["embed", "x", "y", "--pooling", "max"], ["embed", "x", "--no", "y"]]
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err
