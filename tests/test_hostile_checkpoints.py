"""Hugging Face folders with one thing wrong in them (scripts/bad_checkpoints.py): one typed error, with the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.cli import main
from gguflike.errors import CheckpointError, UnsupportedError
from tests import tiny
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


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    "name", [f"model.layers.{DIGITS}.mlp.up_proj.weight", f"layers.{DIGITS}.w", "x" * 100_000, "a\n\x1b[31m.\u202e"]
)
def test_names_of_tensors_that_are_no_names(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of thousands of digits, and texts of thousands of characters: one error or a notice, and a short one."""
    source = tiny.checkpoint(tmp_path / "hf")
    tensors = tiny.weights(tiny.config())
    (source / "model.safetensors").write_bytes(tiny.safetensors({**tensors, name: np.zeros(1, np.float32)}))
    for command in (["convert", str(source), "-t", "F32", "--dry-run", "-o", "m.gguf"], ["inspect", str(source)]):
        assert main(command) in (0, 1)
        said = capsys.readouterr()
        assert "internal error" not in said.err
        assert len(said.out + said.err) < 2000
        assert said.out.isascii() or "\u202e" not in said.out


def test_parts_without_number_are_counted(tmp_path: Path) -> None:
    source = tiny.checkpoint(tmp_path / "hf")
    tensors = tiny.weights(tiny.config())
    more = {f"part{number}.weight": np.zeros(1, np.float32) for number in range(1000)}
    (source / "model.safetensors").write_bytes(tiny.safetensors({**tensors, **more}))
    notices = gguflike.convert(source, None, dry_run=True).notices
    assert len([each for each in notices if "is left out, which no model" in each]) == 8
    assert "992 more such parts are left out: 992 tensors" in notices


@pytest.mark.parametrize("option", ["--size", "--fit-ram", "--split-max-size", "--effort", "--prune-layers"])
def test_numbers_of_thousands_of_digits(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny.checkpoint(tmp_path / "hf")
    for text in (DIGITS, f"{DIGITS}G"):
        assert main(["convert", str(source), "-o", str(tmp_path / "m.gguf"), option, text, "--dry-run"]) == 2
        said = capsys.readouterr().err
        assert "internal error" not in said
        assert len(said) < 1000
