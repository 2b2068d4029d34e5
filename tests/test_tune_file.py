"""gguflike tune: from a checkpoint to a file whose blocks were trained."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import reference
from gguflike.calibrate.distill import log_softmax
from gguflike.cli import main
from gguflike.errors import ArgumentError, OutputError, UnsupportedError
from gguflike.tuning import _graph, plan_tuning
from tests import tiny

SIZES = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}
TEXTS = {"one": "When shall we three meet again? " * 40, "two": "In thunder, lightning, or in rain. " * 20}
OTHER = {"other": "Fair is foul, and foul is fair. " * 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tune") / "hf", **SIZES)


def tuned(folder: Path, out: Path, **settings: Any) -> Any:
    settings = {"text": TEXTS, "held_out": OTHER, "steps": 4, "context": 32, "threads": 2, **settings}
    kind = None if "start" in settings else "Q2_K"
    return gguflike.tune(folder, out, settings.pop("type", kind), **settings)


def divergence(path: Path, floats: Path, ids: list[int]) -> float:
    """Of a file, read back, from another."""
    logs = []
    for each in (floats, path):
        with gguflike.open(each) as file:
            weights = {name: tensor.dequantize() for name, tensor in file.tensors.items()}
            logs.append(log_softmax(reference.logits(_graph(file), weights, ids)))
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


def test_the_file_is_what_training_computed(folder: Path, tmp_path: Path) -> None:
    result = tuned(folder, tmp_path / "new" / "out.gguf", steps=20)
    shutil.move(tmp_path / "new" / "out.gguf", tmp_path)  # out of a folder that was made
    assert [mark.step for mark in result.marks] == [0, 20]
    gguflike.convert(folder, tmp_path / "f32.gguf", "F32")
    gguflike.quantize_file(tmp_path / "f32.gguf", tmp_path / "plain.gguf", "Q2_K")
    with gguflike.open(tmp_path / "out.gguf") as file, gguflike.open(tmp_path / "plain.gguf") as plain:
        types = {name: tensor.format.name for name, tensor in file.tensors.items()}
        assert types == {name: tensor.format.name for name, tensor in plain.tensors.items()}
        assert "Q2_K" in types.values()
        assert file.metadata["gguflike.tuning.moves"] == "codes"
        assert file.metadata["general.file_type"] == plain.metadata["general.file_type"]
        changed = {n for n, t in file.tensors.items() if not np.array_equal(t.data, plain.tensors[n].data)}
    ids = [int(i) for i in gguflike.load(tmp_path / "out.gguf").tokenize(OTHER["other"])]
    rows = [ids[i : i + 32] for i in range(0, len(ids) - 31, 32)]
    for path, figure in ((tmp_path / "plain.gguf", result.before), (tmp_path / "out.gguf", result.after)):
        assert figure == pytest.approx(
            np.mean([divergence(path, tmp_path / "f32.gguf", row) for row in rows]), rel=1e-3
        )
    assert bool(changed) == (result.after < result.before)
    assert gguflike.verify(tmp_path / "out.gguf").ok


def test_another_file_to_begin_with(folder: Path, tmp_path: Path) -> None:
    gguflike.convert(folder, tmp_path / "start.gguf", "Q3_K_M", tokenizer_proof="warn")
    tuned(folder, tmp_path / "out.gguf", start=tmp_path / "start.gguf", moves="scales")
    with gguflike.open(tmp_path / "out.gguf") as file, gguflike.open(tmp_path / "start.gguf") as start:
        assert [t.format for t in file.tensors.values()] == [t.format for t in start.tensors.values()]
        for name, tensor in file.tensors.items():
            if tensor.format.name == "Q3_K":  # whose codes are before the scales and the super-scale
                blocks = [each.tensors[name].rows.reshape(-1, 110)[:, :96] for each in (file, start)]
                assert np.array_equal(*blocks)
    other = tiny.checkpoint(tmp_path / "other", **{**SIZES, "intermediate_size": 512})
    with pytest.raises(ArgumentError, match="not a quantization of the model"):
        tuned(other, tmp_path / "wrong.gguf", start=tmp_path / "start.gguf")
    with pytest.raises(ArgumentError, match="not a quantization of the model"):
        planned(other, tmp_path / "wrong.gguf", None, start=tmp_path / "start.gguf")
    for others in ({"type": "Q2_K"}, {"imatrix": tmp_path / "imatrix.gguf"}):
        with pytest.raises(ArgumentError, match="the file to begin with is made already") as caught:
            tuned(folder, tmp_path / "wrong.gguf", start=tmp_path / "start.gguf", **others)
        assert [caught.value.field] == list(others)


def test_nothing_that_is_read_is_written_over(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "hf")
    before = {path: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    for path in before:
        for of in (planned, lambda *given: tuned(*given, overwrite=True)):
            with pytest.raises(OutputError, match="the target is also a source"):
                of(tmp_path / "hf", path)
    assert {path: path.read_bytes() for path in (tmp_path / "hf").iterdir()} == before


def test_sequences_are_as_long_as_the_model_was_trained_with(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "short", **SIZES, max_position_embeddings=48)
    gguflike.convert(folder, tmp_path / "f32.gguf", "F32", tokenizer_proof="warn")
    for source in (folder, tmp_path / "f32.gguf"):
        assert planned(source, tmp_path / "out.gguf", context=256).context == 48
        tuned(source, tmp_path / "out.gguf", context=256, steps=1, overwrite=True)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXTS["one"])
    (tmp_path / "b.txt").write_text(OTHER["other"])
    command = [
        *("tune", str(folder), "-o", str(tmp_path / "out.gguf"), "-t", "q4_k_s", "--text", str(tmp_path / "a.txt")),
        *("--held-out", str(tmp_path / "b.txt"), "--steps", "2", "--context", "32"),
    ]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["after"] <= said["before"]
    assert said["marks"][0]["trained"] is None
    assert main(command) == 1
    assert "the target exists" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert "held-out divergence" in capsys.readouterr().out


def planned(folder: Path, out: Path, kind: str | None = "Q2_K", **settings: Any) -> Any:
    return plan_tuning(folder, out, kind, **{"text": TEXTS, "held_out": OTHER, "context": 32, **settings})


def test_what_is_wrong_is_said_before_anything_is_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there.gguf").write_bytes(b"")
    with pytest.raises(OutputError, match="the target exists"):
        tuned(folder, tmp_path / "there.gguf")
    with pytest.raises(ArgumentError, match="moves"):
        tuned(folder, tmp_path / "out.gguf", moves="everything")
    (tmp_path / "t.txt").write_text("x")
    for of in (tuned, planned):
        with pytest.raises(OutputError, match="also a source"):
            of(folder, tmp_path / "t.txt", held_out=[tmp_path / "t.txt"])
        with pytest.raises(OutputError, match="the target is a folder"):
            of(folder, tmp_path)
    with pytest.raises(OutputError, match=r"cannot write; expected a folder; got .*t.txt, which is none"):
        tuned(folder, tmp_path / "t.txt" / "out.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    monkeypatch.setattr(sys.modules["gguflike.tuning"], "train", None)  # which is not reached
    with pytest.raises(OutputError, match=r"room|space"):
        tuned(folder, tmp_path / "new" / "out.gguf")
    monkeypatch.undo()
    assert not (tmp_path / "new").exists()
    with pytest.raises(ArgumentError, match=r"held_out.*at least 32 tokens"):
        tuned(folder, tmp_path / "out.gguf", held_out={"short": "x"})
    with pytest.raises(ArgumentError, match=r"held_out: trained on, too.*got again"):
        tuned(folder, tmp_path / "out.gguf", held_out={"again": TEXTS["two"]})
    for wrong in ({"context": 1}, {"tokens": 1}, {"threads": 0}):
        with pytest.raises(ArgumentError, match="out of range"):
            tuned(folder, tmp_path / "out.gguf", **wrong)
    for kind in ("F16", "Q2_K"):  # no block of which divides rows of 40
        odd = tiny.checkpoint(tmp_path / "odd", hidden_size=40, intermediate_size=72, head_dim=10)
        with pytest.raises(ArgumentError, match="nothing to train: no matrix has blocks with scales"):
            tuned(odd, tmp_path / "out.gguf", type=kind)
    monkeypatch.setattr(sys.modules["gguflike.convert.tuned"], "machine_bytes", lambda: 1 << 20)
    with pytest.raises(UnsupportedError, match="too large to be tuned on this machine"):
        tuned(folder, tmp_path / "out.gguf")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 50)
    for name in ("text", "held_out"):
        with pytest.raises(ArgumentError, match=rf"{name}: the text is not UTF-8"):
            tuned(folder, tmp_path / "out.gguf", **{name: [tmp_path / "latin.txt"]})
