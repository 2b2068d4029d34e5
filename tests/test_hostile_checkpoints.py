"""Hugging Face folders with one thing wrong in them (scripts/bad_checkpoints.py): one typed error, with the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.cli import main
from gguflike.errors import CheckpointError, UnsupportedError
from tests.bad_vectors import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import bad_checkpoints

CASES = bad_checkpoints.CASES


def plan(name: str | None, folder: Path) -> object:
    source, lora = bad_checkpoints.write(name, folder)
    return gguflike.convert(source, folder / "out.gguf", "F16", dry_run=True, lora=lora)


def test_the_good_folder_converts(tmp_path: Path) -> None:
    source, _ = bad_checkpoints.write(None, tmp_path)
    gguflike.convert(source, tmp_path / "out.gguf", "F16")
    with gguflike.load(tmp_path / "out.gguf", threads=1) as model:
        assert model.tokenize("ab") == [258]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.tolerated])
def test_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, UnsupportedError)) as caught:
        plan(name, tmp_path)
    said = str(caught.value)
    assert CASES[name].file in said
    assert CASES[name].about in said
    assert len(said) < 1000


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.tolerated])
def test_tolerated(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan(name, tmp_path)
    assert not (tmp_path / "OWNED").exists()


def test_what_a_message_says_of_a_file_is_for_people() -> None:
    """A name, a key or a value that a file has made long."""
    long = "x" * 100_000
    error = CheckpointError("odd", path="f", tensor=long, field=long, got=[1] * 10_000)
    assert len(str(error)) < 1400
    assert str(error).count(" characters)") == 3
    assert error.tensor == long
    assert str(CheckpointError("odd", got="y" * 400)).endswith("got " + "y" * 396 + "… (404 characters)")


@pytest.mark.parametrize("stated", [7, True, 1.5, [7], [{"a": 1}], [], None, "LlamaForCausalLM"])
def test_a_class_of_any_kind_is_inspected(tmp_path: Path, stated: Any, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = bad_checkpoints.write(None, tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"architectures": stated}))
    assert main(["inspect", str(source)]) == 0
    assert "class            " in capsys.readouterr().out


def test_there_are_enough() -> None:
    assert sum(not case.tolerated for case in CASES.values()) >= 60
