"""What `calibrate --dry-run` and `tune --dry-run` say, beside what is then done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gguflike
from gguflike.calibration import plan_calibration
from gguflike.cli import main
from gguflike.errors import ArgumentError
from gguflike.tuning import plan_tuning
from tests import tiny

SIZES = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}
TEXT = "When shall we three meet again? In thunder, lightning, or in rain? "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf", **SIZES)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 20)
    return path


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def said(capsys: pytest.CaptureFixture[str], *command: object) -> dict[str, Any]:
    assert main([*map(str, command), "--dry-run", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_calibration_does_what_its_plan_says(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(tmp_path)
    command = ["calibrate", folder, "-o", tmp_path / "im.gguf", "--calibration", text, "--context", "64"]
    plan = said(capsys, *command)
    kept = said(capsys, *command, "--hessians", tmp_path / "kept")
    assert files(tmp_path) == before
    [stage] = plan["stages"]
    assert stage["name"] == "inputs"
    assert plan["seconds"] == stage["seconds"] > 0
    assert plan["memory_bytes"] < 10**9
    options: dict[str, Any] = {"calibration": [text], "context": 64}
    made = gguflike.calibrate(folder, tmp_path / "im.gguf", hessians=tmp_path / "kept", **options)
    for each in (plan, kept):
        assert (each["tokens"], each["sequences"]) == (made.tokens, made.sequences)
        assert each["texts"] == ["text.txt"]
        assert each["longest_sequence"] == 64
    sizes = sum(path.stat().st_size for path in (tmp_path / "kept").iterdir() if path.suffix != ".json")
    assert kept["disk_bytes"] - plan["disk_bytes"] == sizes
    assert main([*map(str, command), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"{made.tokens:,} tokens of text.txt, in {made.sequences} sequences of up to 64" in shown
    assert "takes about" in shown


def test_more_text_takes_longer(folder: Path, text: Path) -> None:
    plans = [plan_calibration(folder, "im.gguf", calibration=[text], tokens=each) for each in (128, 512)]
    counts = [plan.stages[0].seconds * plan.speed for plan in plans if plan.stages[0].seconds is not None]
    assert counts[1] > 3 * counts[0]
    with pytest.raises(ArgumentError, match="nothing is asked for"):
        plan_calibration(folder)


def test_ranges_have_no_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(folder), "--activations", "--dry-run"]) == 2
    assert "--activations has no plan" in capsys.readouterr().err


def test_a_training_does_what_its_plan_says(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(TEXT * 3)
    before = files(tmp_path)
    command = ["tune", folder, "-o", tmp_path / "out.gguf", "-t", "Q2_K", "--context", "32"]
    command += ["--text", text, "--held-out", other]
    plan = said(capsys, *command, "--steps", "4")
    assert files(tmp_path) == before
    [stage] = plan["stages"]
    assert stage["name"] == "tuning"
    assert said(capsys, *command, "--steps", "80")["seconds"] > 5 * stage["seconds"]
    assert said(capsys, *command, "--moves", "scales")["memory_bytes"] < plan["memory_bytes"]
    gguflike.tune(folder, tmp_path / "out.gguf", "Q2_K", text=[text], held_out=[other], steps=4, context=32, threads=1)
    with gguflike.open(tmp_path / "out.gguf") as file:
        blocks = [t for n, t in file.tensors.items() if t.format.is_quantized and not n.startswith("token_embd")]
        assert set(plan["types"]) == {tensor.format.name for tensor in blocks}
        assert plan["trained"] == sum(tensor.size for tensor in blocks)
    tokens = len(gguflike.load(tmp_path / "out.gguf").tokenize(text.read_text()))
    assert plan["sequences"] == tokens // 32
    assert main([*map(str, command), "--dry-run"]) == 0
    assert "training takes about" in capsys.readouterr().out


def test_a_plan_of_another_file_to_begin_with(folder: Path, text: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.gguf"
    gguflike.convert(folder, start, "Q3_K", pure=True, tokenizer_proof="warn")
    asked: dict[str, Any] = {"text": [text], "held_out": {"other": TEXT * 3}, "context": 32}
    assert plan_tuning(folder, "out.gguf", start=start, **asked).types == ("Q3_K",)
    with pytest.raises(ArgumentError, match="too short"):
        plan_tuning(folder, "out.gguf", "Q2_K", **{**asked, "text": {"short": "x"}})
