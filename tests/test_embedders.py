"""Decoders that give vectors or scores: how checkpoints tell, what files say, and the way back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike import checkpoint
from gguflike.checkpoint.strictjson import load as read_json
from gguflike.convert import convert, export
from gguflike.errors import CheckpointError, OutputError, UnsupportedError
from gguflike.families.pooling import answers, kind_of
from tests import tiny
from tests.embedders import modules, qwen3


@pytest.mark.parametrize("tied", [False, True])
def test_a_reranker_keeps_the_rows_of_its_answers(tied: bool, tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "Qwen3-Reranker-tiny", tie_word_embeddings=tied)
    weights = tiny.weights(tiny.config(tie_word_embeddings=tied))
    convert(folder, tmp_path / "x.gguf", "F32")
    with gguflike.open(tmp_path / "x.gguf") as file:
        head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
        assert (file.tensors["cls.output.weight"].dequantize() == head[[258, 259]]).all()
        assert "output.weight" not in file.tensors
        assert list(file.metadata["qwen3.classifier.output_labels"]) == ["yes", "no"]
        assert file.metadata["qwen3.pooling_type"] == 4
        assert "{query}" in file.metadata["tokenizer.chat_template.rerank"]
    with pytest.raises(UnsupportedError, match="of the head only"):
        export(tmp_path / "x.gguf", tmp_path / "back")


def test_a_model_card_may_tell_a_reranker(tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "snapshot")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Qwen3-Reranker-tiny\n")
    assert any(tensor.name == "cls.output.weight" for tensor in convert(folder, None, "F32", dry_run=True).tensors)
    (folder / "README.md").write_text("It is no qwen3-reranker.\n")
    assert all(tensor.name != "cls.output.weight" for tensor in convert(folder, None, "F32", dry_run=True).tensors)


def test_a_reranker_without_its_words(tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "qwen3-reranker", words=("yes",))
    with pytest.raises(CheckpointError, match="lacks a word"):
        convert(folder, None, "F32", dry_run=True)


def test_an_embedding_model_made_of_a_decoder(tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "hf")
    modules(folder, pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False)
    plan = convert(folder, tmp_path / "x.gguf", "F32")
    assert any("lm_head" in notice or "the head for text" in notice for notice in plan.notices)
    with gguflike.open(tmp_path / "x.gguf") as file:
        assert file.metadata["qwen3.pooling_type"] == 3
        assert "output.weight" not in file.tensors
    export(tmp_path / "x.gguf", tmp_path / "back")
    assert read_json(tmp_path / "back" / "1_Pooling" / "config.json")["pooling_mode_lasttoken"] is True
    assert read_json(tmp_path / "back" / "config.json")["architectures"] == ["Qwen3Model"]
    plain = qwen3(tmp_path / "plain")
    convert(plain, tmp_path / "plain.gguf", "F32")
    with gguflike.open(tmp_path / "plain.gguf") as file:
        assert "output.weight" in file.tensors


def test_modules_are_inputs_too(tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "hf")
    chain = [("3_Pooling", "Pooling"), ("2_Dense", "Dense")]
    linear = {"activation_function": "torch.nn.modules.linear.Identity"}
    configs: dict[str, Any] = {"3_Pooling": {"pooling_mode_lasttoken": True}, "2_Dense": linear}
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in chain]
    (folder / "modules.json").write_text(json.dumps(listed))
    for name, _ in chain:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(configs[name]))
    (folder / "2_Dense" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for name in ("3_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        assert folder / name in checkpoint.open(folder).inputs()
        before = (folder / name).read_bytes()
        with pytest.raises(OutputError, match="the target is also a source"):
            convert(folder, folder / name, "F32", dry_run=True)
        assert (folder / name).read_bytes() == before


def test_folders_of_modules_are_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = qwen3(tmp_path / "hf")
    modules(folder, pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False)
    convert(folder, tmp_path / "x.gguf", "F32")
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    export(tmp_path / "x.gguf", tmp_path / "back")
    assert len(synced) == len(list((tmp_path / "back").rglob("*"))) + 2  # files and folders, this, and that above


def test_names_of_rerankers() -> None:
    assert answers(["org/Qwen3-Reranker-0.6B", ""]) == ("yes", "no")
    assert answers(["Qwen3-0.6B", "reranker"]) == ()


def test_kinds_of_pooling() -> None:
    assert kind_of(None) == "none"
    assert kind_of(3) == "last"
    with pytest.raises(UnsupportedError, match="pooling_type"):
        kind_of(4)
