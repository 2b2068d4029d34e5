"""PyTorch checkpoints, assembled opcode by opcode: what torch.save writes, and what nobody may write."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import checkpoint
from gguflike.checkpoint import pickled
from gguflike.checkpoint.pickled import machine
from gguflike.errors import CheckpointError, GGUFLikeError, UnsupportedError
from tests import tiny

PROTO, STOP, MARK, REDUCE, BUILD, EMPTY = b"\x80\x02", b".", b"(", b"R", b"b", b"}"
TYPES = {
    "<f4": "FloatStorage",
    "<f2": "HalfStorage",
    "<f8": "DoubleStorage",
    "<i8": "LongStorage",
    "|u1": "ByteStorage",
}


Sizes = tuple[int, ...]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return MARK + b"".join(map(number, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def storage(kind: str, key: str, size: int) -> bytes:
    return MARK + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(size) + b"tQ"


def rebuilt(of: bytes, shape: Sizes, strides: Sizes, offset: int = 0, further: bytes = b"") -> bytes:
    """_rebuild_tensor_v2 with hooks as torch writes them."""
    hooks = name("collections", "OrderedDict") + b")" + REDUCE
    arguments = MARK + of + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks + further + b"t"
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + REDUCE


def in_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def state_dict(entries: dict[str, bytes]) -> bytes:
    items = b"".join(text(key) + value for key, value in entries.items())
    return PROTO + EMPTY + MARK + items + b"u" + STOP


def archive(body: bytes, records: dict[str, bytes], folder: str = "archive/", **how: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **how) as made:
        made.writestr(f"{folder}data.pkl", body)
        made.writestr(f"{folder}version", b"3\n")
        for key, value in records.items():
            made.writestr(f"{folder}{key}", value)
    return file.getvalue()


def saved(tensors: dict[str, np.ndarray]) -> bytes:
    """What torch.save makes of a state dict."""
    entries, records = {}, {}
    for index, (key, values) in enumerate(tensors.items()):
        of = storage(TYPES[values.dtype.str], str(index), values.size)
        entries[key] = rebuilt(of, values.shape, in_rows(values.shape))
        records[f"data/{index}"] = values.tobytes()
    return archive(state_dict(entries), records)


FOUR = np.arange(12, dtype="<f4").reshape(3, 4)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(data)
    return path


def test_tensors_are_read_from_their_place(tmp_path: Path) -> None:
    tensors = {"a": FOUR, "b": np.ones((2,), "<f2"), "c": np.array(7, "<i8"), "d": np.zeros((0, 3), "<f4")}
    found = pickled.read(written(tmp_path, saved(tensors)))
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in found.items()} == {
        "a": ("F32", (3, 4)),
        "b": ("F16", (2,)),
        "c": ("I64", ()),
        "d": ("F32", (0, 3)),
    }
    for key, values in tensors.items():
        np.testing.assert_array_equal(found[key].read(), values)
    np.testing.assert_array_equal(found["a"].read(1, 2), FOUR[1:2])


@pytest.mark.parametrize("order", ["little", "big"])
def test_views_of_a_storage(order: str, tmp_path: Path) -> None:
    values = np.arange(60, dtype="<f4")
    entries = {
        "turned": rebuilt(storage("FloatStorage", "0", 60), (6, 10), (1, 6)),
        "inside": rebuilt(storage("FloatStorage", "0", 60), (3, 2), (12, 4), 7),
        "three": rebuilt(storage("FloatStorage", "0", 60), (5, 3, 4), (1, 20, 5)),
        "rows": rebuilt(storage("FloatStorage", "0", 60), (2, 6), (6, 1), 6),
    }
    stored = values.astype("<f4" if order == "little" else ">f4").tobytes()
    found = pickled.read(
        written(tmp_path, archive(state_dict(entries), {"data/0": stored, "byteorder": order.encode()}))
    )
    wanted = {
        "turned": values.reshape(10, 6).T,
        "inside": np.array([[7, 11], [19, 23], [31, 35]], "f4"),
        "three": values.reshape(3, 4, 5).transpose(2, 0, 1),
        "rows": values[6:18].reshape(2, 6),
    }
    for key, each in wanted.items():
        np.testing.assert_array_equal(found[key].read(), each)
        np.testing.assert_array_equal(found[key].read_f32(1, 2), each[1:2])
        if each.ndim == 2:
            np.testing.assert_array_equal(found[key].read_columns(1, 2), each[:, 1:2])


def test_a_turned_matrix_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "_SPAN", 100)
    values = np.arange(600, dtype="<f4")
    entries = {"turned": rebuilt(storage("FloatStorage", "0", 600), (20, 30), (1, 20))}
    found = pickled.read(written(tmp_path, archive(state_dict(entries), {"data/0": values.tobytes()})))
    np.testing.assert_array_equal(found["turned"].read(), values.reshape(30, 20).T)


def stream(state: bytes, keys: list[str], records: list[np.ndarray]) -> bytes:
    """A file from before PyTorch 1.6."""
    magic = PROTO + b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + STOP
    facts = PROTO + EMPTY + MARK + text("little_endian") + b"\x88" + b"u" + STOP
    listed = PROTO + b"]" + MARK + b"".join(map(text, keys)) + b"e" + STOP
    stored = b"".join(struct.pack("<q", values.size) + values.tobytes() for values in records)
    return magic + PROTO + b"M" + struct.pack("<H", 1001) + STOP + facts + state + listed + stored


def old_storage(kind: str, key: str, size: int, part: bytes = b"N") -> bytes:
    return MARK + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(size) + part + b"tQ"


def test_files_from_before_zip_archives(tmp_path: Path) -> None:
    other = np.arange(5, dtype="<f2")
    part = MARK + text("view") + number(4) + number(8) + b"t"
    entries = {
        "a": rebuilt(old_storage("FloatStorage", "12", 12), (3, 4), (4, 1)),
        "b": rebuilt(old_storage("HalfStorage", "7", 5), (5,), (1,)),
        "c": rebuilt(old_storage("FloatStorage", "12", 12, part), (2, 4), (4, 1)),
    }
    found = pickled.read(written(tmp_path, stream(state_dict(entries), ["7", "12"], [other, FOUR])))
    for key, values in {"a": FOUR, "b": other, "c": FOUR[1:]}.items():
        np.testing.assert_array_equal(found[key].read(), values)
    short = stream(state_dict(entries), ["7", "12"], [other, FOUR])[:-4]
    with pytest.raises(CheckpointError, match="storage reaches beyond the end of the file"):
        pickled.read(written(tmp_path, short))
    with pytest.raises(CheckpointError, match="keys of the storages are malformed"):
        pickled.read(written(tmp_path, stream(state_dict(entries), ["7"], [other])))


def test_archives_of_more_than_4_gib(tmp_path: Path) -> None:
    """Sizes and places of 64 bits, as such archives have them, in a small one."""
    records = {"archive/data.pkl": state_dict({"w": GOOD}), "archive/data/0": FOUR.tobytes()}
    data, directory = b"", b""
    for key, value in records.items():
        name_of, header = key.encode(), len(data)
        data += b"PK\3\4" + struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 0, 0, *[0xFFFFFFFF] * 2, len(name_of), 20) + name_of
        data += struct.pack("<HHQQ", 1, 16, len(value), len(value)) + value
        extra = struct.pack("<HH4x", 0x4246, 4) + struct.pack("<HHQQQ", 1, 24, len(value), len(value), header)
        directory += b"PK\1\2" + struct.pack("<HHHHHHIII", 45, 45, 0, 0, 0, 0, zlib.crc32(value), *[0xFFFFFFFF] * 2)
        directory += struct.pack("<HHHHHII", len(name_of), len(extra), 0, 0, 0, 0, 0xFFFFFFFF) + name_of + extra
    start, count = len(data), len(records)
    end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, start + len(directory), 1)
    last = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path = written(tmp_path, data + directory + end + locator + last)
    np.testing.assert_array_equal(pickled.read(path)["w"].read(), FOUR)
    assert zipfile.ZipFile(path).read("archive/data/0") == FOUR.tobytes()  # it is such an archive
    beyond = b"PK\6\7" + struct.pack("<IQI", 0, 1 << 40, 1)
    with pytest.raises(CheckpointError, match="directory of the archive is beyond its end"):
        pickled.read(written(tmp_path, data + directory + end + beyond + last))


def test_a_state_dict_among_other_things(tmp_path: Path) -> None:
    inner = {"w": rebuilt(storage("FloatStorage", "0", 12), (3, 4), (4, 1))}
    body = PROTO + EMPTY + MARK + text("epoch") + number(3) + text("state_dict") + state_dict(inner)[2:-1] + b"u" + STOP
    found = pickled.read(written(tmp_path, archive(body, {"data/0": FOUR.tobytes()})))
    np.testing.assert_array_equal(found["w"].read(), FOUR)


def test_a_checkpoint_of_pytorch_becomes_a_file(tmp_path: Path) -> None:
    """In one file, and in shards with an index, it is the file that safetensors give."""
    folder = tiny.checkpoint(tmp_path / "hf", "F16")
    gguflike.convert(folder, tmp_path / "wanted.gguf", "F16")
    tensors = {key: values.astype("<f2") for key, values in tiny.weights(tiny.config(), "F16").items()}
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"not weights")
    written(folder, saved(tensors))
    wanted = (tmp_path / "wanted.gguf").read_bytes()
    plan = gguflike.convert(folder, tmp_path / "one.gguf", "F16")
    assert (tmp_path / "one.gguf").read_bytes() == wanted
    assert any("the weights are those of pytorch_model.bin" in notice for notice in plan.notices)
    (folder / "pytorch_model.bin").unlink()
    weight_map = {}
    for index in range(2):
        part = dict(list(tensors.items())[index::2])
        file = f"pytorch_model-{index + 1:05d}-of-00002.bin"
        (folder / file).write_bytes(saved(part))
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    gguflike.convert(folder, tmp_path / "two.gguf", "F16")
    assert (tmp_path / "two.gguf").read_bytes() == wanted
    gguflike.convert(folder / "pytorch_model-00001-of-00002.bin", tmp_path / "three.gguf", "F16")
    assert (tmp_path / "three.gguf").read_bytes() == wanted


class Evil:
    """What pickle would run on loading."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def by_pickle(value: Any, protocol: int = 2) -> bytes:
    return archive(pickle.dumps(value, protocol), {})


def by_opcodes(body: bytes, records: dict[str, bytes] | None = None) -> bytes:
    return archive(PROTO + body + STOP, {"data/0": FOUR.tobytes()} if records is None else records)


def one(tensor: bytes, records: dict[str, bytes] | None = None) -> bytes:
    return archive(state_dict({"w": tensor}), {"data/0": FOUR.tobytes()} if records is None else records)


def nested(count: int) -> bytes:
    """Tuples of which each holds the one before twice: a hash would take 2**count steps."""
    return b")" + b"q\0h\0\x86" * count


def patched(data: bytes, at: int, value: bytes) -> bytes:
    at = at if at >= 0 else len(data) + at
    return data[:at] + value + data[at + len(value) :]


def in_directory(data: bytes, field: int, value: bytes) -> bytes:
    """The archive with a field of the first entry of its directory changed."""
    return patched(data, data.index(b"PK\1\2") + field, value)


def viewed(
    shape: Sizes, strides: Sizes, offset: int = 0, size: int = 12, key: str = "0", further: bytes = b""
) -> bytes:
    """A checkpoint of one tensor, of the storage of 12 numbers that there is, or another."""
    return one(rebuilt(storage("FloatStorage", key, size), shape, strides, offset, further))


def called(module: str, attribute: str) -> bytes:
    """A checkpoint that calls a function with a text."""
    return by_opcodes(name(module, attribute) + text("touch hacked") + b"\x85" + REDUCE)


ORDERED = name("collections", "OrderedDict")
GOOD = rebuilt(storage("FloatStorage", "0", 12), (3, 4), (4, 1))
CODE = "__import__('os').system('touch hacked')"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "os.system": (
        lambda: by_pickle(Evil(os.system, "touch hacked")),
        r"asks for (posix|nt)\.system, which no tensor needs",
    ),
    "eval": (lambda: by_pickle(Evil(eval, CODE)), r"asks for __builtin__\.eval"),
    "eval of protocol 4": (lambda: by_pickle(Evil(eval, CODE), 4), r"asks for builtins\.eval"),
    "exec": (lambda: by_pickle(Evil(exec, CODE)), r"asks for __builtin__\.exec"),
    "import": (lambda: by_pickle(Evil(__import__, "os")), r"asks for __builtin__\.__import__"),
    "getattr chain": (lambda: by_pickle(Evil(getattr, Evil(__import__, "os"), "system")), r"asks for __builtin__\."),
    "names with dots": (
        lambda: by_opcodes(text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93"),
        r"asks for torch\._utils\._rebuild_tensor_v2\.__globals__",
    ),
    "a name out of numbers": (lambda: by_opcodes(number(1) + number(2) + b"\x93"), "a name that is no text"),
    "torch.load": (
        lambda: called("torch.storage", "_load_from_bytes"),
        "_load_from_bytes",
    ),
    "numpy": (lambda: by_pickle(np.float64(1)), r"asks for numpy\."),
    "subprocess": (
        lambda: called("subprocess", "Popen"),
        r"subprocess\.Popen",
    ),
    "codecs": (lambda: by_opcodes(name("_codecs", "encode")), r"_codecs\.encode"),
    "a class of the model": (lambda: by_opcodes(name("__main__", "Model") + b")\x81"), r"asks for __main__\.Model"),
    "INST": (lambda: by_opcodes(MARK + b"ios\nsystem\n"), "opcode INST"),
    "OBJ": (lambda: by_opcodes(MARK + b"o"), "opcode OBJ"),
    "NEWOBJ": (lambda: by_opcodes(name("collections", "OrderedDict") + b")\x81"), "opcode NEWOBJ"),
    "extension registry": (lambda: by_opcodes(b"\x82\x01"), "opcode EXT1"),
    "a call of a dtype": (lambda: by_opcodes(name("torch", "float32") + b")" + REDUCE), "calls what no tensor needs"),
    "a call of text": (lambda: by_opcodes(text("os.system") + b")" + REDUCE), "calls what no tensor needs; got str"),
    "attributes of a name": (
        lambda: by_opcodes(name("torch", "Size") + EMPTY + BUILD),
        "sets attributes of what has none",
    ),
    "another opcode": (lambda: by_opcodes(b"\xff"), "opcode 0xff"),
    "text opcodes": (lambda: archive(b"I1\n.", {}), "opcode INT"),
    "protocol 9": (lambda: archive(b"\x80\x09N.", {}), "has another protocol; expected 2 to 5; got 9"),
    "no end": (lambda: archive(PROTO + b"N", {}), "ends too early"),
    "empty stack": (lambda: by_opcodes(b"\x85"), "takes from an empty stack"),
    "no mark": (lambda: by_opcodes(b"t"), "a mark that is not there"),
    "memo that is not there": (lambda: by_opcodes(b"h\7"), "recalls what it did not remember"),
    "memo bomb": (
        lambda: by_opcodes(b"Nr\xff\xff\xff\xffNr\xfe\xff\xff\xff"),
        "no state dict in the file; .*got NoneType",
    ),
    "reduce bomb": (
        lambda: by_opcodes(b"]q\0" + MARK + b"NN\x86" * 50_000 + b"e" + (ORDERED + b"h\0\x85R") * 999),
        "neither text nor a number",
    ),
    "pairs without end": (
        lambda: by_opcodes(b"]q\0" + MARK + b"K\1K\1\x86" * 9_000 + b"e" + (ORDERED + b"h\0\x85R") * 60_000),
        "does more than a checkpoint needs",
    ),
    "sizes without end": (
        lambda: by_opcodes(MARK + b"K\1" * 60_000 + b"tq\0" + (name("torch", "Size") + b"h\0\x85R") * 60_000),
        "size in the pickle is malformed",
    ),
    "deep nesting": (lambda: by_opcodes(b"]" * 60_000 + b"a" * 59_999), "no state dict in the file"),
    "a deep stack": (lambda: by_opcodes(b"]" * 70_000), "does more than a checkpoint needs"),
    "steps without end": (lambda: by_opcodes(b"Nq\0" * 2_200_000), "does more than a checkpoint needs"),
    "a tuple as a key": (lambda: by_opcodes(EMPTY + nested(60) + b"Ns"), "neither text nor a number; got tuple"),
    "huge text": (lambda: by_opcodes(b"\x8d" + struct.pack("<Q", 1 << 40) + b"x"), "ends too early"),
    "huge number": (
        lambda: by_opcodes(b"\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20)),
        "number in the pickle is too long",
    ),
    "text that is none": (lambda: by_opcodes(b"X\1\0\0\0\xff"), "not UTF-8"),
    "a name without end": (lambda: by_opcodes(b"c" + b"a" * 5000), "name in the pickle does not end"),
    "another reference": (lambda: by_opcodes(text("../secret") + b"Q"), "refers to something other than a storage"),
    "a list itself": (lambda: by_opcodes(b"]q\0h\0a"), "no state dict in the file; .*got list"),
    "a path as a key": (
        lambda: viewed((12,), (1,), key="../../etc/passwd"),
        "storage is not in the archive",
    ),
    "storage beyond its record": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 13), (13,), (1,))),
        "fewer bytes than its tensors",
    ),
    "tensor beyond its storage": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (3, 4), (4, 1), 1)),
        "reaches beyond its storage",
    ),
    "strides beyond the storage": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (3, 4), (5, 1))),
        "reaches beyond its storage",
    ),
    "negative strides": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (3, 4), (-4, 1), 11)),
        "tensor in the pickle is malformed",
    ),
    "negative offset": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (3, 4), (4, 1), -1)),
        "tensor in the pickle is malformed",
    ),
    "negative size": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (-3, 4), (4, 1))),
        "tensor in the pickle is malformed",
    ),
    "numbers that repeat": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (1 << 40, 1), (0, 1))),
        "numbers of a tensor overlap",
    ),
    "strides that overlap": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (6, 6), (1, 1))),
        "numbers of a tensor overlap",
    ),
    "sizes that overflow": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (1 << 40,) * 3, (1, 1, 1))),
        "reaches beyond|overlap",
    ),
    "too many axes": (
        lambda: one(rebuilt(storage("FloatStorage", "0", 12), (1,) * 9, (1,) * 9)),
        "tensor in the pickle is malformed",
    ),
    "negative storage": (
        lambda: one(rebuilt(storage("FloatStorage", "0", -1), (0,), (1,))),
        "storage in the pickle is malformed",
    ),
    "conjugated": (
        lambda: viewed((12,), (1,), 0, further=EMPTY + text("neg") + b"\x88s"),
        "negated",
    ),
    "compressed": (
        lambda: archive(state_dict({"w": GOOD}), {"data/0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED),
        "compressed or encrypted",
    ),
    "two pickles": (lambda: archive(state_dict({"w": GOOD}), {"x/data.pkl": b"N."}), "expected one record data.pkl"),
    "no pickle": (lambda: archive(b"", {}, "data.pkl"), "expected one record data.pkl"),
    "TorchScript": (
        lambda: archive(state_dict({"w": GOOD}), {"code/a.py": b"", "data/0": FOUR.tobytes()}),
        "TorchScript",
    ),
    "truncated": (lambda: one(GOOD)[:-30], "no directory at its end"),
    "a directory beyond the end": (lambda: patched(one(GOOD), -6, struct.pack("<I", 1 << 30)), "record|directory"),
    "a directory too long": (
        lambda: patched(one(GOOD), -10, struct.pack("<I", 1 << 30)),
        "directory of the archive does not fit",
    ),
    "entries that are not there": (
        lambda: patched(one(GOOD), -12, struct.pack("<H", 60_000)),
        "directory of the archive does not fit",
    ),
    "another name inside": (lambda: in_directory(one(GOOD), 46, b"Z"), "another name than in the directory"),
    "a record elsewhere": (lambda: in_directory(one(GOOD), 42, struct.pack("<I", 3)), "not where the directory says"),
    "a record too long": (
        lambda: in_directory(one(GOOD), 20, struct.pack("<II", 1 << 20, 1 << 20)),
        "reaches beyond its end",
    ),
    "a record in another": (
        lambda: in_directory(one(GOOD), 20, struct.pack("<II", *[len(state_dict({"w": GOOD})) + 9] * 2)),
        "records of the archive overlap",
    ),
    "sizes of 64 bits": (lambda: in_directory(one(GOOD), 24, b"\xff" * 4), "directory of the archive is damaged"),
    "encrypted": (lambda: in_directory(one(GOOD), 8, b"\1"), "compressed or encrypted"),
    "a tar archive": (lambda: bytes(257) + b"ustar" + bytes(300), "a tar archive"),
    "a pickle alone": (lambda: pickle.dumps({"a": 1}, 2), "a pickle that torch.save did not write"),
    "a pickle alone that runs": (
        lambda: pickle.dumps(Evil(os.system, "touch hacked"), 2),
        r"asks for (posix|nt)\.system",
    ),
    "a page": (lambda: b"<!DOCTYPE html><html>", "web page"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
    "nothing": (lambda: b"", "file is empty"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_by_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = HOSTILE[kind]
    path = written(tmp_path, make())
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    with pytest.raises(GGUFLikeError, match=message) as error:
        pickled.read(path)
    assert time.perf_counter() - start < 15  # the longest runs four million steps
    assert isinstance(error.value, CheckpointError | UnsupportedError)
    assert error.value.path == str(path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("kind", ["memo bomb", "huge text", "a tuple as a key", "reduce bomb"])
def test_hostile_files_take_little_memory(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, HOSTILE[kind][0]())
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(GGUFLikeError):
            pickled.read(path)
        assert tracemalloc.get_traced_memory()[1] < (16 << 20) + 10 * size
    finally:
        tracemalloc.stop()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: not a file"):
        pickled.read(tmp_path / "pytorch_model.bin")


def test_a_pickle_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_BYTES", 50)
    with pytest.raises(CheckpointError, match=r"record archive/data.pkl is too long; expected at most 50 bytes"):
        pickled.read(written(tmp_path, one(GOOD)))


def test_the_table_of_names_is_short() -> None:
    """Whatever is added here is what a pickle may ask for."""
    assert {f"{module}.{attribute}" for module, attribute in machine._CALLS} == {
        "collections.OrderedDict",
        "torch.Size",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    }
    assert {("torch", "Tensor"), ("torch.nn.parameter", "Parameter")} == machine._TYPES


def test_a_hostile_checkpoint_is_refused_by_the_converter(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    written(folder, by_pickle(Evil(os.system, f"touch {tmp_path / 'hacked'}")))
    with pytest.raises(UnsupportedError, match="nothing was run; get the weights as safetensors"):
        checkpoint.open(folder)
    assert not (tmp_path / "hacked").exists()
