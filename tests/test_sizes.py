"""Types chosen for a size: never above it, at any effort, and those that cost least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguflike
from gguflike.blocks import FORMATS
from gguflike.calibrate.allocate import Candidate
from gguflike.cli import main
from gguflike.convert import convert
from gguflike.convert.allocation import probe, refined
from gguflike.convert.budget import Limit, ladder
from gguflike.convert.prior import PRIOR, Prior
from gguflike.errors import ArgumentError
from gguflike.families.parts import Graph
from gguflike.kernels.dispatch import linear_plan
from gguflike.runner.needs import PROCESS, beside_weights
from tests import tiny
from tests.test_calibrated import TEXT, sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("sizes") / "hf")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 20)
    return {"calibration": [path], "calibration_tokens": 1024}


@pytest.mark.parametrize("limit", [{"size": 30_000}, {"bpw": 5.25}])
def test_a_file_is_as_small_as_was_asked(
    folder: Path, asked: dict[str, Any], tmp_path: Path, limit: dict[str, Any]
) -> None:
    """And of more types than one, which are those that cost least: fewer bits for all cost more."""
    asked = {**asked, "effort": 2}
    planned = convert(folder, tmp_path / "m.gguf", dry_run=True, **limit, **asked)
    made = convert(folder, tmp_path / "m.gguf", **limit, **asked)
    assert "types are chosen by what they cost" in str(planned)
    if "size" in limit:
        assert (tmp_path / "m.gguf").stat().st_size <= limit["size"]
    else:
        assert 0.93 * limit["bpw"] < made.bits_per_weight <= limit["bpw"]
    assert "types are chosen" not in str(made)
    assert "estimated divergence" in made.notices[-1]
    assert len({tensor.format.name for tensor in made.calibrated}) > 1
    assert [path.name for path in tmp_path.glob("*.gguf*")] == ["m.gguf"]
    assert not list(tmp_path.glob(".gguflike*"))
    convert(folder, tmp_path / "again.gguf", threads=3, **limit, **asked)
    assert sha256(tmp_path / "again.gguf") == sha256(tmp_path / "m.gguf")


def test_sizes_that_cannot_be_are_refused(folder: Path, asked: dict[str, Any]) -> None:
    for limit, said in (
        ({"size": "10kB"}, r"no choice of types makes the file so small; expected at least \d+,\d+ bytes; got 10kB"),
        ({"bpw": 1.5}, r"expected at least \d\.\d\d bits per weight; got 1.5bpw"),
        ({"size": "much"}, "not a size; expected bytes, or such as 4.5GiB"),
        ({"bpw": 99}, "out of range"),
        ({"size": 1 << 20, "bpw": 5}, "cannot be given with `size`"),
        ({"fit_ram": "8GiB"}, "what a model takes beside its weights is not known"),
        ({"fit_ram": "8GiB", "bpw": 5}, "cannot be given with `bpw`"),
        ({"context": 8192}, "says nothing without `fit_ram`"),
        ({"size": 1 << 20, "pure": True}, "pure: one type for all matrices leaves none to choose"),
    ):
        with pytest.raises(ArgumentError, match=said):
            convert(folder, None, dry_run=True, **limit, **{**asked, "effort": 2})


@settings(max_examples=8, deadline=None)
@given(size=st.integers(28_500, 60_000))
def test_no_file_is_larger_than_asked(folder: Path, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("any") / "m.gguf"
    made = convert(folder, out, size=size)
    assert out.stat().st_size == made.file_bytes <= size
    smallest = min(size, 44_000)  # where all are Q8_0, there is nothing to spend the rest on
    assert made.file_bytes > 0.93 * smallest


def test_a_plan_says_what_of_it_is_a_guess(folder: Path) -> None:
    said = str(convert(folder, None, size=34_000, dry_run=True))
    assert said.endswith("errors, for at most 34000; those above are a guess by bits alone")
    assert "guess by bits alone; even Q8_0 fit, and floats are never chosen" in str(
        convert(folder, None, size="1GB", dry_run=True)
    )


def test_shards_are_no_larger_together(folder: Path, tmp_path: Path) -> None:
    """Though there are more of them than would be of the types that are guessed first."""
    made = convert(folder, tmp_path / "m.gguf", size=34_000, split_max_size="9K")
    assert sum(Path(path).stat().st_size for path in made.paths) <= 34_000
    assert len(made.paths) > 1


@pytest.mark.parametrize("variant", ["plain", "tied"])
def test_effort_1_chooses_by_what_outputs_are_off(variant: str, asked: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "hf", **tiny.VARIANTS[variant])
    made = convert(folder, tmp_path / "m.gguf", bpw=5.5, effort=1, **asked)
    assert made.bits_per_weight <= 5.5
    assert "expected (by a prior)" in made.notices[-1]
    assert len({tensor.format.name for tensor in made.calibrated}) > 1


def test_memory_is_what_weights_leave(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def beside(graph: Graph, context: int) -> int:
        seen.append((len(graph.blocks), context))
        return 1_000_000

    made = convert(folder, tmp_path / "m.gguf", fit_ram="1.03MB", context=64, beside=beside)
    assert set(seen) == {(2, 64)}
    assert 28_500 < made.file_bytes <= 30_000
    with pytest.raises(ArgumentError, match=r"expected at least 1,0\d\d,\d\d\d bytes") as caught:
        convert(folder, None, dry_run=True, fit_ram=1_000_000, beside=beside)
    assert caught.value.field == "fit_ram"


def test_the_command_knows_what_a_model_takes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    with gguflike.load(convert(folder, tmp_path / "f32.gguf", "F32").paths[0], context=64) as model:
        graph, kept = model.graph, model.states.nbytes
    needed = beside_weights(graph, 64)
    assert PROCESS + kept < needed < PROCESS + kept + (20 << 20)
    assert beside_weights(graph, 128) > needed
    assert main(["convert", str(folder), str(out), "--fit-ram", str(needed + 30_000), "--context", "64"]) == 0
    with gguflike.load(out, context=64) as model:
        weights, header = model.weights, gguflike.open(out).data_offset
        taken = weights.packed_bytes + weights.plain_bytes + weights.table_bytes(1 << 20)
    assert 29_000 < taken + header <= 30_000


def test_types_that_are_larger_in_memory_count_as_they_are_there(folder: Path) -> None:
    plan = convert(folder, None, "F16", dry_run=True)
    file, memory = Limit("size", "", nbytes=1), Limit("fit_ram", "", nbytes=1, beside=lambda *_: 0)
    fmt, shape = FORMATS["IQ2_XXS"], (3, 64, 512)
    packed = linear_plan(fmt).packed_bytes(64, 512)
    assert packed > 1.5 * fmt.tensor_bytes((64, 512))
    assert memory.taken(plan, "blk.0.ffn_up_exps.weight", shape, fmt) == 3 * packed
    assert file.taken(plan, "blk.0.ffn_up_exps.weight", shape, fmt) == fmt.tensor_bytes(shape)
    assert memory.taken(plan, "output_norm.weight", (512,), FORMATS["F32"]) == 0
    assert memory.taken(plan, "blk.0.attn_q.weight", (64, 512), FORMATS["F16"]) == 2 * 64 * 512
    names = {tensor.name for tensor in plan.tensors}
    table = fmt.tensor_bytes((64, 512))
    embedding = table if "output.weight" in names else packed + table
    assert memory.taken(plan, "token_embd.weight", (64, 512), fmt) == embedding


def test_types_are_chosen_among_those_that_programs_read() -> None:
    assert [fmt.name for fmt in ladder(576)] == ["IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]  # 64 divides it, too
    assert not {fmt.name for fmt in ladder(256)} & {"MXFP4", "NVFP4", "Q1_0", "Q2_0"}


def test_a_probe_is_quick_to_round_and_about_as_large() -> None:
    types = ladder(256)
    assert probe(types, FORMATS["IQ3_S"]).name == "Q3_K"
    assert probe(types, FORMATS["Q5_K"]).name == "Q5_K"
    assert probe(types, FORMATS["IQ1_S"]).name == "Q2_K"


def test_costs_fall_as_that_of_the_probe() -> None:
    points = {"a": [Candidate("Q2_K", 10, 8.0), Candidate("Q4_K", 20, 2.0)], "b": [Candidate("Q2_K", 10, 0.0)]}
    found = refined(points, {"a": [Candidate("Q4_K", 20, 0.5)], "b": [Candidate("Q2_K", 10, 0.0)]})
    assert [each.cost for each in found["a"]] == [2.0, 0.5]
    assert [each.cost for each in found["b"]] == [0.0]


def test_the_prior_is_shared_by_the_matrices_of_a_kind() -> None:
    names = ["token_embd.weight", *(f"blk.{i}.{role}.weight" for i in range(4) for role in ("attn_v", "ffn_down"))]
    prior = Prior(names)
    assert prior.cost("blk.0.attn_v.weight", 2.0, 4.0) == pytest.approx(PRIOR["attn_v"] / 8)
    assert prior.cost("token_embd.weight", 1.0, 1.0) == PRIOR["token_embd"] + PRIOR["output"]  # which it is, too
    assert Prior([*names, "output.weight"]).cost("token_embd.weight", 1.0, 1.0) == PRIOR["token_embd"]
    assert prior.cost("blk.0.attn_v.weight", 0.0, 0.0) == 0
    assert np.isfinite(prior.cost("blk.1.ffn_down.weight", 1.0, 0.0))
