"""Models in several files: split as llama.cpp's gguf-split does, written so at once, and merged."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike import container
from gguflike.cli import main
from gguflike.container import Typed, ValueType
from gguflike.convert import convert, merge, quantize_file, split
from gguflike.errors import ArgumentError, DigestError, OutputError, UnsupportedError
from tests import tiny, tiny_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of ours, of 21 tensors."""
    path = tmp_path / "model.gguf"
    convert(tiny.checkpoint(tmp_path / "hf"), path, "F16")
    return path


def fields(path: Path) -> dict[str, Any]:
    """Keys, types and values of one file as the gguf package reads them."""
    return tiny.gguf_fields(path)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("limits", "counts"),
    [
        ({"split_max_tensors": 8}, [8, 8, 5]),
        ({}, [21]),
        ({"split_max_size": "16K"}, [1, 8, 8, 3, 1]),
        ({"split_max_size": "0.016MB"}, [1, 8, 8, 3, 1]),
    ],
)
def test_files_are_those_of_gguf_split(
    model: Path, tmp_path: Path, first: bool, limits: dict[str, Any], counts: list[int]
) -> None:
    """Names, keys and types are those of llama.cpp's tool; tensors are the same bytes, in the same order."""
    done = split(model, tmp_path / "part", **limits, no_tensor_first_split=first)
    counts = [0, *counts] if first else counts
    names = [f"part-{i + 1:05}-of-{len(counts):05}.gguf" for i in range(len(counts))]
    assert [Path(path).name for path in done.paths] == names
    whole = {t.name: t.data.tobytes() for t in gguf.GGUFReader(model).tensors}
    found: list[tuple[str, bytes]] = []
    for number, (path, count) in enumerate(zip(done.paths, counts, strict=True)):
        reader = gguf.GGUFReader(path)
        assert len(reader.tensors) == count
        found += [(t.name, t.data.tobytes()) for t in reader.tensors]
        keys = fields(Path(path))
        assert keys["split.no"] == ("UINT16", number)
        assert keys["split.count"] == ("UINT16", len(counts))
        assert keys["split.tensors.count"] == ("INT32", 21)
        own = {key for key in keys if not key.startswith(("split.", "gguflike.digest."))}
        assert own == (
            {key for key in fields(model) if not key.startswith("gguflike.digest.")} if number == 0 else set()
        )
    assert found == list(whole.items())
    report = gguflike.verify(done.paths[-1])
    assert (report.findings, report.digests) == ((), True)
    merge(done.paths[-1], tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == model.read_bytes()


def test_limits_count_as_gguf_split_counts(tmp_path: Path) -> None:
    """Sizes are padded to 32 bytes, a file may be as large as the limit, and what is larger stands alone."""
    tensors = [gguflike.quantize(np.ones(n, np.float32), "F32", name=f"t{n}") for n in (1, 8, 9, 100, 3)]
    container.write(tmp_path / "m.gguf", {"general.architecture": "llama"}, tensors)
    made = split(tmp_path / "m.gguf", tmp_path / "m", split_max_size=128)
    assert [[info.name for info in file.tensors] for file in made.files] == [["t1", "t8", "t9"], ["t100"], ["t3"]]
    made = split(tmp_path / "m.gguf", tmp_path / "n", split_max_size=127)
    assert [[info.name for info in file.tensors] for file in made.files] == [["t1", "t8"], ["t9"], ["t100"], ["t3"]]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("general.architecture", "llama", None),
        ("general.architecture", "qwen2", "another model"),
        ("general.url", "https://example.org", "no program reads there"),
    ],
)
def test_what_a_later_shard_says_of_its_model(
    key: str, value: str, said: str | None, tmp_path: Path, model: Path
) -> None:
    """M-016: nobody reads it there."""
    last = split(model, tmp_path / "part", split_max_tensors=8).paths[-1]
    with container.open(last, shards=False) as file:
        metadata = file.metadata.typed_dict() | {key: Typed(value, ValueType.STRING)}
        container.write(last, metadata, list(file.tensors.values()))
    findings = gguflike.verify(last).findings
    assert [(each.rule, each.path, each.field) for each in findings] == [("M-016", os.fspath(last), key)] * bool(said)
    assert all(re.search(str(said), each.message) for each in findings)


@pytest.mark.parametrize("size", ["0", "4E", "-1", "x", "1,5G", 0, -3, 2.0, True, ""])
def test_sizes_that_are_none(model: Path, tmp_path: Path, size: Any) -> None:
    with pytest.raises(ArgumentError, match="not a size"):
        split(model, tmp_path / "part", split_max_size=size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model.gguf"]


def test_another_maker_s_file_comes_back_as_it_was(tmp_path: Path) -> None:
    """Without digests there are none, and types of values stay; the alignment holds in every file."""
    tiny_gguf.write(tmp_path / "m.gguf", "Q4_0,F16")
    made = split(tmp_path / "m.gguf", tmp_path / "m", split_max_tensors=5)
    assert "gguflike" not in str([fields(Path(path)).keys() for path in made.paths])
    merge(made.paths[1], tmp_path / "again.gguf")
    again, before = fields(tmp_path / "again.gguf"), fields(tmp_path / "m.gguf")
    assert again == before
    assert {n: t.data.tobytes() for n, t in tiny.gguf_tensors(tmp_path / "again.gguf").items()} == {
        n: t.data.tobytes() for n, t in tiny.gguf_tensors(tmp_path / "m.gguf").items()
    }
    values = {"general.alignment": Typed(128, ValueType.UINT32), "general.architecture": "llama"}
    tensors = [gguflike.quantize(np.ones(9, np.float32), "F32", name=f"t{n}") for n in range(3)]
    container.write(tmp_path / "wide.gguf", values, tensors)
    for path in split(tmp_path / "wide.gguf", tmp_path / "w", split_max_tensors=1).paths:
        with container.open(path, shards=False) as file:
            assert (file.alignment, [info.offset % 128 for info in file.infos.values()]) == (128, [0])
    merge(tmp_path / "w-00001-of-00003.gguf", tmp_path / "wide2.gguf")
    assert (tmp_path / "wide2.gguf").read_bytes() == (tmp_path / "wide.gguf").read_bytes()


def test_written_in_shards_at_once(tmp_path: Path, model: Path) -> None:
    """convert and quantize make the files that splitting their result makes; what fits into one is not split."""
    shards = convert(tmp_path / "hf", tmp_path / "c.gguf", "F16", split_max_tensors=8).paths
    split(model, tmp_path / "c2", split_max_tensors=8)
    for path in shards:
        assert Path(path).read_bytes() == Path(path.replace("c-0", "c2-0")).read_bytes()
    assert not (tmp_path / "c.gguf").exists()
    one = convert(tmp_path / "hf", tmp_path / "one.gguf", "F16", split_max_size="4G")
    assert [Path(path).name for path in one.paths] == ["one.gguf"]
    assert (tmp_path / "one.gguf").read_bytes() == model.read_bytes()
    quantized = quantize_file(shards[1], tmp_path / "q.gguf", "Q8_0", split_max_size="10K").paths
    quantize_file(model, tmp_path / "q.gguf", "Q8_0")
    with container.open(quantized[2]) as several, container.open(tmp_path / "q.gguf") as one_file:
        assert len(several.paths) > 2
        assert list(several.tensors) == list(one_file.tensors)
        assert all(several.tensors[n].data.tobytes() == t.data.tobytes() for n, t in one_file.tensors.items())


def test_damage_is_noticed_and_nothing_appears(model: Path, tmp_path: Path) -> None:
    with container.open(model) as file:
        at = file.infos["blk.1.attn_q.weight"].offset
    data = bytearray(model.read_bytes())
    data[at] ^= 1
    model.write_bytes(data)
    with pytest.raises(DigestError) as caught:
        split(model, tmp_path / "part", split_max_tensors=4)
    assert caught.value.tensor == "blk.1.attn_q.weight"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model.gguf"]


def test_targets_that_are_refused(model: Path, tmp_path: Path) -> None:
    made = split(model, tmp_path / "part", split_max_tensors=8)
    before = {path: Path(path).read_bytes() for path in made.paths}
    with pytest.raises(OutputError, match="exists"):
        split(model, tmp_path / "part", split_max_tensors=8)
    with pytest.raises(OutputError, match="also a source"):
        merge(made.paths[0], made.paths[1], overwrite=True)
    with pytest.raises(OutputError, match="also a source"):
        split(made.paths[0], tmp_path / "part", split_max_tensors=8, overwrite=True)
    with pytest.raises(UnsupportedError, match="none of a model in several"):
        merge(model, tmp_path / "again.gguf")
    with pytest.raises(OutputError, match="folder"):
        split(model, f"{tmp_path}/", split_max_tensors=8)
    assert {path: Path(path).read_bytes() for path in made.paths} == before
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".gguf"}
    split(model, tmp_path / "part", split_max_tensors=8, overwrite=True)
    assert {path: Path(path).read_bytes() for path in made.paths} == before


@pytest.mark.parametrize("fail_at", range(4))
def test_shards_never_mix_with_old_ones(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    """Whichever rename fails, what opens is one model: the old one, or the new one. The next run completes it."""
    convert(tiny.checkpoint(tmp_path / "other", seed=1), tmp_path / "other.gguf", "F16")
    olds = [
        Path(path).read_bytes() for path in split(tmp_path / "other.gguf", tmp_path / "part", split_max_tensors=8).paths
    ]
    news = [Path(path).read_bytes() for path in split(model, tmp_path / "new", split_max_tensors=8).paths]
    real, calls = os.replace, 0

    def failing(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(errno.EIO, "broken")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        if fail_at:
            with pytest.raises(OutputError):
                split(model, tmp_path / "part", split_max_tensors=8, overwrite=True)
            with pytest.raises(gguflike.GGUFError, match="missing"):
                container.open(tmp_path / "part-00002-of-00003.gguf")
            for number in (1, 2):
                found = (tmp_path / f"part-{number + 1:05}-of-00003.gguf").read_bytes()
                assert found == (news if fail_at > number else olds)[number]
    split(model, tmp_path / "part", split_max_tensors=8, overwrite=True)
    merge(tmp_path / "part-00002-of-00003.gguf", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == model.read_bytes()
    assert list(tmp_path.glob(".gguflike-*")) == []


def test_a_shard_that_appears_meanwhile_is_left_alone(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "part-00001-of-00003.gguf"

    def progress(done: int, total: int, what: str) -> None:
        other.write_bytes(b"someone else's")

    with pytest.raises(OutputError, match="exists"):
        split(model, tmp_path / "part", split_max_tensors=8, progress=progress)
    assert other.read_bytes() == b"someone else's"
    assert [path.name for path in tmp_path.glob("part-*")] == [other.name]


def test_commands(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = str(tmp_path / "part")
    assert main(["split", str(model), prefix, "--split-max-size", "16K", "--no-tensor-first-split", "--dry-run"]) == 0
    assert "in 6 files" in capsys.readouterr().out
    assert list(tmp_path.glob("part*")) == []
    assert main(["split", str(model), prefix, "--split-max-tensors", "8"]) == 0
    assert capsys.readouterr().out.count("wrote ") == 3
    assert main(["merge", f"{prefix}-00003-of-00003.gguf", str(tmp_path / "again.gguf")]) == 0
    assert (tmp_path / "again.gguf").read_bytes() == model.read_bytes()
    assert main(["merge", f"{prefix}-00003-of-00003.gguf", str(tmp_path / "again.gguf")]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["split", str(model), prefix, "--split-max-size", "many"]) == 2
    assert "--split-max-size" in capsys.readouterr().err
