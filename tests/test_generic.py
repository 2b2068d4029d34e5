"""Networks of any kind: safetensors to GGUF and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike.checkpoint.safetensors import read_header
from gguflike.cli import main
from gguflike.container import Typed, ValueType
from gguflike.convert import convert, export, quantize_file
from gguflike.errors import (
    ArgumentError,
    CheckpointError,
    GGUFError,
    GGUFLikeError,
    QuantizationError,
    UnsupportedError,
)
from tests import stored
from tests.files import floats_of

CONV, LINEAR, RAGGED, VIDEO = "down.0.conv.weight", "mid.attn.to_q.weight", "head.weight", "patch_embedding.weight"
NORM, BIAS, TABLE = "mid.attn.norm_q.weight", "down.0.conv.bias", "scale_shift_table"
SHAPES: dict[str, tuple[int, ...]] = {
    CONV: (32, 16, 3, 3),
    LINEAR: (64, 256),
    RAGGED: (48, 96),
    VIDEO: (32, 16, 1, 2, 2),
    NORM: (64, 64),
    BIAS: (32,),
    TABLE: (6, 256),
    "small.weight": (4, 256),
    "conv1d.weight": (10, 7, 5),
    "deep": (2, 3, 1, 2, 5),
    "scale": (),
    "empty": (0, 4),
}


def values(name: str) -> np.ndarray:
    seed = sum(name.encode())
    return np.random.default_rng(seed).standard_normal(SHAPES[name]).astype(np.float32).astype(np.float16)


def safetensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    path.write_bytes(stored.safetensors(tensors))
    return path


def bf16(x: np.ndarray) -> np.ndarray:
    """The bits of values that bfloat16 holds."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generic")
    return safetensors(folder / "net.safetensors", {name: ("F16", values(name)) for name in SHAPES})


def kinds(path: Path) -> dict[str, str]:
    with gguflike.open(path) as file:
        return {name: tensor.format.name for name, tensor in file.tensors.items()}


def test_names_and_shapes_are_kept(network: Path, tmp_path: Path) -> None:
    plan = convert(network, tmp_path / "f16.gguf", "F16", generic=True, arch="flux")
    assert plan.notices == ()
    assert gguflike.verify(tmp_path / "f16.gguf").findings == ()
    found = floats_of(tmp_path / "f16.gguf")
    assert list(found) == list(SHAPES)
    for name, array in found.items():
        assert array.shape == SHAPES[name]
        np.testing.assert_array_equal(array, values(name))
    with gguflike.open(tmp_path / "f16.gguf") as file:
        assert file.architecture == "flux"
        assert file.tensors[CONV].shape == (18, 256)
        assert file.tensors[CONV].original_shape == SHAPES[CONV]
        assert file.tensors["conv1d.weight"].shape == (10, 7, 5)  # no multiple of 256 values
        assert file.tensors["deep"].shape == (2, 30)


def test_types(network: Path, tmp_path: Path) -> None:
    convert(network, tmp_path / "q.gguf", "Q4_K_M", generic=True, tensor_types=["patch_emb=q8_0"])
    assert kinds(tmp_path / "q.gguf") == {
        **{CONV: "Q4_K", LINEAR: "Q4_K", RAGGED: "Q5_0", VIDEO: "Q8_0", NORM: "F16", BIAS: "F16", TABLE: "F16"},
        **{"small.weight": "F16", "conv1d.weight": "F16", "deep": "F16", "scale": "F16", "empty": "F16"},
    }
    found = floats_of(tmp_path / "q.gguf")
    for name in (CONV, LINEAR, RAGGED):
        assert found[name].shape == SHAPES[name]
        error = np.linalg.norm(found[name] - values(name)) / np.linalg.norm(values(name))
        assert 0.01 < error < 0.12, name
    wanted = gguflike.quantize(values(CONV).astype("f4").reshape(-1, 256), "Q4_K")
    with gguflike.open(tmp_path / "q.gguf") as file:
        assert bytes(file.tensors[CONV].data) == bytes(wanted.data)


def test_what_comfyui_gguf_reads(network: Path, tmp_path: Path) -> None:
    """Its loader takes the shape from an array of INT32 under this key, and else that of the tensor, turned round."""
    convert(network, tmp_path / "q.gguf", "Q8_0", generic=True, arch="sdxl")
    reader = gguf.GGUFReader(tmp_path / "q.gguf")
    assert reader.fields["general.architecture"].contents() == "sdxl"
    for tensor in reader.tensors:
        field = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
        if field is None:
            shape = tuple(int(size) for size in reversed(tensor.shape))
        else:
            assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]
            shape = tuple(int(field.parts[index][0]) for index in field.data)
        if tensor.name not in ("scale", "empty"):  # gguf-py's own reader gives these a shape of (1,), or none
            assert shape == SHAPES[tensor.name]
            weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
            np.testing.assert_allclose(weights, values(tensor.name), atol=0.05)


@pytest.mark.parametrize("kind", ["COPY", "F32", "auto", "Q8_0"])
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    x = np.arange(-600, 600, dtype=np.int64)
    floats = (np.arange(4096, dtype=np.float32) / 256 - 8).reshape(16, 256)  # exact in every float
    tensors = {
        "a.weight": ("BF16", bf16(floats)),
        "b.weight": ("F32", floats + np.float32(2**-20)),
        "c.weight": ("F16", floats.astype(np.float16)),
        "d.norm.weight": ("BF16", bf16(floats)),
        "e.bias": ("BF16", bf16(floats[0])),
        "f.weight": ("F64", floats.astype(np.float64)),
        **{
            f"i.{code}": (code, x[580:620].astype(kind))
            for code, kind in (("I16", "<i2"), ("I32", "<i4"), ("I64", "<i8"))
        },
        "i.I8": ("I8", np.arange(-128, 128).astype(np.int8).reshape(2, 2, 2, 2, 16)),
        "i.U8": ("U8", np.arange(256).astype(np.uint8).reshape(4, 64)),
        "i.U16": ("U16", np.array([0, 65535], "<u2")),
        "i.U32": ("U32", np.array([0, 2**32 - 1], "<u4")),
        "i.U64": ("U64", np.array(2**63 - 1, "<u8")),
        "i.BOOL": ("BOOL", np.array([[True, False]])),
        "none": ("I64", np.zeros((0,), np.int64)),
        "one": ("F32", np.float32(0.5).reshape(())),
        "conv.weight": ("BF16", bf16(floats.reshape(16, 64, 2, 2))),
    }
    source = safetensors(tmp_path / "net.safetensors", tensors)
    convert(source, tmp_path / "a.gguf", kind, generic=True)
    assert gguflike.verify(tmp_path / "a.gguf").findings == ()
    export(tmp_path / "a.gguf", tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["model.safetensors"]
    before, after = read_header(source), read_header(tmp_path / "back" / "model.safetensors")
    assert after.keys() == before.keys()
    exact = {name for name in before if kind in ("COPY", "F32") or (name[0] not in "abcf" and name != "conv.weight")}
    for name, tensor in before.items():
        assert after[name].shape == tensor.shape
        if name in exact:
            assert after[name].dtype == tensor.dtype, name
            assert after[name].read().tobytes() == tensor.read().tobytes(), name
        else:
            assert after[name].dtype == ("BF16" if kind == "auto" else "F32")
            np.testing.assert_allclose(after[name].read_f32(), tensor.read_f32(), atol=0.05)
    stored = kinds(tmp_path / "a.gguf")
    assert (stored["i.U8"], stored["i.BOOL"], stored["i.U16"], stored["i.U32"]) == ("I16", "I8", "I32", "I64")
    assert (stored["d.norm.weight"], stored["e.bias"]) == (("BF16", "BF16") if kind == "COPY" else ("F32", "F32"))


def test_export_as_one_dtype(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(network), str(tmp_path / "q.gguf"), "-t", "q8_0", "--generic", "--arch", "sd1"]) == 0
    assert main(["export", str(tmp_path / "q.gguf"), str(tmp_path / "back"), "--dtype", "bf16", "--json"]) == 0
    document = json.loads(capsys.readouterr().out.split("wrote", 1)[1].split("\n", 1)[1])
    assert document["files"] == {"model.safetensors": len(SHAPES)}
    found = read_header(tmp_path / "back" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {"BF16"}
    assert {name: tensor.shape for name, tensor in found.items()} == SHAPES


def test_quantized_from_such_a_file(network: Path, tmp_path: Path) -> None:
    """The same bytes as straight from the safetensors."""
    convert(network, tmp_path / "f16.gguf", "F16", generic=True, arch="wan")
    convert(network, tmp_path / "a.gguf", "Q4_K_S", generic=True, arch="wan")
    quantize_file(tmp_path / "f16.gguf", tmp_path / "b.gguf", "Q4_K_S")
    with gguflike.open(tmp_path / "a.gguf") as a, gguflike.open(tmp_path / "b.gguf") as b:
        assert {name: (t.format.name, bytes(t.data)) for name, t in a.tensors.items()} == {
            name: (t.format.name, bytes(t.data)) for name, t in b.tensors.items()
        }
        assert b.tensors[CONV].original_shape == SHAPES[CONV]
    export(tmp_path / "b.gguf", tmp_path / "back", dry_run=True)


def test_shards_both_ways(network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    folder.mkdir()
    halves = [list(SHAPES)[::2], list(SHAPES)[1::2]]
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, part in zip(names, halves, strict=True):
        safetensors(folder / name, {each: ("F16", values(each)) for each in part})
    index = {"weight_map": {each: name for name, part in zip(names, halves, strict=True) for each in part}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    plan = convert(folder, f"{tmp_path}/", "F16", generic=True, split_max_tensors=5)
    assert plan.paths[0].endswith("transformer-F16-00001-of-00003.gguf")
    found = floats_of(Path(plan.paths[0]))
    assert {name: array.shape for name, array in found.items()} == SHAPES
    np.testing.assert_array_equal(found[CONV], values(CONV))
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
    assert convert(folder, None, "F16", generic=True, dry_run=True).parameters == plan.parameters


def test_lists_of_dtypes_that_are_none(network: Path, tmp_path: Path) -> None:
    convert(network, tmp_path / "x.gguf", "F16", generic=True, arch="wan")
    with gguflike.open(tmp_path / "x.gguf") as file:
        metadata = {**file.metadata.typed_dict(), "gguflike.generic.dtype.BF16": 7}
        gguflike.write(tmp_path / "y.gguf", metadata, list(file.tensors.values()))
    assert export(tmp_path / "y.gguf", tmp_path / "back").tensor_bytes > 0


def test_what_a_file_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "Some-VAE"
    folder.mkdir()
    tensors = {"x": ("F32", np.ones((4, 512), np.float32))}
    for name, label in (
        ("diffusion_pytorch_model.fp16", "Some-VAE"),
        ("model", "Some-VAE"),
        ("flux1-dev", "flux1-dev"),
    ):
        path = safetensors(folder / f"{name}.safetensors", tensors)
        plan = convert(path, f"{tmp_path}/", "F16", generic=True, dry_run=True)
        assert plan.target == tmp_path / f"{label}-F16.gguf"
        assert plan.metadata["gguflike.source"] == label


def test_names(tmp_path: Path) -> None:
    for name, notices in (("x" * 63, 0), ("x" * 64, 1), ("x" * 127, 1)):
        path = safetensors(tmp_path / "a.safetensors", {name: ("F32", np.ones((4, 512), np.float32))})
        plan = convert(path, tmp_path / "a.gguf", "Q8_0", generic=True, overwrite=True)
        assert len(plan.notices) == notices
        assert floats_of(tmp_path / "a.gguf")[name].shape == (4, 512)
    safetensors(tmp_path / "a.safetensors", {"x" * 128: ("F32", np.ones((4, 512), np.float32))})
    with pytest.raises(GGUFError, match=r"tensor name has a bad length; expected 1 to 127 bytes.*C-017"):
        convert(tmp_path / "a.safetensors", None, "Q8_0", generic=True, dry_run=True)


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (("C64", np.zeros(4, np.complex64)), UnsupportedError, "tensor of dtype C64, which GGUF has no type for"),
        (("F32", np.full((4, 512), np.nan, np.float32)), QuantizationError, "not finite"),
        (("F32", np.full((4, 512), 1e6, np.float32)), QuantizationError, "too large"),
        (("U64", np.array([2**63], np.uint64)), QuantizationError, "number is too large.*9223372036854775808"),
    ],
)
def test_values_that_there_is_no_type_for(
    tensor: tuple[str, np.ndarray], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = safetensors(tmp_path / "a.safetensors", {"x": tensor})
    with pytest.raises(error, match=message):
        convert(path, tmp_path / "a.gguf", "F16", generic=True)
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_float64_is_rounded_and_said(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "a.safetensors", {"x": ("F64", np.ones((4, 512)))})
    assert convert(path, None, "F32", generic=True, dry_run=True).notices == ("1 tensor of float64 rounded to float32",)


def test_8_bit_floats(tmp_path: Path) -> None:
    """Their values are kept, not what scales beside them make of them, and that is said."""
    codes = np.tile(np.arange(64, dtype=np.uint8), (8, 8))
    tensors = {"x.weight": ("F8_E4M3", codes), "x.scale_weight": ("F32", np.array(0.5, np.float32))}
    path = safetensors(tmp_path / "a.safetensors", tensors)
    plan = convert(path, tmp_path / "a.gguf", "F16", generic=True)
    assert plan.notices == (
        "1 tensor of 8-bit floats and 1 scale, x.scale_weight first, stay apart: "
        "most readers of such files do not multiply them",
    )
    np.testing.assert_array_equal(floats_of(tmp_path / "a.gguf")["x.weight"], read_header(path)["x.weight"].read_f32())
    del tensors["x.scale_weight"]
    assert convert(safetensors(path, tensors), None, "F16", generic=True, dry_run=True).notices == ()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arch": "flux"}, ArgumentError, "arch.*add `generic=True`"),
        ({"arch": "a b", "generic": True}, ArgumentError, "not a name of an architecture"),
        ({"generic": True, "lora": ["x"]}, ArgumentError, "of a network of any kind"),
        ({"generic": True, "prune_layers": [0]}, ArgumentError, "of a network of any kind"),
        ({"generic": True, "base": "x"}, ArgumentError, "of a network of any kind"),
        ({"generic": True, "size": "1GB"}, ArgumentError, "of a network of any kind.*`size`"),
        ({"generic": True, "type": "Q9"}, ArgumentError, "unknown type"),
    ],
)
def test_arguments(options: dict[str, Any], error: type[Exception], message: str, network: Path) -> None:
    with pytest.raises(error, match=message):
        convert(network, None, **{"type": "F16", "dry_run": True, **options})


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        convert(tmp_path / "none", None, generic=True, dry_run=True)
    with pytest.raises(GGUFLikeError):
        convert(tmp_path, None, generic=True, dry_run=True)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="a pipeline of Diffusers"):
        convert(tmp_path, None, generic=True, dry_run=True)


def test_nothing_read_is_a_target(network: Path, tmp_path: Path) -> None:
    copy = tmp_path / "net.safetensors"
    copy.write_bytes(network.read_bytes())
    with pytest.raises(GGUFLikeError, match="the target is also a source"):
        convert(copy, copy, "F16", generic=True, overwrite=True)


@pytest.mark.parametrize(
    "stated",
    [[3, 3], [-1, -512], [2**31 - 1] * 4, [1] * 9 + [512], ["a"], [2.0, 256.0]],
    ids=str,
)
def test_a_shape_that_is_not_the_tensor_s(stated: list[Any], tmp_path: Path) -> None:
    tensor = gguflike.quantize(np.ones((2, 256)), "Q8_0", name="x")
    gguflike.write(tmp_path / "a.gguf", {"comfy.gguf.orig_shape.x": stated}, [tensor])
    with gguflike.open(tmp_path / "a.gguf") as file, pytest.raises(GGUFError, match="original shape"):
        file.tensors["x"]


def test_other_makers_of_such_files(tmp_path: Path) -> None:
    """Files of ComfyUI-GGUF do not say what dtypes they came from."""
    tensors = [
        gguflike.quantize(values(CONV).astype("f4").reshape(-1, 256), "Q8_0", name=CONV),
        gguflike.quantize(values(BIAS), "F32", name=BIAS),
    ]
    shape = Typed(list(SHAPES[CONV]), ValueType.ARRAY, ValueType.INT32)
    gguflike.write(
        tmp_path / "a.gguf", {"general.architecture": "sd1", f"comfy.gguf.orig_shape.{CONV}": shape}, tensors
    )
    with pytest.raises(UnsupportedError, match="sd1"):
        export(tmp_path / "a.gguf", tmp_path / "back")
    export(tmp_path / "a.gguf", tmp_path / "back", generic=True)
    found = read_header(tmp_path / "back" / "model.safetensors")
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        CONV: ("F32", SHAPES[CONV]),
        BIAS: ("F32", (32,)),
    }
