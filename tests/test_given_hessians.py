"""Conversions with Hessians that an earlier calibration has kept: what they are rounded by, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.blocks import format_by_name
from gguflike.calibrate import store
from gguflike.calibrate.rounding import round_matrix
from gguflike.calibrate.statistics import Statistics
from gguflike.calibrate.store import Store
from gguflike.cli import main
from gguflike.convert import calibrated, calibration, convert, given_hessians, quantize_file
from gguflike.errors import ArgumentError, CheckpointError, GGUFLikeError, OutputError
from gguflike.progress import CALIBRATING
from tests import tiny

TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want. "


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint ``hf`` and its Hessians ``h``; nothing is to be changed there."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "text.txt").write_text(TEXT * 20)
    tiny.checkpoint(folder / "hf")
    gguflike.calibrate(folder / "hf", hessians=folder / "h", calibration=[folder / "text.txt"])
    return folder


def test_matrices_are_rounded_with_what_is_kept(place: Path, tmp_path: Path) -> None:
    """Each as `round_matrix` rounds it, all else as without; the plan and the file say so."""
    made = convert(place / "hf", tmp_path / "made.gguf", "Q4_0", pure=True, hessians=place / "h")
    convert(place / "hf", tmp_path / "plain.gguf", "Q4_0", pure=True)
    known, weights = Store(place / "h"), tiny.weights(tiny.config())
    with gguflike.open(tmp_path / "made.gguf") as file, gguflike.open(tmp_path / "plain.gguf") as plain:
        assert len(known) == 15
        differ = {name for name, t in file.tensors.items() if (t.data != plain.tensors[name].data).any()}
        assert differ <= set(known)
        assert len(differ) > 10
        for name, source in (("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj"), ("output.weight", "lm_head")):
            of_it = known[name]
            assert isinstance(of_it, Statistics)
            expected = round_matrix(weights[f"{source}.weight"], format_by_name("Q4_0"), of_it)
            np.testing.assert_array_equal(file.tensors[name].rows, expected)
        said = {key.rpartition(".")[2]: file.metadata[key] for key in file.metadata if "calibration." in key}
    assert said["effort"] == 1
    assert said["hessians"] == "float"
    assert said["texts"] == ["text.txt"]
    assert said["tokens"] == len(TEXT) * 20
    assert f"effort 1: 15 tensors rounded with the Hessians in {place / 'h'}, of 2,160 tokens of text.txt" in str(made)
    assert "is not made up for" in str(made)


def test_any_number_of_types_and_threads_without_text(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the source and the Hessians is needed, and a file of floats is such a source, too."""
    convert(place / "hf", tmp_path / "f32.gguf", "F32")
    moved = shutil.copytree(place / "h", tmp_path / "moved")

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("the model runs")

    monkeypatch.setattr(calibrated, "stream", fails)
    monkeypatch.setattr(calibration, "stream", fails)
    for type in ("Q4_0", "IQ4_NL"):
        for name, threads in (("one", 1), ("three", 3)):
            convert(place / "hf", tmp_path / f"{name}.gguf", type, hessians=moved, threads=threads, overwrite=True)
        assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()
        quantize_file(tmp_path / "f32.gguf", tmp_path / "again.gguf", type, hessians=moved, overwrite=True)
        with gguflike.open(tmp_path / "one.gguf") as one, gguflike.open(tmp_path / "again.gguf") as again:
            assert all((again.tensors[name].data == t.data).all() for name, t in one.tensors.items())
    sized = convert(place / "hf", tmp_path / "sized.gguf", size=40_000, hessians=moved)
    assert sized.file_bytes <= 40_000
    assert len(sized.by_type()) > 2


def mixture(folder: Path) -> Path:
    """A checkpoint of one layer with three experts, of which a token goes to two."""
    changes: dict[str, Any] = {"num_local_experts": 3, "num_experts_per_tok": 2, "num_hidden_layers": 1}
    changes |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    tiny.checkpoint(folder, **changes)
    tensors = {name: x for name, x in tiny.weights(tiny.config(**changes)).items() if ".mlp." not in name}
    rng, part = np.random.default_rng(0), "model.layers.0.block_sparse_moe"
    tensors[f"{part}.gate.weight"] = rng.standard_normal((3, 32), np.float32) * np.float32(0.2)
    for expert in range(3):
        for name, shape in (("w1", (64, 32)), ("w3", (64, 32)), ("w2", (32, 64))):
            tensors[f"{part}.experts.{expert}.{name}.weight"] = rng.standard_normal(shape, np.float32) / np.float32(5)
    (folder / "model.safetensors").write_bytes(tiny.safetensors(tensors))
    return folder


def test_experts_are_rounded_each_with_its_own(tmp_path: Path) -> None:
    """As a stack, drawn to what the layer sees."""
    folder = mixture(tmp_path / "hf")
    (tmp_path / "text.txt").write_text(TEXT * 5)
    gguflike.calibrate(folder, hessians=tmp_path / "h", calibration=[tmp_path / "text.txt"])
    made = convert(folder, tmp_path / "m.gguf", "Q4_0", pure=True, hessians=tmp_path / "h")
    known = Store(tmp_path / "h")
    assert made.calibration is not None
    with gguflike.open(tmp_path / "m.gguf") as file:
        for name in ("blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"):
            stack, weights = known[name], made.calibration.model.read(name)
            assert not isinstance(stack, Statistics)
            assert sum(one.tokens for one in stack) == 2 * len(TEXT) * 5
            rows = [
                round_matrix(matrix, format_by_name("Q4_0"), of_it)
                for matrix, of_it in zip(weights, stack, strict=True)
            ]
            np.testing.assert_array_equal(file.tensors[name].rows, np.concatenate(rows))
    known.path(known.group("blk.0.ffn_up_exps.weight")).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert(folder, tmp_path / "m.gguf", "Q4_0", hessians=tmp_path / "h", overwrite=True)


def test_it_goes_on_where_it_was_cut_off(place: Path, tmp_path: Path) -> None:
    convert(place / "hf", tmp_path / "whole.gguf", "Q4_0", hessians=place / "h")
    told: list[str] = []

    def stops(done: int, total: int, what: str) -> None:
        if what.startswith(CALIBRATING) and done >= 0.6 * total:
            raise KeyboardInterrupt

    out = tmp_path / "cut" / "m.gguf"
    with pytest.raises(KeyboardInterrupt, match="tensors are kept"):
        convert(place / "hf", out, "Q4_0", hessians=place / "h", progress=stops)
    convert(place / "hf", out, "Q4_0", hessians=place / "h", progress=lambda _done, _total, what: told.append(what))
    rounded = [what for what in told if what.startswith(f"{CALIBRATING}blk")]
    assert 0 < len(rounded) < 12
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("tensor", "matches"), [("model.norm.weight", "embedding, norms"), ("lm_head.weight", "its output.weight had")]
)
def test_another_model_of_the_same_shape_is_refused(place: Path, tmp_path: Path, tensor: str, matches: str) -> None:
    """By its values, whether they are of a matrix or not."""
    shutil.copytree(place / "hf", tmp_path / "hf")
    weights = tiny.weights(tiny.config())
    weights[tensor] = weights[tensor] * np.float32(1.01)
    (tmp_path / "hf" / "model.safetensors").write_bytes(tiny.safetensors(weights))
    with pytest.raises(CheckpointError, match=matches) as caught:
        convert(tmp_path / "hf", tmp_path / "out" / "m.gguf", "Q4_0", hessians=place / "h")
    assert caught.value.field == "hessians"
    assert not (tmp_path / "out" / "m.gguf").exists()


def test_another_shape_is_refused_by_the_plan(place: Path, tmp_path: Path) -> None:
    wide = tiny.checkpoint(tmp_path / "wide", intermediate_size=96)
    with pytest.raises(CheckpointError, match="of another model") as caught:
        convert(wide, None, "Q4_0", hessians=place / "h", dry_run=True)
    assert caught.value.tensor == "blk.0.ffn_down.weight"
    with pytest.raises(CheckpointError, match="no such tensor"):
        convert(place / "hf", None, "Q4_0", hessians=place / "h", dry_run=True, prune_layers=[1])


def _index(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        said = json.loads((folder / store.INDEX).read_text())
        change(said)
        (folder / store.INDEX).write_text(json.dumps(said))

    return damage


@pytest.mark.parametrize(
    ("damage", "matches"),
    [
        (lambda folder: (folder / store.INDEX).unlink(), "no statistics in this folder"),
        (lambda folder: (folder / store.INDEX).write_text("{"), "not an index"),
        (_index(lambda said: said.update(format=1)), "another format"),
        (_index(lambda said: said["groups"][0].update(sha256=[])), "not an index"),
        (_index(lambda said: said["groups"][0].update(names=["../x"] * 3)), "not an index"),
        (_index(lambda said: said["groups"][0].update(columns="32")), "not an index"),
        (_index(lambda said: said["about"].pop("rest")), "not said how"),
        (_index(lambda said: said["about"].update(tokens="many")), "not said how"),
        (_index(lambda said: said["groups"].pop()), "no Hessian of the output matrix"),
        (lambda folder: (folder / "blk.0.ffn_down.weight.npy").write_bytes(b"no"), "cannot be read"),
        (lambda folder: np.save(folder / "blk.0.ffn_down.weight.npy", np.ones(3)), "wrong shape"),
    ],
)
def test_damaged_folders_are_refused(place: Path, tmp_path: Path, damage: Callable[[Path], None], matches: str) -> None:
    shutil.copytree(place / "h", tmp_path / "h")
    damage(tmp_path / "h")
    with pytest.raises(CheckpointError, match=matches):
        convert(place / "hf", tmp_path / "m.gguf", "Q4_0", hessians=tmp_path / "h")
    assert not (tmp_path / "m.gguf").exists()


def test_what_does_not_go_together_is_refused_by_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for others, field in (
        ({"effort": 2}, "hessians"),
        ({"calibration": [place / "text.txt"]}, "calibration"),
        ({"calibration_tokens": 99}, "calibration_tokens"),
        ({"fold": "awq"}, "fold"),
        ({"imatrix": place / "i.gguf"}, "imatrix"),
        ({"method": "absmax"}, "method"),
    ):
        with pytest.raises(ArgumentError) as caught:
            convert(place / "hf", None, "Q4_0", dry_run=True, hessians=place / "h", **others)  # type: ignore[arg-type]
        assert caught.value.field == field
        assert "hessians" in str(caught.value.remedy) or field == "hessians"
    with pytest.raises(OutputError):  # a target that is read
        convert(place / "hf", place / "h" / store.INDEX, "Q4_0", hessians=place / "h", overwrite=True)
    asked = ["convert", str(place / "hf"), str(tmp_path / "m.gguf"), "-t", "Q4_0", "--hessians", str(place / "h")]
    assert main([*asked, "--effort", "2"]) == 2
    assert "--hessians" in capsys.readouterr().err
    assert main([*asked[:-1], str(tmp_path / "none")]) == 1
    assert "calibrate this source, with --hessians" in capsys.readouterr().err
    assert main(asked) == 0
    assert "15 tensors rounded with the Hessians" in capsys.readouterr().out
    with pytest.raises(GGUFLikeError):
        convert(tmp_path / "m.gguf", None, "Q4_0", hessians=place / "h")


def test_folders_that_are_written_anew_hold_nothing_until_then(place: Path, tmp_path: Path) -> None:
    """Else what was cut off would be taken for what was there before."""
    shutil.copytree(place / "h", tmp_path / "h")

    def stops(done: int, total: int, what: str) -> None:
        if "layer 2" in what:
            raise KeyboardInterrupt

    (tmp_path / "other.txt").write_text(TEXT[::-1] * 20)
    again: dict[str, Any] = {"hessians": tmp_path / "h", "calibration": [tmp_path / "other.txt"], "overwrite": True}
    with pytest.raises(KeyboardInterrupt):
        gguflike.calibrate(place / "hf", **again, progress=stops)
    with pytest.raises(CheckpointError, match="no statistics"):
        Store(tmp_path / "h")
    gguflike.calibrate(place / "hf", **again)
    assert Store(tmp_path / "h").about["texts"] == ["other.txt"]
    assert given_hessians.About.read(Store(tmp_path / "h")).tokens == len(TEXT) * 20
    convert(place / "hf", tmp_path / "m.gguf", "Q4_0", hessians=tmp_path / "h")
