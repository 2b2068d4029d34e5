"""gguflike calibrate: from a checkpoint or a file, with texts, to importance and Hessians."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.calibrate import files, needs, store
from gguflike.calibrate.statistics import Statistics
from gguflike.calibrate.store import Store
from gguflike.calibrate.stream import stream
from gguflike.calibrate.sums import Hessians, Importances, Together
from gguflike.cli import main
from gguflike.convert import imatrix as imatrices
from gguflike.convert.matrix_inputs import _Found
from gguflike.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    GGUFLikeError,
    OutputError,
    QuantizationError,
)
from gguflike.families import registry
from gguflike.families.parts import Branch
from gguflike.families.parts.experts import Experts, Router
from tests import by_hand, tiny
from tests.imatrix_files import imatrix_dat

TEXT = "The quick brown fox jumps over the lazy dog. 0123456789\n" * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_text(TEXT)
    return tiny.checkpoint(tmp_path / "model")


def test_importance_of_a_checkpoint_and_of_its_file_is_the_same(folder: Path, tmp_path: Path) -> None:
    gguflike.convert(folder, tmp_path / "f.gguf", "F32")
    for source, target in ((folder, "a.gguf"), (tmp_path / "f.gguf", "b.gguf")):
        found = gguflike.calibrate(source, tmp_path / target, calibration=[tmp_path / "t.txt"], context=32)
        assert found.tokens == len(TEXT)  # a token for each byte
        assert found.sequences == -(-len(TEXT) // 32)
        assert found.matrices == 15
        assert found.unreached == {}
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # the workspace is removed


def test_the_file_says_what_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    gguflike.calibrate(folder, tmp_path / "a.gguf", calibration=[tmp_path / "t.txt"], context=32, tokens=64)
    fields = tiny.gguf_fields(tmp_path / "a.gguf")
    assert fields["general.type"] == ("STRING", "imatrix")
    assert fields["imatrix.datasets"] == ("ARRAY of STRING", ["t.txt"])
    assert fields["imatrix.chunk_count"] == ("UINT32", 2)
    assert fields["imatrix.chunk_size"] == ("UINT32", 32)
    tensors = tiny.gguf_tensors(tmp_path / "a.gguf")
    assert tensors["blk.0.ffn_down.weight.in_sum2"].data.shape == (1, 64)
    assert tensors["blk.0.ffn_down.weight.counts"].data.tolist() == [[64.0]]
    plan = gguflike.convert(folder, tmp_path / "q.gguf", "Q4_0", imatrix=tmp_path / "a.gguf")
    assert not [notice for notice in plan.notices if "importance" in notice]


def test_sums_are_added_to_those_of_other_files(folder: Path, tmp_path: Path) -> None:
    def made(name: str, **settings: Any) -> imatrices.Imatrix:
        gguflike.calibrate(folder, tmp_path / name, calibration=[tmp_path / "t.txt"], context=32, **settings)
        return imatrices.read(tmp_path / name)

    one = made("one.gguf", tokens=64)
    mean = np.arange(1, 33.0)
    imatrix_dat(tmp_path / "old.dat", {"blk.0.attn_q.weight": (3, 3 * mean), "other": (3, mean)})
    both = made("both.gguf", tokens=64, merge=[tmp_path / "one.gguf", tmp_path / "old.dat"])
    entry, merged = one.entries["blk.0.attn_q.weight"], both.entries["blk.0.attn_q.weight"]
    np.testing.assert_allclose(merged.sums, 2 * entry.sums + 32 * 3 * mean, rtol=1e-6)  # a call is a chunk
    assert merged.counts.tolist() == [2 * 64 + 32 * 3]
    assert both.entries["other"].counts.tolist() == [96]
    assert both.datasets == ("t.txt", "text")
    assert both.chunks == 2 + 2 + 7
    imatrix_dat(tmp_path / "bad.dat", {"blk.0.attn_q.weight": (3, np.ones(5))})
    with pytest.raises(CheckpointError, match="another shape"):
        made("bad.gguf", merge=[tmp_path / "bad.dat"])


def test_stacks_of_the_old_format_merge_with_those_of_the_new() -> None:
    new = imatrices.Imatrix("n", (), {"e": imatrices.Entry(np.ones((2, 3)), np.array([4.0, 0.0]))}, (), 1, 8)
    old = imatrices.Imatrix("o", (), {"e": imatrices.Entry(np.arange(6.0)[None], np.array([1.0]))})
    merged = imatrices.merge([old, new], "m").entries["e"]
    assert merged.sums.tolist() == [[1, 9, 17], [25, 33, 41]]
    assert merged.counts.tolist() == [12, 8]


def test_hessians_are_kept_beside(folder: Path, tmp_path: Path) -> None:
    found = gguflike.calibrate(
        folder, tmp_path / "a.gguf", hessians=tmp_path / "h", calibration=[tmp_path / "t.txt"], context=32
    )
    kept = Store(tmp_path / "h")
    about = kept.about
    assert (about["source"], about["texts"], about["context"]) == ("model", ["t.txt"], 32)
    assert (about["sequences"], about["tokens"]) == (found.sequences, found.tokens)
    entries = imatrices.read(tmp_path / "a.gguf").entries
    assert set(kept) == set(entries)
    for name, entry in entries.items():
        statistics = kept[name]
        assert isinstance(statistics, Statistics)
        np.testing.assert_allclose(np.diagonal(statistics.gram), entry.mean[0], rtol=1e-5)
        assert statistics.tokens == found.tokens
    with pytest.raises(OutputError, match="exists"):
        gguflike.calibrate(folder, hessians=tmp_path / "h", calibration=[tmp_path / "t.txt"])
    (tmp_path / "b.txt").write_text("other")
    gguflike.calibrate(folder, hessians=tmp_path / "h", calibration=[tmp_path / "b.txt"], overwrite=True)
    assert Store(tmp_path / "h").about["texts"] == ["b.txt"]


def test_a_run_goes_on_only_into_the_same_folder_of_hessians(folder: Path, tmp_path: Path) -> None:
    """What a run that was cut off has kept elsewhere is not there."""

    def stops(done: int, total: int, what: str) -> None:
        if "layer 2" in what:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"calibration": [tmp_path / "t.txt"], "context": 32}
    with pytest.raises(KeyboardInterrupt):
        gguflike.calibrate(folder, tmp_path / "a.gguf", hessians=tmp_path / "h", **settings, progress=stops)
    assert list((tmp_path / "h").glob("*.npy"))
    gguflike.calibrate(folder, tmp_path / "a.gguf", hessians=tmp_path / "other", **settings)
    kept = Store(tmp_path / "other")
    assert set(kept) == set(imatrices.read(tmp_path / "a.gguf").entries)
    assert all(isinstance(kept[name], Statistics) for name in kept)


def test_one_run_at_a_time_for_a_target(folder: Path, tmp_path: Path) -> None:
    """The second is refused, and the first is none the worse for it; so is one that keeps Hessians in its folder."""
    settings: dict[str, Any] = {"calibration": [tmp_path / "t.txt"], "context": 32}
    gguflike.calibrate(folder, tmp_path / "alone.gguf", hessians=tmp_path / "of-alone", **settings)
    refused: list[str] = []

    def progress(done: int, total: int, what: str) -> None:
        for out, hessians in (("a.gguf", None), ("b.gguf", "h"), (None, "h")):
            with pytest.raises(OutputError, match="another process is at work, calibrating for ") as caught:
                gguflike.calibrate(
                    folder,
                    None if out is None else tmp_path / out,
                    hessians=None if hessians is None else tmp_path / hessians,
                    **settings,
                )
            refused.append(str(caught.value))

    gguflike.calibrate(folder, tmp_path / "a.gguf", hessians=tmp_path / "h", **settings, progress=progress)
    assert f"{tmp_path / 'h'}" in refused[1]
    assert "wait until it is done" in refused[0]
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "alone.gguf").read_bytes()
    for path in (tmp_path / "of-alone").iterdir():
        assert path.read_bytes() == (tmp_path / "h" / path.name).read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or path.name == "b.gguf"]


def test_a_disk_without_room_for_hessians_is_told_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the bytes that they will take; what is there already need not be free."""
    settings: dict[str, Any] = {"calibration": [tmp_path / "t.txt"], "context": 32}
    gguflike.calibrate(folder, hessians=tmp_path / "h", **settings)
    sizes = {path.stem: path.stat().st_size for path in (tmp_path / "h").glob("*.npy")}
    with gguflike.open(gguflike.convert(folder, tmp_path / "f.gguf", "F32").paths[0]) as file:
        family = registry.for_gguf("llama")
        graph = family.graph(family.from_file(file.metadata, file.infos))
    assert needs.kept(graph) == sizes
    states = needs.disk(graph, len(TEXT), Importances(), False)
    free = sum(sizes.values()) + states - 1
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    def computes(*_: Any) -> None:
        raise AssertionError

    with pytest.raises(OutputError, match=f"{free + 1:,} bytes free; got {free:,}"):
        gguflike.calibrate(folder, hessians=tmp_path / "other", **settings, progress=computes)
    assert not (tmp_path / "other").exists()
    gguflike.calibrate(folder, hessians=tmp_path / "h", **settings, overwrite=True)


def test_inputs_of_the_first_layer_are_those_of_the_definition(folder: Path, tmp_path: Path) -> None:
    gguflike.calibrate(folder, tmp_path / "a.gguf", calibration=[tmp_path / "t.txt"], context=32)
    weights = tiny.weights(tiny.config())
    x = weights["model.embed_tokens.weight"][list(TEXT.encode())].astype(np.float64)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * weights["model.layers.0.input_layernorm.weight"]
    entry = imatrices.read(tmp_path / "a.gguf").entries["blk.0.attn_q.weight"]
    np.testing.assert_allclose(entry.sums[0], np.square(x).sum(0), rtol=1e-5)
    assert entry.counts.tolist() == [len(TEXT)]


def test_a_run_that_was_cut_off_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"calibration": [tmp_path / "t.txt"], "context": 32}
    gguflike.calibrate(folder, tmp_path / "whole.gguf", **settings)
    made: list[int] = []
    one = Importances.one

    def counted(self: Importances, columns: int, cross: bool) -> Any:
        made.append(columns)
        if len(made) == 7:
            raise KeyboardInterrupt
        return one(self, columns, cross)

    monkeypatch.setattr(Importances, "one", counted)
    with pytest.raises(KeyboardInterrupt):
        gguflike.calibrate(folder, tmp_path / "cut.gguf", **settings)
    assert (tmp_path / ".cut.gguf.calibration").is_dir()
    made.append(0)
    gguflike.calibrate(folder, tmp_path / "cut.gguf", **settings)
    assert len(made) == 8 + 5  # the second layer and the output matrix
    assert (tmp_path / "cut.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert not (tmp_path / ".cut.gguf.calibration").exists()


def test_conversations_are_rendered_by_the_template(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said["chat_template"] = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    line = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    (tmp_path / "c.jsonl").write_text(json.dumps(line))
    found = gguflike.calibrate(folder, tmp_path / "a.gguf", calibration=[tmp_path / "c.jsonl"])
    assert found.tokens == 1 + len("[user]hi[assistant]ho")
    plain = tiny.checkpoint(tmp_path / "plain")
    with pytest.raises(ArgumentError, match="no chat template"):
        gguflike.calibrate(plain, tmp_path / "b.gguf", calibration=[tmp_path / "c.jsonl"])


def test_the_command_and_its_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "a.gguf")
    arguments = ["calibrate", str(folder), "-o", target, "--calibration", str(tmp_path / "t.txt"), "--context", "32"]
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["importance"] == target
    assert said["hessians"] is None
    assert said["matrices"] == 15
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "15 matrices on" in out
    assert f"wrote {target}" in out
    assert main(["calibrate", str(folder)]) == 2
    assert "-o FILE" in capsys.readouterr().err


def test_a_target_that_is_the_source_is_refused(folder: Path, tmp_path: Path) -> None:
    gguflike.convert(folder, tmp_path / "f.gguf", "F32")
    before = (tmp_path / "f.gguf").read_bytes()
    with pytest.raises(OutputError):
        gguflike.calibrate(tmp_path / "f.gguf", tmp_path / "f.gguf", calibration=[tmp_path / "t.txt"], overwrite=True)
    assert (tmp_path / "f.gguf").read_bytes() == before
    with pytest.raises(ArgumentError, match="nothing is asked for"):
        gguflike.calibrate(folder)


def test_what_is_wrong_is_said_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    """Of what is read, nothing is a target, and what is merged fits."""

    def computes(*_: Any) -> None:
        raise AssertionError

    text, name = tmp_path / "t.txt", "blk.0.attn_q.weight"
    old, bad, taken = tmp_path / "old.dat", tmp_path / "bad.dat", tmp_path / "file"
    imatrix_dat(old, {name: (3, np.ones(32))})
    imatrix_dat(bad, {name: (3, np.ones(5))})
    taken.write_bytes(b"")
    for out, merge, said in (
        (text, [], "also a source"),
        (old, [old], "also a source"),
        (tmp_path / "m.gguf", [bad], "another shape"),
        (taken / "m.gguf", [], "cannot write"),
    ):
        before = {path: path.read_bytes() for path in (text, old)}
        with pytest.raises(GGUFLikeError, match=said):
            gguflike.calibrate(folder, out, calibration=[text], merge=merge, overwrite=True, progress=computes)
        assert {path: path.read_bytes() for path in before} == before
    gguflike.convert(folder, tmp_path / "f.gguf", "F32")
    for src, settings, said in (
        (folder, {"hessians": folder}, "the target is also the source"),
        (folder, {"hessians": taken}, "expected a folder"),
        (folder, {"out": tmp_path / "m.gguf", "workspace": taken}, "expected a folder"),
        (folder, {"hessians": tmp_path / "h", "merge": [old]}, "merge: sums are added to .*give `out`, too"),
        (tmp_path / "f.gguf", {"out": tmp_path / "m.gguf", "revision": "main"}, "revision: a GGUF file has no"),
    ):
        with pytest.raises(GGUFLikeError, match=said):
            gguflike.calibrate(src, calibration=[text], progress=computes, **settings)
    for field in ("calibration", "merge"):
        with pytest.raises(ArgumentTypeError, match=f"{field}: not a list"):
            gguflike.calibrate(folder, tmp_path / "m.gguf", **{field: str(text)})  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_one_error_that_leaves_nothing(tmp_path: Path) -> None:
    """Nor does it leave what there would be to go on from: it would come to the same."""
    (tmp_path / "t.txt").write_text(TEXT)
    huge = {"model.layers.1.input_layernorm.weight": np.full(32, 1e36, np.float32)}
    nan = {"model.layers.1.mlp.up_proj.weight": np.full((64, 32), np.nan, np.float32)}
    for number, (change, tensor) in enumerate(((huge, "blk.1.attn_output.weight"), (nan, "mlp.up_proj"))):
        place = tmp_path / str(number)
        source = tiny.checkpoint(tmp_path / f"model{number}", change=change)
        with pytest.raises(QuantizationError, match=rf"{tensor}.* not finite"):
            gguflike.calibrate(source, place / "m.gguf", calibration=[tmp_path / "t.txt"])
        assert not place.exists()


def test_experts_have_their_own_importance_and_hessians(tmp_path: Path) -> None:
    graph = by_hand.graph(
        (
            Branch(by_hand.rms("attn_norm"), by_hand.attention()),
            Branch(by_hand.rms("ffn_norm"), Experts(by_hand.WIDTH, 32, 6, 2, Router())),
        )
    )
    weights = {
        name: np.ones(tensor.shape, np.float32) / 8 for name, _, tensor in graph.tensors() if tensor.used
    }  # every token goes to the first two
    found = _Found(tmp_path / "found", tmp_path / "h", lambda name: name[:3])
    both = Together((Importances(), Hessians()))
    stream(graph, weights.__getitem__, [[1, 2, 3]], None, tmp_path / "w", found=found.take, collecting=both)
    entries, groups = found.all()
    assert entries["blk.0.ffn_up_exps.weight"].counts.tolist() == [3, 3, 0, 0, 0, 0]
    assert entries["blk.0.ffn_up_exps.weight"].sums.shape == (6, by_hand.WIDTH)
    store.finish(tmp_path / "h", {}, groups)
    kept = Store(tmp_path / "h")["blk.0.ffn_down_exps.weight"]
    assert not isinstance(kept, Statistics)
    assert [one.tokens for one in kept] == [3, 3, 0, 0, 0, 0]
    np.testing.assert_array_equal(kept[5].gram, kept[0].gram)  # all that is known is the layer's
