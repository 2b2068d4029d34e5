"""GGUF -> GGUF, and importance matrices."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike.container import Typed, ValueType
from gguflike.convert import convert, quantize_file
from gguflike.convert import imatrix as imatrices
from gguflike.convert.encode import Job
from gguflike.errors import CheckpointError, GGUFError, OutputError, QuantizationError
from tests import tiny
from tests.imatrix_files import imatrix_dat, imatrix_gguf


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    convert(tiny.checkpoint(folder / "Tiny"), folder / "f32.gguf", "F32")
    return folder / "f32.gguf"


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_the_same_bytes_as_from_the_checkpoint(kind: str, f32: Path, tmp_path: Path) -> None:
    quantize_file(f32, tmp_path / "a.gguf", kind)
    convert(f32.parent / "Tiny", tmp_path / "b.gguf", kind)
    a, b = tiny.gguf_tensors(tmp_path / "a.gguf"), tiny.gguf_tensors(tmp_path / "b.gguf")
    assert list(a) == list(b)
    for name in a:
        assert (a[name].tensor_type, a[name].data.tobytes()) == (b[name].tensor_type, b[name].data.tobytes())
    assert gguflike.verify(tmp_path / "a.gguf").ok


def test_metadata_is_kept_with_its_types(tmp_path: Path) -> None:
    x = gguflike.quantize(np.ones((4, 64), "f4"), "F16", name="blk.0.attn_q.weight")
    ids = gguflike.quantize(np.ones((4, 64), "f4"), "F32", name="blk.0.ffn_gate_inp.weight")
    metadata: dict[str, Any] = {
        "general.architecture": "something-new",
        "general.file_type": 1,
        "something-new.small": Typed(3, ValueType.UINT8),
        "something-new.empty": Typed([], ValueType.ARRAY, ValueType.STRING),
        "something-new.attention.head_count": np.array([8, 8], np.uint32),
        "something-new.attention.head_count_kv": 2,
        "gguflike.source": "org/name",
        "gguflike.recipe": "F16",
        "gguflike.recipe.overrides": ["x=F16"],
        "split.count": 1,
    }
    gguflike.write(tmp_path / "a.gguf", metadata, [x, ids])
    quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "IQ4_NL", dry_run=True)
    assert not (tmp_path / "b.gguf").exists()
    quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q8_0")
    with gguflike.open(tmp_path / "b.gguf") as file:
        kept = {k: file.metadata[k] for k in file.metadata if "digest" not in k and "head_count" not in k}
        assert kept == {
            "general.architecture": "something-new",
            "general.file_type": 7,
            "general.quantization_version": 2,
            "something-new.small": 3,
            "something-new.empty": [],
            "gguflike.version": gguflike.__version__,
            "gguflike.source": "org/name",
            "gguflike.source.file": "a.gguf",
            "gguflike.recipe": "Q8_0",
        }
        assert file.metadata.type_of("something-new.small") is ValueType.UINT8
        assert [info.format.name for info in file.infos.values()] == ["Q8_0", "F32"]
    plan = quantize_file(tmp_path / "a.gguf", None, "Q2_K", dry_run=True)
    assert {t.name: t.wanted.name for t in plan.tensors}["blk.0.attn_q.weight"] == "Q2_K"


def test_encoding_anew_is_noticed_and_equal_types_are_copied(f32: Path, tmp_path: Path) -> None:
    plan = quantize_file(f32, tmp_path / "a.gguf", "Q8_0", tensor_types=["attn_v=Q4_0"])
    assert plan.notices == ()
    again = quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q4_0", tensor_types=["ffn=Q8_0"])
    assert again.notices == ("encoded anew from tensors that are quantized already: 7 of Q8_0",)
    a, b = tiny.gguf_tensors(tmp_path / "a.gguf"), tiny.gguf_tensors(tmp_path / "b.gguf")
    copied = [name for name in a if a[name].tensor_type == b[name].tensor_type]
    assert len(copied) == len(a) - 7
    assert all(a[name].data.tobytes() == b[name].data.tobytes() for name in copied)
    name = "blk.0.attn_q.weight"
    source = gguf.quants.dequantize(a[name].data, a[name].tensor_type)
    want = gguflike.quantize(source, "Q4_0").data.tobytes()
    assert b[name].data.tobytes() == want


def test_the_source_is_never_the_target(f32: Path, tmp_path: Path) -> None:
    before = f32.read_bytes()
    (tmp_path / "link").symlink_to(f32)
    for target in (f32, tmp_path / "link"):
        with pytest.raises(OutputError, match="the target is also a source"):
            quantize_file(f32, target, "Q8_0")
    assert f32.read_bytes() == before


def test_a_source_that_changes_meanwhile(f32: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    source.write_bytes(f32.read_bytes())

    def change(done: int, total: int, what: str) -> None:
        if what == "header":
            other = tmp_path / "c.gguf"
            other.write_bytes(f32.read_bytes())
            other.replace(source)

    with pytest.raises(GGUFError, match="file changed while it was being read"):
        quantize_file(source, tmp_path / "b.gguf", "Q8_0", progress=change)
    assert not (tmp_path / "b.gguf").exists()


def test_a_split_model_is_one_source(f32: Path, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=8)
    for name, tensor in tiny.gguf_tensors(f32).items():
        writer.add_tensor(name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shards = sorted(tmp_path.glob("m-*.gguf"))
    assert len(shards) == 3
    quantize_file(shards[0], tmp_path / "x.gguf", "Q8_0")
    quantize_file(f32, tmp_path / "y.gguf", "Q8_0")
    x, y = tiny.gguf_tensors(tmp_path / "x.gguf"), tiny.gguf_tensors(tmp_path / "y.gguf")
    assert {n: t.data.tobytes() for n, t in x.items()} == {n: t.data.tobytes() for n, t in y.items()}
    assert not any(key.startswith("split.") for key in tiny.gguf_fields(tmp_path / "x.gguf"))
    with pytest.raises(OutputError, match="the target is also a source"):
        quantize_file(shards[0], shards[2], "Q8_0")


def test_not_finite_in_a_gguf(tmp_path: Path) -> None:
    x = np.ones((4, 64), "f4")
    x[2, 3] = np.nan
    data = x.view(np.uint8).reshape(-1)
    bad = gguflike.QuantizedTensor("blk.0.attn_q.weight", gguflike.quantize(x[:1], "F32").format, x.shape, data)
    gguflike.write(tmp_path / "a.gguf", {"general.architecture": "llama"}, [bad])
    with pytest.raises(QuantizationError, match=r"blk.0.attn_q.weight.*nan at index \(2, 3\)"):
        quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q8_0")


def test_importance_reaches_the_encoder(f32: Path, tmp_path: Path) -> None:
    mean = (np.arange(32) + 1.0) ** 2
    name = "blk.0.attn_q.weight"
    new = imatrix_gguf(tmp_path / "i.gguf", {name: mean[None] * 10}, {name: np.array([[10.0]])})
    old = imatrix_dat(tmp_path / "i.dat", {name: (5, mean * 5)})
    x = tiny.gguf_tensors(f32)[name].data
    want = gguflike.quantize(np.array(x), "Q4_0", importance=mean).data.tobytes()
    assert want != gguflike.quantize(np.array(x), "Q4_0").data.tobytes()
    for path in (new, old):
        np.testing.assert_allclose(imatrices.read(path).weights[name], mean[None], rtol=1e-6)
        plan = quantize_file(f32, tmp_path / "x.gguf", "Q4_0", imatrix=path, overwrite=True)
        assert tiny.gguf_tensors(tmp_path / "x.gguf")[name].data.tobytes() == want
        assert plan.notices == ("no importance for 14 of 16 quantized tensors, blk.0.attn_k.weight first",)
        assert tiny.gguf_fields(tmp_path / "x.gguf")["gguflike.imatrix"] == ("STRING", path.name)


def test_importance_of_experts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 8, 32)).astype(np.float32)
    name = "blk.0.ffn_down_exps.weight"
    gguflike.write(tmp_path / "a.gguf", {"general.architecture": "llama"}, [gguflike.quantize(x, "F32", name=name)])
    sums = rng.random((3, 32)) + 0.1
    path = imatrix_gguf(tmp_path / "i.gguf", {name: sums}, {name: np.array([[2.0], [0.0], [4.0]])})
    weights = imatrices.read(path).weights[name]
    np.testing.assert_allclose(weights, [sums[0] / 2, np.ones(32), sums[2] / 4], rtol=1e-6)  # expert 1 was never used
    quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q4_1", imatrix=path)
    want = b"".join(gguflike.quantize(x[i], "Q4_1", importance=weights[i]).data.tobytes() for i in range(3))
    assert tiny.gguf_tensors(tmp_path / "b.gguf")[name].data.tobytes() == want


def test_importance_that_fits_nothing_is_noticed(f32: Path, tmp_path: Path) -> None:
    path = imatrix_dat(tmp_path / "i.dat", {"blk.0.attn_q.weight": (1, np.ones(31)), "more": (1, np.ones(32))})
    plan = quantize_file(f32, None, "Q8_0", imatrix=path, dry_run=True)
    assert plan.notices[0] == "i.dat: 2 entries for no tensor, blk.0.attn_q.weight first"
    plan = quantize_file(f32, None, "IQ2_XS", dry_run=True)
    assert plan.notices == ("IQ2_XS loses much without an importance matrix (`imatrix`)",)


GOOD = struct.pack("<iii", 1, 1, 0x61)[:9] + struct.pack("<ii", 1, 1) + struct.pack("<f", 1.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "file is empty"),
        (b"\xff\xff\xff\xff", "-1 entries"),
        (struct.pack("<i", 2**31 - 1), "2,147,483,647 entries"),
        (struct.pack("<ii", 1, 2**30), "a name of 1,073,741,824 bytes"),
        (struct.pack("<ii", 1, -5), "a name of -5 bytes"),
        (GOOD[:9] + struct.pack("<ii", 1, 2**30), "1,073,741,824 values in 0 bytes"),
        (GOOD[:9] + struct.pack("<ii", 1, -1), "-1 values"),
        (GOOD[:-1], "1 value in 3 bytes"),
        (GOOD[:8] + b"\xff" + GOOD[9:], "codec can't decode"),
        (GOOD[:-4] + struct.pack("<f", float("nan")), "finite and not negative"),
        (GOOD[:-4] + struct.pack("<I", 0x7F800001), "finite and not negative"),  # a NaN that signals
        (GOOD[:-4] + struct.pack("<f", -1.0), "finite and not negative"),
        (GOOD[:9] + struct.pack("<iif", -3, 1, 1.0), "finite and not negative"),
    ],
)
def test_bad_importance_files(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        imatrices.read(tmp_path / "i.dat")
    (tmp_path / "good.dat").write_bytes(GOOD)
    assert imatrices.read(tmp_path / "good.dat").weights["a"].tolist() == [[1.0]]


def test_bad_importance_gguf(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'a': importance sums without counts"):
        imatrices.read(imatrix_gguf(tmp_path / "i.gguf", {"a": np.ones((1, 4))}, {}))
    for count in (np.nan, np.inf, -1.0):
        path = imatrix_gguf(tmp_path / "i.gguf", {"a": np.ones((2, 4))}, {"a": np.array([[1.0], [count]])})
        with pytest.raises(CheckpointError, match="'a': importance must be finite and not negative"):
            imatrices.read(path)
    with pytest.raises(CheckpointError, match="'a': importance counts do not fit"):
        imatrices.read(imatrix_gguf(tmp_path / "j.gguf", {"a": np.ones((3, 4))}, {"a": np.ones((2, 1))}))
    with pytest.raises(CheckpointError, match="importance matrix is empty"):
        imatrices.read(imatrix_gguf(tmp_path / "k.gguf", {}, {}))


@pytest.mark.parametrize(
    "changes",
    [{"num_key_value_heads": 1}, {"num_key_value_heads": 4}, {"tie_word_embeddings": True, "num_key_value_heads": 2}],
    ids=["grouped", "not grouped", "tied"],
)
def test_types_are_those_that_converting_chooses(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the recipes ask of a model is the same whether it comes from its configuration or from a GGUF file."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64}
    folder = tiny.checkpoint(tmp_path / "hf", num_hidden_layers=7, **sizes, **changes)
    convert(folder, tmp_path / "f32.gguf", "F32")
    for name in ("Q4_K_M", "Q2_K", "Q3_K_M", "IQ2_M", "IQ3_XXS"):
        ours = quantize_file(tmp_path / "f32.gguf", None, name, dry_run=True)
        wanted = convert(folder, None, name, dry_run=True)
        assert {t.name: t.format.name for t in ours.tensors} == {t.name: t.format.name for t in wanted.tensors}, name


def test_slabs_scalars_and_empty_tensors_are_copied_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    tensors = [
        gguflike.quantize(rng.standard_normal((50, 2, 64)), "Q8_0", name="blk.0.x"),
        gguflike.quantize(rng.standard_normal((50, 64)), "F16", name="blk.0.y.weight"),
        gguflike.quantize(np.float32(2.5), "F32", name="scalar"),
        gguflike.quantize(np.zeros((0, 32)), "F32", name="empty"),
    ]
    gguflike.write(tmp_path / "a.gguf", {"general.architecture": "llama"}, tensors)
    monkeypatch.setattr(Job.parts, "__defaults__", (4096,))  # bytes of float32: 8 rows of x, 16 of y
    quantize_file(tmp_path / "a.gguf", tmp_path / "b.gguf", "F16")
    with gguflike.open(tmp_path / "b.gguf") as file:
        for tensor in tensors:
            copy = file.tensors[tensor.name]
            assert (copy.format, copy.shape) == (tensor.format, tensor.shape)
            np.testing.assert_array_equal(copy.data, tensor.data)
