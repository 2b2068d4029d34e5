"""Opening files: what llama.cpp's own validation tests refuse and load, values, byte orders, laziness and limits."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflike import container
from gguflike.blocks import FORMATS, format_by_id
from gguflike.cli import main
from gguflike.container import ValueType, header, layout
from gguflike.container.layout import FOREIGN_TYPES, MAX_HEADER_BYTES
from gguflike.container.places import Gaps
from gguflike.container.strings import StringOverrun, _chain, decode, read_strings, skip_strings
from gguflike.errors import GGUFError, UnsupportedError
from tests.bad_vectors import bad

F32 = bad.TYPE_F32


def save(folder: Path, data: bytes) -> Path:
    path = folder / "file.gguf"
    path.write_bytes(data)
    return path


# --- llama.cpp's tests/test-gguf.cpp: each of its hand-made files, by its name there ---

ALIGN_64 = [bad.u32("general.alignment", 64)]
KVS = [bad.u32("first", 1), bad.text("second", "two"), bad.array_of("third", bad.U16, 2, b"\1\0\2\0")]
TENSORS = [bad.tensor("t0", [8], F32, 0), bad.tensor("t1", [4, 4], F32, 32), bad.tensor("t2", [2, 2, 2, 2], F32, 96)]
DATA = bad.floats(8 + 16 + 16)


def one(name: str = "t", dims: tuple[int, ...] = (8,), kind: int = F32, offset: int = 0) -> bytes:
    return bad.build((), [bad.tensor(name, dims, kind, offset)], bad.floats(8))


LLAMA_REJECTS = {
    "HEADER_BAD_MAGIC": ("C-001", bad.build(magic=b"GGML")),
    "HEADER_BAD_VERSION_0": ("C-002", bad.build(version=0)),
    "HEADER_BAD_VERSION_1": ("C-002", bad.build(version=1)),
    "HEADER_BAD_VERSION_FUTURE": ("C-002", bad.build(version=4)),
    "HEADER_BAD_N_TENSORS": ("C-003", bad.build(n_tensors=bad.TOP)),
    "HEADER_BAD_N_KV": ("C-004", bad.build(n_kv=bad.TOP)),
    "KV_BAD_KEY_SIZE": ("C-007", bad.build([bad.string("key", bad.TOP) + struct.pack("<I", bad.U32) + bytes(4)])),
    "KV_EMPTY_KEY": ("C-008", bad.build([bad.u32("", 1)])),
    "KV_BAD_TYPE": ("C-011", bad.build([bad.kv("key", 13, bytes(8))])),
    "KV_DUPLICATE_KEY": ("C-010", bad.build([bad.u32("key", 1), bad.u32("key", 1)])),
    "KV_BAD_ALIGN": ("C-015", bad.build([bad.u32("general.alignment", 13)])),
    "KV_WRONG_TYPE_ALIGN": ("C-015", bad.build([bad.kv("general.alignment", bad.I32, struct.pack("<i", 64))])),
    "TENSORS_BAD_NAME_SIZE": ("C-017", one("n" * 128)),  # 64 there; names of 64 to 127 bytes are read
    "TENSORS_BAD_N_DIMS": ("C-020", one(dims=(1,) * 5)),
    "TENSORS_BAD_SHAPE": ("C-021", one(dims=(bad.TOP,))),
    "TENSORS_NE_TOO_BIG": ("C-021", one(dims=(2**31,) * 4)),
    "TENSORS_NBYTES_TOO_BIG": ("C-021", one(dims=(2**30, 2**32))),
    "TENSORS_BAD_TYPE": ("C-022", one(kind=43)),
    "TENSORS_BAD_OFFSET": ("C-024", one(offset=bad.TOP)),
    "TENSORS_DUPLICATE_NAME": ("C-019", bad.build((), [TENSORS[0], bad.tensor("t0", [8], F32, 32)], DATA)),
    "TENSORS_BAD_ALIGN": ("C-015", bad.build([bad.u32("general.alignment", 13)], TENSORS, DATA)),
    "TENSORS_INCONSISTENT_ALIGN": ("C-024", bad.build(ALIGN_64, TENSORS, DATA, alignment=64)),
    "DATA_NOT_ENOUGH_DATA": ("C-025", bad.build((), TENSORS, DATA[:-1])),
    "DATA_BAD_ALIGN": ("C-015", bad.build([bad.u32("general.alignment", 13)], TENSORS, DATA)),
    "DATA_INCONSISTENT_ALIGN": ("C-024", bad.build(ALIGN_64, TENSORS, DATA, alignment=64)),
    "DATA_MEM_SIZE_OVERFLOW": (
        "C-025",
        bad.build(
            (),
            [bad.tensor(f"t{i}", [0x7FFFFFFFFFFFFFC0], FORMATS["I8"].id, i * 0x7FFFFFFFFFFFFFC0) for i in range(2)],
            bytes(32),
        ),
    ),
}

LLAMA_LOADS = {
    "HEADER_EMPTY": (bad.build(), 0, 0),
    "KV_SUCCESS": (bad.build(KVS), 3, 0),
    "TENSORS_SUCCESS": (bad.build(KVS, TENSORS, DATA), 3, 3),
    "TENSORS_CUSTOM_ALIGN": (
        bad.build(
            [bad.u32("general.alignment", 1)], [bad.tensor("t", [3], FORMATS["I8"].id, 0)], b"\1\2\3", alignment=1
        ),
        1,
        1,
    ),
    "TENSORS_ZERO_DIM": (bad.build((), [bad.tensor("t", [8, 0, 3], F32, 0)]), 0, 1),
    "DATA_SUCCESS": (bad.build((), TENSORS, DATA), 0, 3),
    "DATA_CUSTOM_ALIGN": (
        bad.build(ALIGN_64, [TENSORS[0], bad.tensor("t1", [8], F32, 64)], bad.floats(24), alignment=64),
        1,
        2,
    ),
}


def test_all_of_llama_cpps_files_are_here() -> None:
    assert (len(LLAMA_REJECTS), len(LLAMA_LOADS)) == (26, 7)


@pytest.mark.parametrize("name", LLAMA_REJECTS)
def test_refused_as_by_llama_cpp(tmp_path: Path, name: str) -> None:
    rule, data = LLAMA_REJECTS[name]
    with pytest.raises(GGUFError) as caught:
        container.open(save(tmp_path, data))
    assert caught.value.rule == rule
    assert caught.value.field
    assert caught.value.offset is not None


@pytest.mark.parametrize("name", LLAMA_LOADS)
def test_loads_as_in_llama_cpp(tmp_path: Path, name: str) -> None:
    data, values, tensors = LLAMA_LOADS[name]
    with container.open(save(tmp_path, data)) as file:
        assert len(file.metadata) == values
        assert len(file.infos) == tensors
        for tensor in file.tensors.values():
            assert tensor.data.nbytes == tensor.format.tensor_bytes(tensor.shape)


# --- further classes ---


@pytest.mark.parametrize("type_id", FOREIGN_TYPES)
def test_foreign_types_are_refused_by_name(tmp_path: Path, type_id: int) -> None:
    with pytest.raises(GGUFError) as caught:
        container.open(save(tmp_path, one(dims=(256,), kind=type_id)))
    assert caught.value.rule == "C-022"
    assert FOREIGN_TYPES[type_id][0] in str(caught.value)
    assert caught.value.remedy


def test_foreign_types_are_not_in_the_table() -> None:
    assert not set(FOREIGN_TYPES) & {fmt.id for fmt in FORMATS.values()}


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n\n <html>", "web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"tjgg\x03\0\0\0", "before GGUF"),
        (b"#!/bin/sh", "not a GGUF file"),
    ],
)
def test_other_files_are_recognized(tmp_path: Path, start: bytes, said: str) -> None:
    with pytest.raises(GGUFError, match=said) as caught:
        container.open(save(tmp_path, start + bytes(30)))
    assert caught.value.rule == "C-001"


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="folder") as caught:
        container.open(tmp_path)
    assert "convert" in str(caught.value)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GGUFError, match="special file"):
        container.open(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        container.open(tmp_path / "nothing")


def test_header_beyond_the_limit(tmp_path: Path) -> None:
    path = save(tmp_path, bad.build([bad.array_of("a", bad.U8, MAX_HEADER_BYTES, b""), bad.u32("b", 1)]))
    os.truncate(path, 2 * MAX_HEADER_BYTES)  # sparse
    with pytest.raises(GGUFError) as caught:
        container.open(path)
    assert caught.value.rule == "C-006"


def test_key_of_65536_bytes(tmp_path: Path) -> None:
    with container.open(save(tmp_path, bad.build([bad.u32("k" * 65535, 1)]))) as file:
        assert len(file.metadata) == 1
    with pytest.raises(GGUFError) as caught:
        container.open(save(tmp_path, bad.build([bad.u32("k" * 65536, 1)])))
    assert caught.value.rule == "C-008"


def test_nesting_is_not_followed(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", bad.ARRAY, 1) * 5000 + struct.pack("<IQ", bad.U8, 1) + b"\0"
    with pytest.raises(GGUFError) as caught:
        container.open(save(tmp_path, bad.build([bad.kv("a", bad.ARRAY, nested)])))
    assert caught.value.rule == "C-012"


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = bad.build(KVS, TENSORS, DATA)
    for size in range(len(whole)):
        with pytest.raises(GGUFError) as caught:
            container.open(save(tmp_path, whole[:size]))
        assert caught.value.rule in {"C-001", "C-003", "C-004", "C-005", "C-007", "C-013", "C-025"}


def test_zero_dims_and_scalars(tmp_path: Path) -> None:
    tensors = [
        bad.tensor("none", [0], F32, 10 * 32),
        bad.tensor("scalar", [], F32, 0),
        bad.tensor("rows", [32, 0], 8, 0),
    ]
    with container.open(save(tmp_path, bad.build((), tensors, bad.floats(8)))) as file:
        assert file.tensors["none"].data.nbytes == 0
        assert file.tensors["scalar"].shape == ()
        assert file.tensors["scalar"].data.view("<f4").tolist() == [1.0]
        assert file.tensors["rows"].shape == (0, 32)


@pytest.mark.parametrize("name", ["hf://org/name/m.gguf", "https://example.org/m.gguf", "s3://bucket/" + "m" * 5000])
def test_what_lies_elsewhere_is_said_not_to_be_here(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedError, match=r"lies elsewhere.*expected a path; download it first"):
        container.open(name)
    if len(name) < 100:
        Path(name).parent.mkdir(parents=True)
        Path(name).write_bytes(one())
        container.open(name).close()


@pytest.mark.parametrize(
    ("dims", "kind", "rule"),
    [((0, 2**40, 2**40), F32, "C-021"), ((2**61,), F32, "C-021"), ((33, 0), 8, "C-023"), ((0, 2**51), F32, None)],
)
def test_a_type_that_was_met_before_excuses_no_size(
    dims: tuple[int, ...], kind: int, rule: str | None, tmp_path: Path
) -> None:
    tensors = [bad.tensor("first", [32], kind, 0), bad.tensor("second", dims, kind, 0)]
    path = save(tmp_path, bad.build((), tensors, bad.floats(32)))
    if rule is None:
        with container.open(path) as file:
            assert file.infos["second"].nbytes == 0
        return
    with pytest.raises(GGUFError) as caught:
        container.open(path)
    assert (caught.value.rule, caught.value.tensor) == (rule, "second")


def test_what_is_surely_sound_is_measured_once_for_a_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of 200,000 empty tensors costs no more for each than one of full ones."""
    measure, measured = header._measured, []
    monkeypatch.setattr(header, "_measured", lambda *about: measured.append(about) or measure(*about))
    tensors = [bad.tensor(f"t{i}", dims, F32, 0) for i, dims in enumerate([(0,), (0, 7), (7, 0, 2**40), (), (0,)])]
    container.open(save(tmp_path, bad.build((), tensors, bad.floats(8)))).close()
    assert len(measured) == 1


# --- memory: what a small file can make us allocate ---

BOMBS = {
    "tensor count": bad.build(n_tensors=2**40),
    "metadata count": bad.build(n_kv=2**40),
    "string": bad.build([bad.kv("a", bad.STRING, bad.string("b", 2**40))]),
    "string array": bad.build([bad.array_of("a", bad.STRING, 2**40, b"")]),
    "number array": bad.build([bad.array_of("a", bad.F64, 2**40, b"")]),
    "tensor": one(dims=(2**40,)),
    "tensors": bad.build((), [bad.tensor(f"t{i}", [2**50], F32, 0) for i in range(100)]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_nothing_is_allocated_for_what_is_not_there(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, BOMBS[name])
    tracemalloc.start()
    with pytest.raises(GGUFError):
        container.open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_large_vocabulary_is_not_decoded(tmp_path: Path) -> None:
    """150,000 tokens, 3 MB: opening takes them as they are, read in two pieces, and not an object per token."""
    tokens = [f"token {i}" for i in range(150_000)]
    data = bad.build(
        [bad.array_of("tokenizer.ggml.tokens", bad.STRING, len(tokens), b"".join(map(bad.string, tokens)))]
    )
    path = save(tmp_path, data)
    tracemalloc.start()
    file = container.open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(data) + (1 << 20)
    assert file.metadata.count_of("tokenizer.ggml.tokens") == 150_000
    assert file.metadata.head("tokenizer.ggml.tokens", 2) == ["token 0", "token 1"]
    assert file.metadata["tokenizer.ggml.tokens"] == tokens


def test_many_tensors_take_little_memory(tmp_path: Path) -> None:
    count = 20_000
    path = save(tmp_path, bad.build((), [bad.tensor(f"t{i}", [0], F32, 0) for i in range(count)]))
    tracemalloc.start()
    file = container.open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(file.infos) == count
    assert peak / count < 300  # 200,000 tensors: below 60 MB


# --- arrays of strings ---

PIECES = st.lists(
    st.one_of(st.binary(max_size=6), st.just(b""), st.just(bytes(9)), st.binary(min_size=250, max_size=300)),
    max_size=60,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(PIECES, st.sampled_from("<>"), st.integers(0, 9), st.integers(1, 8))
def test_string_arrays_are_walked_exactly(pieces: list[bytes], order: str, start: int, repeat: int) -> None:
    pieces = pieces * repeat
    body = b"".join(struct.pack(order + "Q", len(piece)) + piece for piece in pieces)
    buffer = bytes(start) + body + bytes(11)
    assert skip_strings(buffer, start, len(pieces), len(buffer), order) == start + len(body)
    texts = read_strings(buffer, start, len(pieces), len(buffer), order)
    assert [texts.raw(index) for index in range(len(texts))] == pieces
    assert texts.tolist() == [decode(piece) for piece in pieces]
    with pytest.raises(StringOverrun):
        skip_strings(buffer, start, len(pieces) + 1, start + len(body), order)


def test_a_long_string_does_not_end_the_fast_walk() -> None:
    pieces = ([b"word"] * 9000 + [b"x" * 70_000] + [b""] * 50) * 3
    body = b"".join(struct.pack("<Q", len(piece)) + piece for piece in pieces)
    assert skip_strings(body, 0, len(pieces), len(body), "<") == len(body)


# --- values ---

VALUES = {
    ValueType.UINT8: 200,
    ValueType.INT8: -100,
    ValueType.UINT16: 60_000,
    ValueType.INT16: -30_000,
    ValueType.UINT32: 4_000_000_000,
    ValueType.INT32: -2_000_000_000,
    ValueType.FLOAT32: 1.5,
    ValueType.BOOL: True,
    ValueType.STRING: "größer",
    ValueType.UINT64: 2**63 + 1,
    ValueType.INT64: -(2**62),
    ValueType.FLOAT64: 0.1,
}


@pytest.mark.parametrize("endian", ["little", "big"])
def test_files_of_the_gguf_package(tmp_path: Path, endian: str) -> None:
    """Every value type, alone and in arrays, and every float type, in both byte orders."""
    path = tmp_path / "file.gguf"
    order = gguf.GGUFEndian.LITTLE if endian == "little" else gguf.GGUFEndian.BIG
    writer = gguf.GGUFWriter(path, "llama", endianess=order)
    for kind, value in VALUES.items():
        writer.add_key_value(f"single.{kind.name}", value, gguf.GGUFValueType(kind))
    arrays = {
        "ints": [1, -2, 3],
        "floats": [0.5, -2.0],
        "strings": ["a", "", "größer"],
        "bools": [True, False],
    }
    for name, items in arrays.items():
        writer.add_array(f"array.{name}", items)
    rng = np.random.default_rng(1)
    plain = {
        "f32": rng.standard_normal((3, 4, 5)).astype(np.float32),
        "f16": rng.standard_normal((2, 7)).astype(np.float16),
        "f64": rng.standard_normal(9),
        "i32": rng.integers(-(2**31), 2**31, (4, 2), dtype=np.int32),
    }
    for name, array in plain.items():
        writer.add_tensor(name, array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with container.open(path) as file:
        assert (file.version, file.byteorder, file.architecture) == (3, endian, "llama")
        for kind, value in VALUES.items():
            key = f"single.{kind.name}"
            assert file.metadata.type_of(key) is kind
            assert file.metadata[key] == value
            assert type(file.metadata[key]) is type(value)
        for name, items in arrays.items():
            assert list(file.metadata[f"array.{name}"]) == items
        for name, array in plain.items():
            tensor = file.tensors[name]
            assert tensor.shape == array.shape
            assert tensor.data.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_version_2(tmp_path: Path) -> None:
    with container.open(save(tmp_path, bad.build(KVS, TENSORS, DATA, version=2))) as file:
        assert file.version == 2
        assert file.metadata["second"] == "two"


def test_quantized_big_endian_blocks_are_swapped_by_field(tmp_path: Path) -> None:
    """Q8_0: a float16 scale and 32 int8; only the scale is swapped."""
    block = struct.pack(">e", 0.5) + bytes(range(32))
    record = bad.tensor("x", [32], bad.TYPE_Q8_0, 0, order=">")
    with container.open(save(tmp_path, bad.build((), [record], block, order=">"))) as file:
        assert file.tensors["x"].data.tobytes() == struct.pack("<e", 0.5) + bytes(range(32))


def test_metadata_is_a_read_only_mapping_with_types(tmp_path: Path) -> None:
    file = container.open(save(tmp_path, bad.build(KVS)))
    assert list(file.metadata) == ["first", "second", "third"]
    assert dict(file.metadata) == {"first": 1, "second": "two", "third": pytest.approx([1, 2])}
    assert "fourth" not in file.metadata
    with pytest.raises(KeyError):
        file.metadata["fourth"]
    with pytest.raises(TypeError):
        file.metadata["first"] = 2  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        file.metadata["third"][0] = 9
    assert file.metadata["third"].dtype == np.uint16
    assert file.metadata.item_type_of("third") is ValueType.UINT16
    assert file.metadata.item_type_of("first") is None
    assert file.metadata.count_of("third") == 2
    assert file.metadata.head("third", 1).tolist() == [1]
    assert file.metadata.head("second", 1) == "two"
    assert [typed.type for typed in file.metadata.typed_dict().values()] == [
        ValueType.UINT32,
        ValueType.STRING,
        ValueType.ARRAY,
    ]


def test_strings_that_are_not_utf8_come_back_as_bytes(tmp_path: Path) -> None:
    tokens = bad.array_of("tokens", bad.STRING, 2, bad.string(b"\xff") + bad.string("fine"))
    with container.open(save(tmp_path, bad.build([bad.text("name", b"caf\xe9"), tokens]))) as file:
        assert file.metadata["name"] == b"caf\xe9"
        assert file.metadata["tokens"] == [b"\xff", "fine"]


# --- tensors ---


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    file = container.open(save(tmp_path, bad.build((), TENSORS, DATA)))
    first, again = file.tensors["t1"], file.tensors["t1"]
    assert np.shares_memory(first.data, again.data)
    assert not first.data.flags.writeable
    assert first.data.view("<f4").tolist() == list(range(9, 25))
    info = file.infos["t1"]
    assert (info.shape, info.format.name, info.offset, info.nbytes, info.shard) == (
        (4, 4),
        "F32",
        file.data_offset + 32,
        64,
        0,
    )
    assert list(file.tensors) == list(file.infos) == ["t0", "t1", "t2"]
    with pytest.raises(KeyError):
        file.tensors["t3"]


def test_tensors_outlive_the_file(tmp_path: Path) -> None:
    with container.open(save(tmp_path, bad.build((), TENSORS, DATA))) as file:
        tensor = file.tensors["t0"]
    assert tensor.data.view("<f4").tolist() == list(range(1, 9))
    with pytest.raises(ValueError, match="closed"):
        file.tensors["t0"]
    file.close()  # again does no harm


def test_holes_and_disorder_load(tmp_path: Path) -> None:
    tensors = [bad.tensor("late", [8], F32, 96), bad.tensor("early", [8], F32, 0)]
    with container.open(save(tmp_path, bad.build((), tensors, bad.floats(32)))) as file:
        assert file.tensors["late"].data.view("<f4")[0] == 25
        assert file.tensors["early"].data.view("<f4")[0] == 1


def test_names_of_ik_llama_cpps_types() -> None:
    """It numbers interleaved rows (``_R4``) 200 above the type itself; the last three go with no type of one number."""
    ids = {fmt.name: number for number in range(200) if (fmt := format_by_id(number))}
    ids |= {name: number for number, name in layout._IK_NAMES.items()}
    repacked = [name for name in layout._IK_NAMES.values() if "_R" in name and not name.startswith("Q8_K")]
    assert len(repacked) > 20
    for name in repacked:
        assert ids[name] - ids[name.rpartition("_R")[0]] == (100 if name == "Q6_0_R4" else 200), name
    assert all(format_by_id(number) is None for number in FOREIGN_TYPES)


def test_gaps(tmp_path: Path) -> None:
    """What belongs to no tensor: before, between and behind them, padding included, to the byte."""

    def found(tensors: list[bytes], data: int) -> tuple[list[tuple[int, int, int, str]], int]:
        with container.open(save(tmp_path, bad.build((), tensors, bytes(data)))) as file:
            gaps, at = Gaps(file), file.data_offset
            return [(g.start - at, g.padded - at, g.end - at, g.behind.split()[-1]) for g in gaps], gaps.whole - at

    a, b, empty = bad.tensor("a", [10], F32, 0), bad.tensor("b", [8], F32, 64), bad.tensor("e", [0], F32, 0)
    assert found([b, empty, a], 96) == ([(40, 64, 64, "'a'")], 96)
    assert found([a], 50) == ([(40, 50, 50, "'a'")], 64)  # the file ends without the padding
    assert found([a], 40) == ([], 64)
    assert found([a], 64) == ([(40, 64, 64, "'a'")], 64)
    assert found([a], 500) == ([(40, 64, 64, "'a'")], 64)  # what is behind is for the caller
    assert found([a, bad.tensor("b", [8], F32, 128)], 160) == ([(40, 64, 128, "'a'")], 160)
    assert found([b], 96) == ([(0, 0, 64, "tensor")], 96)
    assert found([], 0) == ([], 0)


def test_a_scalar_is_a_row_of_one() -> None:
    assert layout.tensor_bytes((), FORMATS["F32"]) == 4
    with pytest.raises(GGUFError, match="a row of 1 weights is not a whole number of Q8_0 blocks"):
        layout.tensor_bytes((), FORMATS["Q8_0"])


@pytest.mark.parametrize("dims", [(), (31,), (16, 2)])
def test_each_tensor_of_a_type_has_whole_blocks(tmp_path: Path, dims: tuple[int, ...]) -> None:
    tensors = [bad.tensor("first", [32], 8, 0), bad.tensor("second", list(dims), 8, 64)]
    with pytest.raises(GGUFError, match=r"second.*not a whole number of Q8_0 blocks") as caught:
        container.open(save(tmp_path, bad.build((), tensors, bytes(128))))
    assert caught.value.rule == "C-023"


@pytest.mark.parametrize(
    ("rule", "words", "limit", "value"),
    [
        ("C-006", "at most 2^28 bytes", layout.MAX_HEADER_BYTES, 2**28),
        ("C-008", "1 to 65535 bytes", layout.MAX_KEY_BYTES, 65535),
        ("C-015", "from 1 to 2^21", layout.MAX_ALIGNMENT, 2**21),
        ("C-017", "1 to 63 bytes", layout.MAX_NAME_BYTES, 63),
    ],
)
def test_limits_are_those_of_the_specification(rule: str, words: str, limit: int, value: int) -> None:
    spec = (Path(__file__).parent.parent / "spec" / "container.md").read_text(encoding="utf-8")
    (line,) = (line for line in spec.splitlines() if line.startswith(f"| {rule} |"))
    assert words in line
    assert limit == value


@pytest.mark.parametrize(("order", "last"), [("<", b"t"), (">", b"")])
def test_most_strings_are_found_without_a_step_for_each(order: str, last: bytes) -> None:
    """Every string but the last, which none behind it confirms."""
    texts = [b"t" * (number % 200 + 1) for number in range(100)] + [last]
    buffer = b"".join(bad.string(text, order=order) for text in texts)
    found, stop = _chain(buffer, 0, len(texts), len(buffer), order)
    assert len(found) == 100
    assert stop == len(buffer) - 8 - len(last)
    assert list(found[:3]) == [0, 9, 19]


def test_counts_are_held_against_the_smallest_entries(tmp_path: Path) -> None:
    """A key of one character with one byte takes 14 bytes, a scalar tensor's entry with such a name 25."""
    pair = struct.pack("<Q1sIB", 1, b"a", 0, 7)
    entry = struct.pack("<Q1sIIQ", 1, b"x", 0, 0, 0)
    assert (len(pair), len(entry)) == (14, 25)
    for rule, counts, body in (("C-004", (0, 2), pair * 2), ("C-003", (2, 0), entry * 2)):
        head = b"GGUF" + struct.pack("<IQQ", 3, *counts)
        (tmp_path / "x.gguf").write_bytes(head + body[:-1])
        with pytest.raises(GGUFError) as caught:
            container.open(tmp_path / "x.gguf")
        assert caught.value.rule == rule
        (tmp_path / "x.gguf").write_bytes(head + body)
        with pytest.raises(GGUFError) as caught:  # the second has the name of the first
            container.open(tmp_path / "x.gguf")
        assert caught.value.rule != rule


def test_foreign_types_are_the_numbers_that_ggml_skips() -> None:
    known = {kind.value for kind in gguf.GGMLQuantizationType}
    skipped = {number for number in range(max(known)) if number not in known}
    assert {number for number in FOREIGN_TYPES if number < max(known)} == skipped


@pytest.mark.parametrize("name", ["\0", "a\0.gguf"])
def test_what_is_no_name_is_an_error_of_the_system(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        container.open(name)
    assert main(["inspect", name]) == 1
    assert "internal error" not in capsys.readouterr().err
