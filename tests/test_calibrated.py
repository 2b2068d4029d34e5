"""Conversions that are calibrated: what they lose, that they give the same bytes however they go, what they refuse."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import frozen
from gguflike.blocks import FORMATS
from gguflike.cli import main
from gguflike.convert import ConversionPlan, convert, quantize_file, workload
from gguflike.convert.calibration import Calibration
from gguflike.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from gguflike.families import config as configs
from gguflike.progress import CALIBRATING
from gguflike.tensor import QuantizedTensor
from tests import tiny
from tests.files import sha256
from tests.measures import divergence
from tests.test_family_configs import ROWS, as_read, read
from tests.walks import TEXT, weights_of

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
OF_GRAPH = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "hf")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 40)
    return path


@pytest.fixture
def asked(text: Path) -> dict[str, Any]:
    return {"effort": 1, "calibration": [text], "calibration_tokens": 2048}


def test_it_loses_less_than_without(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    """And the file is of the same types, of which only matrices of the blocks and the output matrix differ."""
    whole = convert(folder, tmp_path / "f32.gguf", "F32")
    plain = convert(folder, tmp_path / "plain.gguf", "Q4_0", pure=True)
    made = convert(folder, tmp_path / "made.gguf", "Q4_0", pure=True, **asked)
    assert whole.target is not None
    assert plain.target is not None
    assert made.target is not None
    ids = [256, *b"A single man of large fortune, what a fine thing for our girls!"]
    assert divergence(made.target, whole.target, ids) < 0.85 * divergence(plain.target, whole.target, ids)
    with gguflike.open(plain.target) as before, gguflike.open(made.target) as after:
        differ = [name for name, t in after.tensors.items() if (t.data != before.tensors[name].data).any()]
        assert {name: t.format for name, t in after.tensors.items()} == {n: t.format for n, t in before.tensors.items()}
    assert set(differ) <= {f"blk.{i}.{role}.weight" for i in range(2) for role in OF_GRAPH} | {"output.weight"}
    assert len(differ) > 10


def test_the_file_says_how_it_was_made(folder: Path, asked: dict[str, Any], text: Path, tmp_path: Path) -> None:
    made = convert(folder, tmp_path / "made.gguf", "Q4_0", **asked)
    assert "effort 1: 15 tensors rounded for 2,048 tokens of text.txt, in 16 sequences of up to 128" in str(made)
    assert "calibrating takes about" in str(made)
    fields = tiny.gguf_fields(tmp_path / "made.gguf")
    said = {key.removeprefix("gguflike.calibration."): value for key, value in fields.items() if "calibration." in key}
    assert said.pop("options")[0] == "ARRAY of STRING"
    assert said == {
        "effort": ("UINT32", 1),
        "texts": ("ARRAY of STRING", ["text.txt"]),
        "sha256": ("STRING", hashlib.sha256(text.read_bytes()).hexdigest()),
        "tokens": ("UINT64", 2048),
        "sequence": ("UINT32", 128),
    }


def test_threads_and_shards_give_the_same_bytes(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    convert(folder, tmp_path / "one.gguf", "Q4_0", threads=1, **asked)
    convert(folder, tmp_path / "three.gguf", "Q4_0", threads=3, **asked)
    assert sha256(tmp_path / "one.gguf") == sha256(tmp_path / "three.gguf")
    made = convert(folder, tmp_path / "many.gguf", "Q4_0", split_max_tensors=9, **asked)
    with gguflike.open(made.paths[0]) as many, gguflike.open(tmp_path / "one.gguf") as one:
        assert len(made.paths) > 1
        assert all((many.tensors[name].data == t.data).all() for name, t in one.tensors.items())


def stopped_at(share: float) -> Callable[[int, int, str], None]:
    """Progress that interrupts a calibration when it is so far."""

    def progress(done: int, total: int, what: str) -> None:
        if what.startswith(CALIBRATING) and done >= share * total:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("lost", ["nothing", "all", "pages"])
def test_it_goes_on_where_it_was_cut_off(folder: Path, asked: dict[str, Any], tmp_path: Path, lost: str) -> None:
    """By layers, also where hidden states were lost, all or, as with power, some pages of them; nothing but the file is
    left at the end."""
    convert(folder, tmp_path / "whole" / "m.gguf", "Q4_0", **asked)
    out = tmp_path / "cut" / "m.gguf"
    with pytest.raises(KeyboardInterrupt, match="tensors are kept"):
        convert(folder, out, "Q4_0", progress=stopped_at(0.6), **asked)
    (workspace,) = out.parent.glob("*.work")
    if lost == "all":
        shutil.rmtree(workspace)
    elif lost == "pages":
        for path in workspace.rglob("quantized-*.f32"):
            with path.open("r+b") as file:
                file.seek(path.stat().st_size - 8)
                file.write(bytes(8))
    seen: list[str] = []
    convert(folder, out, "Q4_0", progress=lambda _done, _total, what: seen.append(what), **asked)
    assert sha256(out) == sha256(tmp_path / "whole" / "m.gguf")
    assert [path.name for path in out.parent.iterdir()] == ["m.gguf"]
    assert any("layer 1 of" in what for what in seen) == (lost != "nothing")


KILLED = """
import os, signal, sys
from gguflike.convert import convert
folder, out, text = sys.argv[1:4]
def run(at, threads, **limit):
    calls = 0
    def progress(done, total, what):
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
    settings = {"effort": 2, "calibration": [text], "calibration_tokens": 512, "threads": threads, **limit}
    convert(folder, out, progress=progress, **settings)
for at in map(int, sys.argv[5:]):
    child = os.fork()
    if child == 0:
        run(at, 1 + at % 2, **eval(sys.argv[4]))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are killed")
@pytest.mark.parametrize("limit", [{"type": "Q4_0"}, {"size": 30_000}], ids=["type", "size"])
def test_killed_at_any_point(folder: Path, text: Path, tmp_path: Path, limit: dict[str, Any]) -> None:
    """SIGKILL while outputs, types, and matrices are at hand, each going on from the one before."""
    settings: dict[str, Any] = {"effort": 2, "calibration": [text], "calibration_tokens": 512, **limit}
    convert(folder, tmp_path / "whole.gguf", **settings)
    out = tmp_path / "cut" / "m.gguf"
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, folder, out, text, repr(limit), "4", "9", "9", "12"]
    subprocess.run(arguments, check=True)
    assert not out.exists()
    assert list(out.parent.iterdir())
    convert(folder, out, threads=2, **settings)
    assert sha256(out) == sha256(tmp_path / "whole.gguf")
    assert [path.name for path in out.parent.iterdir()] == ["m.gguf"]


def test_without_resume_nothing_is_left(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "cut" / "m.gguf"
    with pytest.raises(KeyboardInterrupt):
        convert(folder, out, "Q4_0", progress=stopped_at(0.6), resume=False, **asked)
    assert not out.parent.exists()


def test_a_file_is_quantized_as_its_checkpoint_is(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    convert(folder, tmp_path / "f32.gguf", "F32")
    convert(folder, tmp_path / "direct.gguf", "Q4_0", **asked)
    quantize_file(tmp_path / "f32.gguf", tmp_path / "again.gguf", "Q4_0", **asked)
    with gguflike.open(tmp_path / "direct.gguf") as direct, gguflike.open(tmp_path / "again.gguf") as again:
        assert all((again.tensors[name].data == t.data).all() for name, t in direct.tensors.items())


def test_what_does_not_go_together_is_refused_by_name(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for others, field in (
        ({"imatrix": tmp_path / "imatrix.gguf"}, "imatrix"),
        ({"generic": True}, "generic"),
        ({"method": "absmax"}, "method"),
        ({"executor": ThreadPoolExecutor(1)}, "executor"),
        ({"effort": 9}, "effort"),
        ({"calibration_tokens": 0}, "calibration_tokens"),
    ):
        with pytest.raises(ArgumentError) as caught:
            convert(folder, None, "Q4_0", dry_run=True, **{**asked, **others})
        assert caught.value.field == field
    with pytest.raises(ArgumentTypeError, match="not a list"):
        convert(folder, None, dry_run=True, effort=1, calibration="text.txt")
    with pytest.raises(ArgumentError, match="nothing is calibrated") as caught:
        convert(folder, None, dry_run=True, calibration=["text.txt"])
    assert caught.value.remedy == "add `effort=1`"


def test_what_cannot_be_calibrated_says_so(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="nothing to calibrate: no matrix is encoded anew in blocks"):
        convert(folder, None, "F16", dry_run=True, **asked)
    odd = tiny.checkpoint(tmp_path / "odd", hidden_size=40, intermediate_size=72, head_dim=10)
    with pytest.raises(UnsupportedError, match="nothing to calibrate") as caught:
        convert(odd, None, "Q4_K_M", dry_run=True, **asked)
    assert caught.value.remedy == "leave out `effort`, as no block divides rows of 40"
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(ArgumentError, match="the file has no text"):
        convert(folder, None, "Q4_0", dry_run=True, **{**asked, "calibration": [empty]})


@pytest.mark.parametrize("name", ["MambaForCausalLM", "DeepseekV3ForCausalLM", "Qwen3_5ForCausalLM", "BertModel"])
def test_models_of_other_parts(name: str, asked: dict[str, Any], tmp_path: Path) -> None:
    """Recurrent ones, latent attention with experts, and gated deltas are calibrated; those without logits are not."""
    [row] = (row for row in ROWS if row.name == name)
    config = {"architectures": [row.model_class], **row.config}
    family, c, _ = read(config)
    floats, out = tmp_path / "f32.gguf", tmp_path / "m.gguf"
    weights = weights_of(family.graph(c))
    count = c.n_vocab - 259
    said = {
        "general.architecture": family.name,
        **configs.to_metadata(c, family.name),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *BYTES, *(f"w{i}" for i in range(count))],
        "tokenizer.ggml.scores": [0.0] * 259 + [float(-i) for i in range(count)],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * count],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    blocks = {name: x.reshape(-1).view(np.uint8) for name, x in weights.items()}
    stored = [QuantizedTensor(each, FORMATS["F32"], x.shape, blocks[each]) for each, x in weights.items()]
    gguflike.write(floats, said, stored)
    settings = {**asked, "calibration_tokens": 256, "effort": 2}
    if name == "BertModel":
        with pytest.raises(UnsupportedError, match="only models that make text are calibrated"):
            quantize_file(floats, out, "IQ4_NL", **settings)
        return
    made = quantize_file(floats, out, "IQ4_NL", **settings)
    assert len(made.calibrated) > 5
    assert not made.notices
    assert made.calibration is not None
    with gguflike.open(out) as file:
        assert [key for key in file.metadata if key.startswith("gguflike.calibration.")]


def test_the_command_line(
    folder: Path, asked: dict[str, Any], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(folder, tmp_path / "python.gguf", "Q4_0", **asked)
    arguments = ["convert", str(folder), str(tmp_path / "shell.gguf"), "-t", "Q4_0", "--effort", "1"]
    assert main([*arguments, "--calibration", str(text), "--calibration-tokens", "2048"]) == 0
    assert "effort 1: 15 tensors rounded for 2,048 tokens" in capsys.readouterr().out
    assert sha256(tmp_path / "shell.gguf") == sha256(tmp_path / "python.gguf")
    assert main(["convert", str(folder), "-t", "Q4_0", "--dry-run", "--calibration-tokens", "30"]) == 2
    said = capsys.readouterr().err
    assert "--calibration-tokens" in said
    assert "add --effort 1" in said


def test_outputs_are_weighed(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    """Effort 2 is the same at any number of threads, and says what it drew by."""
    asked["effort"] = 2
    convert(folder, tmp_path / "one.gguf", "Q4_0", threads=1, **asked)
    convert(folder, tmp_path / "three.gguf", "Q4_0", threads=3, **asked)
    convert(folder, tmp_path / "other.gguf", "Q4_0", seed=5, **asked)
    assert sha256(tmp_path / "one.gguf") == sha256(tmp_path / "three.gguf")
    with gguflike.open(tmp_path / "one.gguf") as one, gguflike.open(tmp_path / "other.gguf") as other:
        assert one.metadata["gguflike.calibration.effort"] == 2
        assert other.metadata["gguflike.calibration.seed"] == 5
    with pytest.raises(ArgumentError, match="nothing is drawn by chance"):
        convert(folder, None, "Q4_0", dry_run=True, **{**asked, "effort": 1, "seed": 5})


def test_an_embedding_that_is_the_output_matrix_is_rounded_for_both(asked: dict[str, Any], tmp_path: Path) -> None:
    """At effort 2, also the rows that no text has looked up, and so that it costs less by what was measured."""
    folder = tiny.checkpoint(tmp_path / "hf", **tiny.VARIANTS["tied"])
    one = convert(folder, tmp_path / "one.gguf", "Q4_0", pure=True, **asked)
    two = convert(folder, tmp_path / "two.gguf", "Q4_0", pure=True, **{**asked, "effort": 2})
    assert "effort 1: 14 tensors rounded" in str(one)
    assert "effort 2: 15 tensors rounded" in str(two)
    assert two.calibration is not None
    read = two.calibration.model.read
    table = two.calibration.sensitivities(read, tmp_path / "measured", 1, None).table("token_embd.weight")
    assert table is not None
    rows, costs = [], []
    for path in (tmp_path / "one.gguf", tmp_path / "two.gguf"):
        with gguflike.open(path) as file:
            stored = file.tensors["token_embd.weight"]
            rows.append(stored.rows.copy())
            costs.append(table.cost(read("token_embd.weight") - stored.dequantize()))
    assert (rows[0] != rows[1]).any(axis=1).mean() > 0.9
    assert costs[1] < 0.8 * costs[0]


def test_a_plan_counts_what_will_be_done(folder: Path, asked: dict[str, Any]) -> None:
    """More for more text, for outputs that are weighed, for points of codebooks. On the disk is what a backward pass
    leaves, too."""

    def planned(type: str, **changes: Any) -> ConversionPlan:
        return convert(folder, None, type, dry_run=True, pure=True, **{**asked, **changes})

    def operations(plan: ConversionPlan) -> float:
        assert isinstance(plan.calibration, Calibration)
        assert plan.calibration.speed is not None
        return plan.calibration.speed * sum(each.seconds or 0 for each in plan.stages)

    one, two, points = planned("Q4_0"), planned("Q4_0", effort=2), planned("IQ4_NL")
    assert operations(one) < operations(two)
    assert operations(planned("Q4_0", calibration_tokens=1024)) < operations(one)
    assert workload.rounding(one.calibrated) == workload.rounding(points.calibrated)  # its levels are scalars, too
    by_points = [replace(each, format=FORMATS["IQ3_S"]) for each in one.calibrated]
    assert workload.rounding(by_points) > 3 * workload.rounding(one.calibrated)
    assert one.calibration is not None
    assert two.calibration is not None
    matrices = [place.tensor.shape for place in two.calibration.matrices() if place.name.startswith("blk.")]
    beside = sum(4 * rows**2 + 4 * two.calibration.tokens for rows, _ in matrices)
    assert two.calibration.disk >= one.calibration.disk + beside
    assert "calibrating takes about" in str(two)


def test_a_plan_counts_a_large_vocabulary_once_for_each_token(folder: Path, asked: dict[str, Any]) -> None:
    """There are logits of every token, and nothing of pairs of tokens."""
    plan = convert(folder, None, "Q4_0", dry_run=True, pure=True, **{**asked, "effort": 2})
    assert plan.calibration is not None
    graph, lengths = plan.calibration.graph, (512, 512)

    def learning(times: int) -> float:
        head = frozen.replace(graph.head, n_vocab=times * graph.head.n_vocab)
        embedding = frozen.replace(graph.embedding, n_vocab=times * graph.embedding.n_vocab)
        return workload.learning(workload.Run(frozen.replace(graph, head=head, embedding=embedding), lengths))

    once = learning(2) - learning(1)
    assert once > 0
    assert learning(101) - learning(1) == pytest.approx(100 * once)


@pytest.mark.parametrize("used", [1, 3])
def test_a_plan_counts_the_experts_that_a_token_comes_to(used: int) -> None:
    [row] = (row for row in ROWS if row.name == "MixtralForCausalLM")
    family, c, _ = read({**as_read(row), "num_experts_per_tok": used})
    reached = [(each.stacked > 1, each.reached) for each in workload.Run(family.graph(c), (10, 20)).matrices()]
    assert set(reached) == {(False, 30), (True, 30 * used)}


def test_a_plan_says_how_long_scales_take(folder: Path, asked: dict[str, Any]) -> None:
    """AWQ tries every exponent, SmoothQuant none; points take longer than levels."""

    def folds(fold: str, type: str = "Q4_0") -> float:
        plan = convert(folder, None, type, dry_run=True, pure=True, fold=fold, **{**asked, "effort": 0})
        [stage] = plan.stages
        assert stage.name == "folds"
        assert stage.memory is not None
        assert stage.memory > 0
        assert plan.folding is not None
        assert stage.seconds is not None
        assert plan.folding.speed is not None
        assert "moving scales takes about" in str(plan)
        return stage.seconds * plan.folding.speed

    assert folds("awq") > folds("smooth") > 0
    few = [((64, 256), FORMATS[name]) for name in ("Q4_K", "IQ3_S")]
    assert workload.trying(few[:1]) < workload.trying(few[1:])
    both = convert(folder, None, "Q4_0", dry_run=True, pure=True, fold="awq", **asked)
    assert [stage.name for stage in both.stages] == ["folds", "rounding"]
    assert "of that moving scales" in str(both)
