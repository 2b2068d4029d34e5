"""Checkpoints: what is read, and what is refused."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from gguflike import checkpoint
from gguflike.checkpoint.safetensors import read_header
from gguflike.errors import CheckpointError, UnsupportedError
from tests import tiny


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{dtype}": (rng.random((3, 5, 2)) * 100).astype(dtype)
        for dtype in ("float16", "float32", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64", "uint64")
    }
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert header.keys() == arrays.keys()
    for name, array in arrays.items():
        read = header[name].read()
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(header["float64"].read_f32(1, 3), arrays["float64"][1:3].astype(np.float32))
    np.testing.assert_array_equal(header["float16"].read_f32(2), arrays["float16"][2:].astype(np.float32))
    with pytest.raises(UnsupportedError, match=r"weights of dtype I16; expected"):
        header["int16"].read_f32()


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x0001, 0x7F7F], "<u2")
    text = b'{"x":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bits.tobytes())
    tensor = pickle.loads(pickle.dumps(read_header(tmp_path / "x")["x"]))  # as another process gets it
    np.testing.assert_array_equal(tensor.read().reshape(-1), bits)
    np.testing.assert_array_equal(
        tensor.read_f32(), np.array([[1.0, -2.0], [9.183549615799121e-41, 3.3895314e38]], "f4")
    )
    assert tensor.read_f32(1, 2).shape == (1, 2)


def test_a_file_that_changes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(tiny.safetensors({"x": np.ones((4, 4), "f4")}))
    tensor = read_header(path)["x"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        tensor.read()
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensor.read()


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = bytes(8)


def entry(**changes: Any) -> dict[str, Any]:
    return {**ENTRY, **changes}


def raw(text: bytes, data: bytes = DATA) -> bytes:
    return struct.pack("<Q", len(text)) + text + data


# name -> (bytes of the file, part of the message)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "file is empty"),
    "seven bytes": (b"\1" * 7, "header does not fit"),
    "no header": (struct.pack("<Q", 0) + b"x", "does not begin with '{'"),
    "length beyond the file": (struct.pack("<Q", 1000) + b"{}", "header does not fit"),
    "length of all ones": (b"\xff" * 8 + b"{}", "header does not fit"),
    "leading space": (raw(b" " + json.dumps({"x": ENTRY}).encode()), "does not begin with '{'"),
    "an HTML page": (b"<!DOCTYPE html><html></html>" * 20, "a web page.*not safetensors"),
    "not UTF-8": (raw(b'{"\xff":1}'), "not UTF-8"),
    "not JSON": (raw(b"{]"), "not valid JSON"),
    "NaN": (raw(b'{"x":NaN}'), "NaN is not JSON"),
    "data after the JSON": (raw(json.dumps({"x": ENTRY}).encode() + b"{}"), "not valid JSON"),
    "deep nesting": (raw(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "nested too deeply|not valid JSON"),
    "long number": (raw(b'{"x":' + b"9" * 10_000 + b"}"), "not valid JSON"),
    "duplicate key": (raw(b'{"x":%s,"x":%s}' % ((json.dumps(ENTRY).encode(),) * 2)), "duplicate key 'x'"),
    "duplicate field": (
        raw(b'{"x":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}'),
        "duplicate key 'dtype'",
    ),
    "list instead of entry": (raw(b'{"x":[]}'), "entry is malformed"),
    "missing dtype": (raw(b'{"x":{"shape":[2],"data_offsets":[0,8]}}'), "entry is malformed"),
    "extra field": (raw(json.dumps({"x": entry(more=1)}).encode()), "entry is malformed"),
    "metadata of numbers": (raw(json.dumps({"__metadata__": {"a": 1}, "x": ENTRY}).encode()), "__metadata__"),
    "metadata list": (raw(json.dumps({"__metadata__": [], "x": ENTRY}).encode()), "__metadata__"),
    "unknown dtype": (raw(json.dumps({"x": entry(dtype="F99")}).encode()), "unknown dtype"),
    "dtype number": (raw(json.dumps({"x": entry(dtype=3)}).encode()), "unknown dtype"),
    "negative size": (raw(json.dumps({"x": entry(shape=[-2])}).encode()), "shape is malformed"),
    "boolean size": (raw(json.dumps({"x": entry(shape=[True, 2])}).encode()), "shape is malformed"),
    "fractional size": (raw(json.dumps({"x": entry(shape=[2.0])}).encode()), "shape is malformed"),
    "size beyond 64 bits": (raw(json.dumps({"x": entry(shape=[2**64 + 2])}).encode()), "shape is malformed"),
    "product that wraps to 2": (raw(json.dumps({"x": entry(shape=[2**62, 4, 2])}).encode()), "do not match"),
    "many dimensions": (raw(json.dumps({"x": entry(shape=[1] * 9)}).encode()), "shape is malformed"),
    "offsets reversed": (raw(json.dumps({"x": entry(data_offsets=[8, 0])}).encode()), "outside the file"),
    "three offsets": (raw(json.dumps({"x": entry(data_offsets=[0, 4, 8])}).encode()), "outside the file"),
    "offsets beyond the file": (raw(json.dumps({"x": entry(data_offsets=[0, 16], shape=[4])}).encode()), "outside the"),
    "wrong size": (raw(json.dumps({"x": entry(shape=[1])}).encode()), "do not match"),
    "half a byte": (raw(json.dumps({"x": entry(dtype="F4", shape=[15])}).encode()), "do not match"),
    "hole at the start": (raw(json.dumps({"x": entry(shape=[1], data_offsets=[4, 8])}).encode()), "hole"),
    "hole between": (
        raw(
            json.dumps(
                {"x": entry(shape=[1], data_offsets=[0, 4]), "y": entry(shape=[1], data_offsets=[8, 12])}
            ).encode(),
            bytes(12),
        ),
        "hole",
    ),
    "overlap": (
        raw(json.dumps({"x": ENTRY, "y": entry(shape=[1], data_offsets=[4, 8])}).encode()),
        "overlaps another tensor",
    ),
    "twice the same data": (raw(json.dumps({"x": ENTRY, "y": ENTRY}).encode()), "overlaps another tensor"),
    "bytes at the end": (raw(json.dumps({"x": ENTRY}).encode(), bytes(9)), "bytes after the last tensor"),
    "only trailing data": (raw(b"{}", bytes(8)), "bytes after the last tensor"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_safetensors(name: str, tmp_path: Path) -> None:
    data, message = BAD_FILES[name]
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(tmp_path / "x.safetensors")
    assert caught.value.path == str(tmp_path / "x.safetensors")


def test_the_control_loads(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(raw(json.dumps({"__metadata__": {"a": "b"}, "x": ENTRY}).encode() + b"   "))
    assert read_header(tmp_path / "x")["x"].read().tolist() == [0.0, 0.0]


def test_single_and_sharded_are_the_same(tmp_path: Path) -> None:
    one = checkpoint.open(tiny.checkpoint(tmp_path / "one"))
    many = checkpoint.open(tiny.checkpoint(tmp_path / "many", shards=3))
    assert one.source == "one"
    assert set(one.tensors) == set(many.tensors) == set(tiny.shapes(tiny.config()))
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.read(), many.tensors[name].read())
    assert one.generation_config["eos_token_id"] == 257


@pytest.mark.parametrize(
    "file",
    [
        "../one/model.safetensors",
        "/etc/passwd",
        "a/../b.safetensors",
        "a/.b.safetensors",
        "a//b.safetensors",
        "..",
        ".safetensors",
        "x.txt",
        "",
        3,
        None,
        "a\\b.safetensors",
    ],
)
def test_weight_map_stays_in_its_folder(file: Any, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "x", shards=2)
    index = folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["lm_head.weight"] = file
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="weight_map names something other"):
        checkpoint.open(folder)


def damaged(tmp_path: Path, what: str) -> Path:
    folder = tiny.checkpoint(tmp_path / "x", shards=2)
    index = folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    match what:
        case "shard missing":
            (folder / "model-00002-of-00002.safetensors").unlink()
        case "tensor in no shard":
            document["weight_map"]["more"] = "model-00001-of-00002.safetensors"
        case "no weight_map":
            document = {}
        case "stale single file":
            (folder / "model.safetensors").write_bytes(tiny.safetensors({}))
        case "shard truncated":
            shard = folder / "model-00001-of-00002.safetensors"
            shard.write_bytes(shard.read_bytes()[:-1])
        case "no weights":
            for path in folder.glob("model*"):
                path.unlink()
            return folder
        case "no config":
            (folder / "config.json").unlink()
        case "config is a list":
            (folder / "config.json").write_text("[]")
        case "generation config is broken":
            (folder / "generation_config.json").write_text("{")
    index.write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("shard missing", "shard is missing"),
        ("tensor in no shard", "1 tensor of the index in no shard"),
        ("no weight_map", "weight_map is missing"),
        ("stale single file", "both model.safetensors and an index"),
        ("shard truncated", "outside the file|bytes after"),
        ("no weights", "no safetensors in the folder.*no weights"),
        ("no config", "there is no config.json; a checkpoint has one beside its weights"),
        ("config is a list", "not an object of JSON"),
        ("generation config is broken", "not valid JSON"),
    ],
)
def test_incomplete_folders(what: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.open(damaged(tmp_path, what))


def test_infinity_in_a_config(tmp_path: Path) -> None:
    """Python writes it, and many checkpoints of Mamba 2 have it. Where it means nothing, it is no number."""
    folder = tiny.checkpoint(tmp_path / "hf")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"time_step_limit": [0.0, Infinity],', 1))
    assert checkpoint.open(folder).config["time_step_limit"] == [0.0, float("inf")]
    (folder / "config.json").write_text(text.replace("{", '{"x": NaN,', 1))
    with pytest.raises(CheckpointError, match="not valid JSON: NaN is not JSON"):
        checkpoint.open(folder)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.open(tmp_path / "nothing")
    folder = tiny.checkpoint(tmp_path / "0123abc")
    with pytest.raises(CheckpointError, match=r"a file, and not the checkpoint; give its folder, .*0123abc"):
        checkpoint.open(folder / "config.json")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"no such checkpoint.*got a file"):
        checkpoint.open(tmp_path / "x.txt")
    (folder / "model.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(UnsupportedError, match="this is an ONNX model, not a checkpoint of Transformers; take the or"):
        checkpoint.open(folder / "model.onnx")
    (folder / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(CheckpointError, match="this is a GGUF file"):
        checkpoint.open(folder / "model.gguf")
    (tmp_path / "model").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(CheckpointError, match="this is a GGUF file, not a checkpoint; `gguflike quantize` writes it"):
        checkpoint.open(tmp_path / "model")


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_header(tmp_path / "absent.safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(tiny.safetensors({"x": np.ones((4, 4), "f4")}))
    tensor = read_header(path)["x"]
    path.unlink()
    with pytest.raises(CheckpointError, match="'x': cannot be read: No such file"):
        tensor.read()
    text = b'{"x":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(3))
    with pytest.raises(UnsupportedError, match=r"tensor of dtype F6_E2M3; expected one of .*F32"):
        read_header(path)["x"].read()


def test_tensors_may_be_listed_in_any_order(tmp_path: Path) -> None:
    text = (
        b'{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"empty":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + b"\1\2\3")
    tensors = read_header(tmp_path / "x")
    assert list(tensors) == ["a", "empty", "b"]  # in order of their data
    assert [tensors[name].read().tolist() for name in tensors] == [[1], [], [2, 3]]


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        *(("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("F8_E4M3", 8), ("F8_E4M3FNUZ", 8), ("F8_E5M2", 8)),
        *(
            ("F8_E5M2FNUZ", 8),
            ("F8_E8M0", 8),
            ("BOOL", 8),
            ("U16", 16),
            ("C64", 64),
            ("F64", 64),
            ("I64", 64),
            ("U64", 64),
        ),
    ],
)
def test_sizes_of_dtypes(tmp_path: Path, dtype: str, bits: int) -> None:
    """Those that cannot be read as well; eight of anything fill whole bytes."""
    for nbytes, good in ((bits, True), (bits + 1, False)):
        text = f'{{"x":{{"dtype":"{dtype}","shape":[8],"data_offsets":[0,{nbytes}]}}}}'.encode()
        (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bytes(nbytes))
        if good:
            assert read_header(tmp_path / "x")["x"].shape == (8,)
        else:
            with pytest.raises(CheckpointError, match="do not match dtype and shape"):
                read_header(tmp_path / "x")
