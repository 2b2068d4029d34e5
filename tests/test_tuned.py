"""Effort 3: what a conversion rounded is trained end to end before its file appears."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.container import Writer
from gguflike.convert import convert, sized, tuned
from gguflike.convert.tuned import BITS, cut
from gguflike.errors import ArgumentError, UnsupportedError
from gguflike.progress import CALIBRATING
from tests import tiny
from tests.files import sha256
from tests.walks import TEXT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tuned") / "hf", num_hidden_layers=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 24), ("BATCH", 2), ("SEQUENCE", 48), ("HELD_OUT", 480), ("EVERY", 8), ("BITS", 9.0)):
        monkeypatch.setattr(tuned, name, value)


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "text.txt").write_text(TEXT * 12)
    return {"effort": 3, "calibration": [tmp_path / "text.txt"], "calibration_tokens": 960}


def test_the_file_says_what_training_reached(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    made = convert(folder, tmp_path / "three.gguf", "Q4_0", threads=1, **asked)
    convert(folder, tmp_path / "again.gguf", "Q4_0", threads=3, **asked)
    convert(folder, tmp_path / "two.gguf", "Q4_0", **{**asked, "effort": 2})
    assert "then super-scales, scales and codes of types of up to 9 bits and norm gains are trained end to end" in str(
        made
    )
    assert "in up to 24 steps of 2 sequences of up to 48 tokens" in str(made)
    assert "of memory, the whole model in float32 several times" in str(made)
    assert sha256(tmp_path / "three.gguf") == sha256(tmp_path / "again.gguf")
    assert gguflike.verify(tmp_path / "three.gguf").ok
    with gguflike.open(tmp_path / "three.gguf") as three, gguflike.open(tmp_path / "two.gguf") as two:
        before, after = three.metadata["gguflike.tuning.divergence"]
        assert three.metadata["gguflike.calibration.effort"] == 3
        assert three.metadata["gguflike.tuning.moves"] == "codes"
        assert three.metadata["gguflike.tuning.steps"] in (8, 16, 24)
        assert "code.txt" in list(three.metadata["gguflike.tuning.held_out"])
        assert f"{before:.5f} -> {after:.5f}" in made.notices[-1]
        assert {n: t.format for n, t in three.tensors.items()} == {n: t.format for n, t in two.tensors.items()}
        changed = [name for name, t in three.tensors.items() if (t.data != two.tensors[name].data).any()]
    assert bool(changed) == (after < before)


def test_training_helps_and_is_never_worse(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the held-out text is the one that is trained on; at a rate that destroys, nothing changes. Of a type whose
    codes move by default."""
    monkeypatch.setattr(tuned, "held_out", lambda calibration: cut(calibration.sequences, [256], 48)[:8])
    monkeypatch.setattr(tuned, "BITS", BITS)
    asked = {**asked, "pure": True}
    wide = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    folder = tiny.checkpoint(tmp_path / "wide", num_hidden_layers=1, **wide)
    convert(folder, tmp_path / "good.gguf", "Q2_K", **asked)
    monkeypatch.setattr(tuned, "PATIENCE", 1)
    monkeypatch.setattr(tuned, "RATES", {"codes": 9.0, "gains": 9.0})
    convert(folder, tmp_path / "bad.gguf", "Q2_K", **asked)
    convert(folder, tmp_path / "two.gguf", "Q2_K", **{**asked, "effort": 2})
    with gguflike.open(tmp_path / "good.gguf") as good, gguflike.open(tmp_path / "bad.gguf") as bad:
        before, after = good.metadata["gguflike.tuning.divergence"]
        assert good.metadata["gguflike.tuning.moves"] == "codes"
        assert after < 0.99 * before
        assert bad.metadata["gguflike.tuning.steps"] == 8  # where it stopped
        assert np.ptp(bad.metadata["gguflike.tuning.divergence"]) == 0
        with gguflike.open(tmp_path / "two.gguf") as two:
            assert all((t.data == two.tensors[name].data).all() for name, t in bad.tensors.items())
            moved = {name for name, t in good.tensors.items() if (t.data != two.tensors[name].data).any()}
        assert {name for name in moved if good.tensors[name].format.name == "Q2_K"}


def stopped(at: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, what: str) -> None:
        if what.startswith(f"{CALIBRATING}tuning") and done >= at:
            raise KeyboardInterrupt

    return progress


def test_it_goes_on_where_training_was_cut_off(
    folder: Path, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last mark; and where the file was being changed, with what had been reached."""
    whole = tmp_path / "whole" / "m.gguf"
    convert(folder, whole, "Q4_0", **asked)
    out = tmp_path / "cut" / "m.gguf"
    with pytest.raises(KeyboardInterrupt, match="tensors are kept"):
        convert(folder, out, "Q4_0", progress=stopped(13), **asked)
    seen: list[int] = []

    def watch(done: int, total: int, what: str) -> None:
        if what.startswith(f"{CALIBRATING}tuning"):
            seen.append(done)

    replace, calls = Writer.replace, [0]

    def cut_off(self: Writer, name: str, data: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        replace(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            convert(folder, out, "Q4_0", progress=watch, **asked)
    assert min(seen) == 8
    assert not out.exists()
    seen.clear()
    convert(folder, out, "Q4_0", progress=watch, **asked)
    assert not seen
    assert sha256(out) == sha256(whole)
    assert [path.name for path in out.parent.iterdir()] == ["m.gguf"]


def test_a_size_is_kept_to(
    folder: Path, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shards together. There are few types to choose from, and few steps, as it is the size that counts here."""
    for module, name, value in ((sized, "_BELOW", 0.0), (sized, "_ABOVE", 0.0), (tuned, "STEPS", 8)):
        monkeypatch.setattr(module, name, value)
    few = {**asked, "calibration_tokens": 240}
    made = convert(folder, tmp_path / "m.gguf", size=24_000, split_max_tensors=5, **few)
    assert len({tensor.format.name for tensor in made.calibrated}) > 1
    assert sum(Path(path).stat().st_size for path in made.paths) <= 24_000
    assert len(made.paths) > 1
    with gguflike.open(made.paths[0]) as file:
        assert file.metadata["gguflike.tuning.steps"] > 0


def test_what_is_too_large_is_refused(folder: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And codes stay where there is memory for less, which the plan says."""
    plan = convert(folder, None, "Q4_0", dry_run=True, **asked)
    assert plan.tuning is not None
    assert plan.tuning.moves == "codes"
    with monkeypatch.context() as patched:
        patched.setattr(tuned, "BITS", BITS)  # as it is: four bits are many
        assert "then super-scales and norm gains" in str(convert(folder, None, "Q4_0", dry_run=True, **asked))
    monkeypatch.setattr(tuned, "machine_bytes", lambda: int((plan.tuning.memory - 1) / 0.8))
    assert "then super-scales and norm gains are trained" in str(convert(folder, None, "Q4_0", dry_run=True, **asked))
    monkeypatch.setattr(tuned, "machine_bytes", lambda: 1 << 20)
    with pytest.raises(UnsupportedError, match="too large to be tuned on this machine") as caught:
        convert(folder, None, "Q4_0", dry_run=True, **asked)
    assert caught.value.field == "effort"
    assert "`effort=2`" in str(caught.value.remedy)


def test_the_packages_texts_serve_both_ends(folder: Path) -> None:
    plan = convert(folder, None, "Q4_0", dry_run=True, effort=3, calibration_tokens=4096)
    assert plan.calibration is not None
    held_out = {text.name for text in plan.calibration.held_out}
    assert held_out == {"dialogue.jsonl", "essays.txt"}
    assert not held_out & {text.name for text in plan.calibration.texts}
    with pytest.raises(ArgumentError, match="nothing is drawn by chance"):
        convert(folder, None, "Q4_0", dry_run=True, effort=1, seed=5)


def test_sequences_begin_as_they_did() -> None:
    assert cut([[0, 1, 2, 3, 4, 5]], [0], 3) == [[0, 1, 2], [0, 3, 4], [0, 5]]
    assert cut([[1, 2, 3]], [], 2) == [[1, 2], [3]]
