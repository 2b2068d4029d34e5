"""Models split into several files, opened as one."""

from __future__ import annotations

import gc
import struct
from pathlib import Path

import pytest

from gguflike import container
from gguflike.errors import GGUFError
from gguflike.verify import verify
from tests.bad_vectors import bad, damage


def split_kv(number: int, count: int, tensors: int | None) -> list[bytes]:
    """The keys llama.cpp writes: two UINT16 and an INT32."""
    out = [
        bad.kv("split.no", bad.U16, struct.pack("<H", number)),
        bad.kv("split.count", bad.U16, struct.pack("<H", count)),
    ]
    return out + ([] if tensors is None else [bad.kv("split.tensors.count", bad.I32, struct.pack("<i", tensors))])


def name_of(number: int, count: int, stem: str = "model") -> str:
    return f"{stem}-{number + 1:05}-of-{count:05}.gguf"


def make(folder: Path, count: int = 3, *, total: int | None = None, stem: str = "model") -> list[Path]:
    """Each shard has one tensor of 8 floats, counted on."""
    paths = []
    for number in range(count):
        kvs = split_kv(number, count, count if total is None else total)
        if number == 0:
            kvs = [bad.text("general.architecture", "llama"), bad.u32("llama.block_count", count), *kvs]
        data = struct.pack("<8f", *range(8 * number, 8 * number + 8))
        path = folder / name_of(number, count, stem)
        path.write_bytes(bad.build(kvs, [bad.tensor(f"blk.{number}.x", [8], bad.TYPE_F32, 0)], data))
        paths.append(path)
    return paths


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_the_model(tmp_path: Path, opened: int) -> None:
    paths = make(tmp_path, stem="a model-00001-of-00002")
    with container.open(paths[opened]) as file:
        assert file.paths == tuple(map(str, paths))
        assert file.architecture == "llama"
        assert list(file.metadata) == ["general.architecture", "llama.block_count"]
        assert list(file.tensors) == ["blk.0.x", "blk.1.x", "blk.2.x"]
        assert [info.shard for info in file.infos.values()] == [0, 1, 2]
        assert file.tensors["blk.2.x"].data.view("<f4").tolist() == list(range(16, 24))
        assert file.file_bytes == sum(path.stat().st_size for path in paths)
    report = verify(paths[opened])
    assert report.paths == tuple(map(str, paths))
    assert damage(report) == []


def test_one_shard_alone(tmp_path: Path) -> None:
    paths = make(tmp_path)
    paths[2].unlink()
    with pytest.raises(GGUFError, match="missing") as caught:
        container.open(paths[0])
    assert caught.value.path == str(paths[2])
    with container.open(paths[1], shards=False) as file:
        assert list(file.tensors) == ["blk.1.x"]


def test_a_merged_copy_is_one_file(tmp_path: Path) -> None:
    with container.open(make(tmp_path)[0]) as file:
        container.write(tmp_path / "one.gguf", file.metadata, file.tensors.values())
    with container.open(tmp_path / "one.gguf") as file:
        assert list(file.tensors) == ["blk.0.x", "blk.1.x", "blk.2.x"]
        assert not any(key.startswith("split.") for key in file.metadata)
    assert damage(verify(tmp_path / "one.gguf")) == []


def test_count_of_one_is_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.gguf"
    path.write_bytes(bad.build(split_kv(0, 1, 0)))
    with container.open(path) as file:
        assert file.paths == (str(path),)


@pytest.mark.parametrize("total", [0, 4, -1])
def test_the_total_must_fit(tmp_path: Path, total: int) -> None:
    with pytest.raises(GGUFError) as caught:
        container.open(make(tmp_path, total=total)[0])
    assert (caught.value.rule, caught.value.field) == ("C-027", "split.tensors.count")


@pytest.mark.parametrize(
    "name",
    [
        "model.gguf",
        "model-00001-of-00002.gguf",
        "model-1-of-3.gguf",
        "model-00001-of-00003.bin",
        "x-00000-of-00003.gguf",
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, name: str) -> None:
    path = make(tmp_path)[0].rename(tmp_path / name)
    with pytest.raises(GGUFError) as caught:
        container.open(path)
    assert caught.value.rule == "C-027"


def test_a_shard_of_another_model(tmp_path: Path) -> None:
    paths = make(tmp_path)
    paths[1].write_bytes(bad.build(split_kv(1, 4, 4), [bad.tensor("y", [8], bad.TYPE_F32, 0)], bad.floats(8)))
    with pytest.raises(GGUFError, match="does not belong") as caught:
        container.open(paths[0])
    assert caught.value.path == str(paths[1])


@pytest.mark.parametrize(
    ("record", "got"),
    [
        (bad.kv("split.count", bad.I32, b"\xff" * 4), "INT32 -1"),
        (bad.kv("split.count", bad.F32, b"\0\0\0\x40"), "FLOAT32 2.0"),
        (bad.text("split.count", "2"), "STRING '2'"),
        (bad.text("split.count", "2" * 61), "STRING of 61 bytes"),
        (bad.numbers("split.count", bad.U16, [2]), "ARRAY of 1 UINT16"),
    ],
)
def test_what_is_wrong_about_a_number_is_said_whole(tmp_path: Path, record: bytes, got: str) -> None:
    """The type may be right and the value wrong."""
    path = tmp_path / name_of(0, 2)
    path.write_bytes(bad.build([record]))
    with pytest.raises(GGUFError) as caught:
        container.open(path)
    assert (caught.value.expected, caught.value.got) == ("a non-negative integer", got)


def test_metadata_cannot_reach_other_folders(tmp_path: Path) -> None:
    """Names of shards come from the opened name alone; a huge count in metadata opens nothing."""
    path = tmp_path / name_of(0, 65535)
    path.write_bytes(bad.build([bad.kv("split.no", bad.U16, b"\0\0"), bad.kv("split.count", bad.U64, b"\xff" * 8)]))
    with pytest.raises(GGUFError) as caught:
        container.open(path)
    assert caught.value.rule == "C-027"


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    paths = make(tmp_path)
    data = bytearray(paths[1].read_bytes())
    data[-1:] = b"\x7f"
    data[-2:-1] = b"\xff"
    paths[1].write_bytes(data)
    report = verify(paths[0])
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert [(finding.rule, finding.path, finding.tensor) for finding in errors] == [("C-107", str(paths[1]), "blk.1.x")]
    paths[1].write_bytes(data[:-1])
    assert [(finding.rule, finding.path) for finding in verify(paths[0]).findings] == [("C-025", str(paths[1]))]


def test_a_shard_stays_open_when_nobody_has_the_whole_any_more(tmp_path: Path) -> None:
    paths = make(tmp_path)
    last = container.open(paths[0]).shards[-1]
    gc.collect()
    assert last.path == str(paths[-1])
    assert last.load("blk.2.x").dequantize(1).tolist() == [*range(16, 24)]
    last.close()
    (alone,) = container.open(paths[0], shards=False).shards
    assert alone.path == str(paths[0])
    alone.close()


@pytest.mark.parametrize("name", ["joined.gguf", name_of(0, 3)])
def test_shards_joined_with_cat(tmp_path: Path, name: str) -> None:
    """Each shard is a whole file, so that what is behind the first is the next one's beginning."""
    shards = tmp_path / "shards"
    shards.mkdir()
    parts = [path.read_bytes() for path in make(shards)]
    path = tmp_path / name
    path.write_bytes(b"".join(parts))
    with pytest.raises(GGUFError, match="joined with cat") as caught:
        container.open(path)
    assert (caught.value.rule, caught.value.offset) == ("C-027", len(parts[0]))


@pytest.mark.parametrize("padded", [True, False])
def test_whole_files_joined_with_cat(tmp_path: Path, padded: bool) -> None:
    path = tmp_path / "two.gguf"
    one = bad.build([bad.text("general.architecture", "x")], [bad.tensor("t", [9], bad.TYPE_F32, 0)], bad.floats(9))
    padding = bytes(-len(one) % 32)
    path.write_bytes(one + (padding if padded else b"") + one)
    findings = [each for each in verify(path).findings if each.rule == "C-103"]
    assert ["another GGUF file" in each.message for each in findings] == [True]
    path.write_bytes(one + padding + b"GGU")
    findings = [each for each in verify(path).findings if each.rule == "C-103"]
    assert ["another GGUF file" in each.message for each in findings] == [False]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((f"m.Q4_0.gguf{end}", "a part of m.Q4_0.gguf:") for end in (".part1of2", "-split-a", ".part-aa", ".001")),
        *((f"m.Q4_0.gguf{end}", "a part of m.Q4_0.gguf:") for end in (".part01", "-part-b", ".split00", ".Part2of10")),
        *((f"m{middle}.gguf", "a part of m.gguf:") for middle in (".part1", "-part2of3", "_split_b")),
        *((f"m.gguf.{end}", "a download that has not ended") for end in ("part", "crdownload", "incomplete", "aria2")),
        *((name, "get it again") for name in ("m.gguf", "m.gguf.old", "part.gguf", "partial.gguf", "m.gguf.bak1")),
    ],
)
def test_names_of_what_is_not_all_of_a_file(tmp_path: Path, name: str, said: str) -> None:
    whole = make(tmp_path, 1)[0].read_bytes()
    path = tmp_path / name
    for cut in (len(whole) - 20, 60):  # within the data, and within the header
        path.write_bytes(whole[:cut])
        with pytest.raises(GGUFError) as caught:
            container.open(path)
        assert said in (caught.value.remedy or "")
        assert any(said in str(finding) for finding in verify(path).findings)
    if "part of" in said:
        path.write_bytes(whole[60:])
        with pytest.raises(GGUFError, match="with cat"):
            container.open(path)
