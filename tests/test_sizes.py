"""Types chosen for a size: never above it, at any effort, and those that cost least."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguflike
from gguflike.blocks import FORMATS
from gguflike.calibrate import files
from gguflike.calibrate.allocate import Candidate
from gguflike.cli import main
from gguflike.container import system
from gguflike.convert import convert
from gguflike.convert.allocation import probe, refined
from gguflike.convert.budget import Limit
from gguflike.convert.prior import PRIOR, Prior
from gguflike.convert.sized import ladder, taken
from gguflike.errors import ArgumentError, OutputError
from gguflike.families.parts import Graph
from gguflike.kernels.dispatch import linear_plan
from gguflike.progress import CALIBRATING
from gguflike.runner.needs import PROCESS, beside_weights
from tests import tiny
from tests.files import sha256
from tests.walks import TEXT


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


@pytest.mark.parametrize("effort", [0, 1, 2])
def test_measuring_goes_on_where_it_was_cut_off(
    folder: Path, asked: dict[str, Any], tmp_path: Path, effort: int
) -> None:
    """Between layers, between the two walks, and where the rounding has begun: what is measured is not measured again,
    unless the lines that say so are lost. The bytes are the same, and nothing is left at the end."""
    settings = {**(asked if effort else {}), "effort": effort, "size": 30_000}
    seen: list[str] = []
    convert(folder, tmp_path / "whole.gguf", progress=lambda _done, _total, what: seen.append(what), **settings)
    told = list(dict.fromkeys(what for what in seen if what.startswith(CALIBRATING)))
    out = tmp_path / "cut" / "m.gguf"
    before: list[str] = []
    for number in (3, len(told) // 2, len(told) - 2):
        again: list[str] = []

        def progress(_done: int, _total: int, what: str, again: list[str] = again, stop: str = told[number]) -> None:
            again.append(what)
            if what == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt, match="kept"):
            convert(folder, out, progress=progress, **settings)
        measured = [what for what in before if "types" in what and "done" not in what]
        assert not effort or not set(measured[:-1]) & set(again)  # the layer that it was in
        before += again
        (left,) = (path for path in out.parent.glob(".gguflike*") if path.is_dir() and path.suffix == ".tmp")
        for path in left.glob("*.jsonl"):
            with path.open("ab") as file:
                file.write(b'{"tensor": "blk.0')  # a line that was cut off
    if effort:
        for path in left.glob("plain.jsonl"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    convert(folder, out, threads=1, **settings)
    assert sha256(out) == sha256(tmp_path / "whole.gguf")
    assert [path.name for path in out.parent.iterdir()] == ["m.gguf"]


def test_measuring_is_not_kept_where_nothing_is_to_be(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    def progress(_done: int, _total: int, what: str) -> None:
        if "types" in what:
            raise KeyboardInterrupt

    settings = {**asked, "effort": 1, "size": 30_000}
    for resume, left in ((True, 1), (False, 0)):
        with pytest.raises(KeyboardInterrupt):
            convert(folder, tmp_path / "m.gguf", progress=progress, resume=resume, **settings)
        assert len(list(tmp_path.iterdir())) == left  # of another run, too
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "m.gguf", progress=progress, **settings)
    convert(folder, tmp_path / "m.gguf", "F16")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_without_locks_nothing_measured_is_kept(
    folder: Path, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell a dead process's from a living one's; runs that are not cut off go as ever."""

    def no_locks(_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(system, "lock", no_locks)
    seen: list[Path] = []

    def progress(_done: int, _total: int, what: str) -> None:
        seen.extend(tmp_path.glob(".gguflike*"))
        if "types" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "m.gguf", progress=progress, **asked, effort=1, size=30_000)
    assert seen
    assert not list(tmp_path.iterdir())
    (text,) = asked["calibration"]
    gguflike.calibrate(folder, tmp_path / "a.gguf", calibration=[text], tokens=256)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_two_measure_at_the_same_time(folder: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    """Each in a folder of its own, and neither disturbs the other."""
    settings = {**asked, "effort": 1, "size": 30_000, "overwrite": True}
    out, seen = tmp_path / "two" / "m.gguf", list[str]()

    def progress(_done: int, _total: int, what: str) -> None:
        if "types" in what and "layer 2" in what and not seen:
            convert(folder, out, progress=lambda _done, _total, what: seen.append(what), **settings)

    convert(folder, tmp_path / "one.gguf", **settings)
    convert(folder, out, progress=progress, **settings)
    assert any("types" in what and "layer 1" in what for what in seen)
    assert sha256(out) == sha256(tmp_path / "one.gguf")
    assert [path.name for path in out.parent.iterdir()] == ["m.gguf"]


def test_a_plan_says_how_long_types_are_measured(
    folder: Path, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {0: ["types"], 1: ["types", "rounding"], 2: ["outputs", "types", "rounding"]}
    for effort, expected in names.items():
        plan = convert(folder, None, dry_run=True, size=30_000, effort=effort, **(asked if effort else {}))
        found = plan.stages
        assert [each.name for each in found] == expected
        assert all(each.seconds is not None and each.seconds > 0 for each in found)
        assert "choosing types" in str(plan)
        assert ("calibrating takes about" in str(plan)) == (effort > 0)
    (text,) = asked["calibration"]
    arguments = ["convert", str(folder), "--size", "30000", "--effort", "2", "--calibration", str(text), "--dry-run"]
    assert main([*arguments, "--calibration-tokens", "1024", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["calibration"]
    assert (said["effort"], said["texts"], said["tokens"], said["limit"]) == (2, ["text.txt"], 1024, "30000")
    assert [each["name"] for each in said["stages"]] == names[2]
    assert said["seconds"] == pytest.approx(sum(each["seconds"] for each in said["stages"]))
    assert said["memory_bytes"] == max(each["memory_bytes"] for each in said["stages"])
    assert said["disk_bytes"] > 0
    assert main(["convert", str(folder), "-t", "Q4_0", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"] is None


def test_a_disk_without_room_is_told_before_anything_is_measured(
    folder: Path, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ({"size": 30_000}, {"type": "Q4_0"}):
        plan = convert(folder, tmp_path / "m.gguf", effort=2, dry_run=True, **limit, **asked)
        assert plan.calibration is not None
        free = plan.calibration.disk  # which leaves none for the file
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        seen: list[str] = []
        with pytest.raises(OutputError, match=f"bytes free; got {free:,}"):
            convert(
                folder,
                tmp_path / "m.gguf",
                effort=2,
                progress=lambda _done, _total, what, seen=seen: seen.append(what),
                **limit,
                **asked,
            )
        assert not [what for what in seen if what.startswith(CALIBRATING)]
        assert not list(tmp_path.iterdir())


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


def test_the_smallest_possible_that_is_said_can_be_asked_for(folder: Path) -> None:
    for field, unit in (("size", "bytes"), ("bpw", "bits per weight")):
        with pytest.raises(ArgumentError, match=unit) as caught:
            convert(folder, None, dry_run=True, **{field: 1.1 if field == "bpw" else 1})
        least = float(str(caught.value.expected).split()[2].replace(",", ""))
        convert(folder, None, dry_run=True, **{field: least if field == "bpw" else int(least)})
        with pytest.raises(ArgumentError, match=unit):
            convert(folder, None, dry_run=True, **{field: least - 0.02 if field == "bpw" else int(least) - 1})


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
    assert "guess by bits alone; even Q8_0 fits, and floats are never chosen" in str(
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
    assert taken(memory, plan, "blk.0.ffn_up_exps.weight", shape, fmt) == 3 * packed
    assert taken(file, plan, "blk.0.ffn_up_exps.weight", shape, fmt) == fmt.tensor_bytes(shape)
    assert taken(memory, plan, "output_norm.weight", (512,), FORMATS["F32"]) == 0
    assert taken(memory, plan, "blk.0.attn_q.weight", (64, 512), FORMATS["F16"]) == 2 * 64 * 512
    names = {tensor.name for tensor in plan.tensors}
    table = fmt.tensor_bytes((64, 512))
    embedding = table if "output.weight" in names else packed + table
    assert taken(memory, plan, "token_embd.weight", (64, 512), fmt) == embedding


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
