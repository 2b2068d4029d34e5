"""GGUF files of other makers as sources of `quantize`: each gives what a plain file of the same tensors gives."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike.container import Typed, ValueType
from gguflike.convert import quantize_file
from gguflike.errors import GGUFError, UnsupportedError
from tests.bad_vectors import bad

W, NORM, IDS = "blk.0.attn_q.weight", "blk.0.attn_norm.weight", "blk.0.ids"
VALUES = np.random.default_rng(5).standard_normal((6, 64)).astype(np.float32)
SCALES = np.arange(64, dtype=np.float32)
NUMBERS = np.arange(6, dtype=np.int32)
TYPE_I32 = 26


def built(
    *,
    order: str = "<",
    version: int = 3,
    alignment: int = 32,
    stated: bool = True,
    architecture: str | None = "something-new",
    unpadded: bool = False,
    hole: int = 0,
    backwards: bool = False,
    name: str = W,
) -> bytes:
    """The three tensors as some program might write them."""
    kvs = []
    if architecture is not None:
        kvs.append(bad.kv("general.architecture", bad.STRING, bad.string(architecture, order=order), order))
    if stated and alignment != 32:
        kvs.append(bad.u32("general.alignment", alignment, order))
    contents = [(name, VALUES, bad.TYPE_F32), (NORM, SCALES, bad.TYPE_F32), (IDS, NUMBERS, TYPE_I32)]
    records, data = {}, b""
    for title, values, kind in reversed(contents) if backwards else contents:
        data += bytes(-len(data) % alignment) + bytes(hole)
        records[title] = bad.tensor(title, values.shape[::-1], kind, len(data), order=order)
        data += values.astype(values.dtype.newbyteorder(order)).tobytes()
    data += b"" if unpadded else bytes(-len(data) % alignment)
    return bad.build(
        kvs, [records[title] for title, _, _ in contents], data, version=version, alignment=alignment, order=order
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "a.gguf").write_bytes(built())
    quantize_file(folder / "a.gguf", folder / "b.gguf", "Q8_0")
    return contents(folder / "b.gguf")


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    assert gguflike.verify(path).ok
    with gguflike.open(path) as file:
        return {name: (tensor.format.name, bytes(tensor.data)) for name, tensor in file.tensors.items()}


@pytest.mark.parametrize(
    "how",
    [
        {"order": ">"},
        {"version": 2},
        {"version": 2, "order": ">"},
        {"alignment": 64},
        {"alignment": 8},
        {"alignment": 4096},
        {"unpadded": True},
        {"unpadded": True, "order": ">", "alignment": 16},
        {"hole": 96},
        {"backwards": True},
        {"architecture": None},
    ],
    ids=str,
)
def test_other_makers(how: dict[str, Any], expected: dict[str, tuple[str, bytes]], tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(built(**how))
    plan = quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q8_0")
    assert plan.notices == ()
    found = contents(tmp_path / "b.gguf")
    assert found == expected
    assert (found[W][0], found[NORM][0], found[IDS][0]) == ("Q8_0", "F32", "I32")
    with gguflike.open(tmp_path / "b.gguf") as file:
        assert (file.version, file.byteorder, file.architecture) == (
            3,
            "little",
            how.get("architecture", "something-new"),
        )
        assert file.alignment == how.get("alignment", 32)


def test_names_that_llama_cpp_does_not_read(expected: dict[str, tuple[str, bytes]], tmp_path: Path) -> None:
    """As stable-diffusion.cpp writes them."""
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.proj.weight"
    assert 63 < len(name) <= 127
    (tmp_path / "a.gguf").write_bytes(built(name=name))
    plan = quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q8_0")
    assert plan.notices == ("1 tensor with names of more than 63 bytes: llama.cpp refuses the file",)
    assert contents(tmp_path / "b.gguf")[name] == expected[W]
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    assert {tensor.name for tensor in reader.tensors} == {name, NORM, IDS}
    with pytest.raises(UnsupportedError, match="1 notice"):
        quantize_file(tmp_path / "a.gguf", None, "Q8_0", dry_run=True, strict=True)
    (tmp_path / "a.gguf").write_bytes(built(name="x" * 128))
    with pytest.raises(GGUFError, match="C-017"):
        quantize_file(tmp_path / "a.gguf", None, "Q8_0", dry_run=True)


@pytest.mark.parametrize("order", ["<", ">"])
def test_shards(order: str, expected: dict[str, tuple[str, bytes]], tmp_path: Path) -> None:
    """Of any byte order, by whichever shard."""
    endian = gguf.GGUFEndian.BIG if order == ">" else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "something-new", endianess=endian, split_max_tensors=1)
    for name, values in ((W, VALUES), (NORM, SCALES), (IDS, NUMBERS)):
        writer.add_tensor(name, values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for number in (1, 3):
        plan = quantize_file(tmp_path / f"m-0000{number}-of-00003.gguf", f"{tmp_path}/", "Q8_0", overwrite=True)
        assert plan.target == tmp_path / "m-Q8_0.gguf"
        assert contents(tmp_path / "m-Q8_0.gguf") == expected


def test_nothing_to_quantize(tmp_path: Path) -> None:
    """Vectors, numbers, a scalar, an empty tensor; and a file without tensors."""
    tensors = [
        gguflike.quantize(np.ones(64), "F16", name="a.weight"),
        gguflike.quantize(np.float32(3).reshape(()), "F32", name="b.weight"),
        gguflike.quantize(np.ones((2, 3)), "I8", name="c.weight"),
        gguflike.quantize(np.ones((0, 32)), "F32", name="d.weight"),
        gguflike.quantize(np.ones((4, 1)).T, "F64", name="e.weight"),
    ]
    metadata = {"general.architecture": "vectors", "some.list": Typed([], ValueType.ARRAY, ValueType.FLOAT32)}
    gguflike.write(tmp_path / "a.gguf", metadata, tensors)
    plan = quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q4_K_M")
    assert plan.notices == ()
    assert [(t.name, t.format.name) for t in plan.tensors] == [
        *(("a.weight", "F16"), ("b.weight", "F32"), ("c.weight", "I8"), ("d.weight", "F32"), ("e.weight", "F64"))
    ]
    before = {tensor.name: bytes(tensor.data) for tensor in tensors}
    assert {name: data for name, (_, data) in contents(tmp_path / "b.gguf").items()} == before
    gguflike.write(tmp_path / "none.gguf", metadata, [])
    assert quantize_file(tmp_path / "none.gguf", tmp_path / "c.gguf", "Q8_0").tensors == ()
    assert contents(tmp_path / "c.gguf") == {}


def test_a_row_of_every_type_comes_back_from_a_big_endian_file(tmp_path: Path) -> None:
    """Blocks are swapped field by field when they are read."""
    name = "blk.0.ffn_up.weight"
    rows = gguflike.quantize(VALUES[:4].reshape(1, 256), "Q4_K", name=name)
    swapped = rows.data.view(rows.format.dtype).astype(rows.format.dtype.newbyteorder(">")).tobytes()
    record = bad.tensor(name, (256, 1), rows.format.id, 0, order=">")
    arch = bad.kv("general.architecture", bad.STRING, bad.string("x", order=">"), ">")
    (tmp_path / "a.gguf").write_bytes(bad.build([arch], [record], swapped + bytes(-len(swapped) % 32), order=">"))
    quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "COPY")
    assert contents(tmp_path / "b.gguf")[name] == ("Q4_K", bytes(rows.data))
    assert struct.unpack("<I", (tmp_path / "b.gguf").read_bytes()[4:8]) == (3,)
