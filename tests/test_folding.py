"""Conversions that move scales between tensors first: files compute the same, say so, and cannot hide what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.calibrate import scaling
from gguflike.cli import main
from gguflike.convert import convert, encode, quantize_file
from gguflike.errors import ArgumentError, QuantizationError, UnsupportedError
from tests import tiny
from tests.files import sha256
from tests.measures import divergence

IDS = [256, *b"A single man of large fortune, what a fine thing for our girls!"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf")


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "text.txt"
    path.write_text("It is a truth universally acknowledged, that a single man must be in want. " * 40)
    return {"calibration": [path], "calibration_tokens": 1024}


@pytest.mark.parametrize(("fold", "effort"), [("smooth", 0), ("smooth", 1), ("awq", 1)])
def test_the_model_stays_the_same(
    folder: Path, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: str, effort: int
) -> None:
    """To float32, where all is written in that (AWQ has nothing to gain there); slabs are as small as can be."""
    monkeypatch.setattr(encode, "SLAB_BYTES", 1)
    convert(folder, tmp_path / "f32.gguf", "F32")
    kinds = [".=F32"] if effort == 0 else ["attn_v|attn_k|ffn_gate|ffn_up|attn_output=F32", "attn_q|ffn_down=Q8_0"]
    made = convert(folder, tmp_path / "made.gguf", "Q4_0", tensor_types=kinds, fold=fold, effort=effort, **asked)
    assert made.target is not None
    assert divergence(made.target, tmp_path / "f32.gguf", IDS) < (1e-6 if effort == 0 else 3e-2)
    with gguflike.open(made.target) as file, gguflike.open(tmp_path / "f32.gguf") as plain:
        assert file.metadata["gguflike.folding.method"] == fold
        assert file.metadata["gguflike.folding.tokens"] == 1024
        norm = file.tensors["output_norm.weight"].dequantize() / plain.tensors["output_norm.weight"].dequantize()
        assert np.abs(norm - 1).max() > 0.01
    assert f"{fold}: scales of " in made.notices[-1]
    assert f"{fold}: up to 9 folds of scales, chosen on 1,024 tokens" in str(
        convert(folder, None, "Q4_0", fold=fold, dry_run=True, **asked)
    )


def test_what_is_kept_bit_for_bit_is_not_scaled(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    convert(folder, tmp_path / "some.gguf", "F32", tensor_types=["attn_=Q8_0"])
    made = quantize_file(tmp_path / "some.gguf", tmp_path / "out.gguf", "Q8_0", fold="smooth", **asked)
    assert made.notices[-1].startswith("no scales for 4 folds, some of whose tensors are kept bit for bit")
    with gguflike.open(tmp_path / "out.gguf") as after, gguflike.open(tmp_path / "some.gguf") as before:
        assert np.array_equal(after.tensors["blk.0.attn_q.weight"].data, before.tensors["blk.0.attn_q.weight"].data)


def test_scales_that_could_not_move_are_refused_by_the_plan(
    folder: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    convert(folder, tmp_path / "q8.gguf", "Q8_0")
    for fold in ("awq", "smooth"):
        with pytest.raises(UnsupportedError, match="no scales to move: a tensor of each fold is kept bit for bit"):
            quantize_file(tmp_path / "q8.gguf", None, "Q8_0", dry_run=True, fold=fold, **asked)
    with pytest.raises(UnsupportedError, match="no scales to move: no matrix is encoded in blocks"):
        convert(folder, None, "F16", dry_run=True, fold="awq", **asked)


def test_values_that_a_type_cannot_hold_are_an_error(
    folder: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scaling, "smooth", lambda fold, *_: np.full(fold.size, 1e9, np.float32))
    with pytest.raises(QuantizationError, match="too large for the type"):
        convert(folder, tmp_path / "out.gguf", "F16", fold="smooth", **asked)
    assert not (tmp_path / "out.gguf").exists()


def test_the_command_line(
    folder: Path, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(folder, tmp_path / "python.gguf", "Q4_0", fold="awq", **asked)
    text = ["--calibration", str(asked["calibration"][0]), "--calibration-tokens", "1024"]
    assert main(["convert", str(folder), str(tmp_path / "shell.gguf"), "-t", "Q4_0", "--awq", *text]) == 0
    assert "awq: scales of" in capsys.readouterr().out
    assert sha256(tmp_path / "shell.gguf") == sha256(tmp_path / "python.gguf")
    assert main(["convert", str(folder), "-t", "Q4_0", "--awq", "--smooth", "--dry-run"]) == 2
    capsys.readouterr()
    for flag in ("--awq", "--smooth"):  # of two flags for one argument, errors speak of that which was given
        assert main(["convert", str(folder), "--size", "40K", flag, "--dry-run"]) == 2
        assert f"{flag}: types are chosen for the scales" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match="awq, smooth"):
        convert(folder, None, dry_run=True, fold="both")
