"""BitNet's ternary weights, packed or rounded, as they arrive in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import checkpoint
from gguflike.errors import CheckpointError, UnsupportedError
from tests import hub_server, tiny

MATRICES = {
    "self_attn.q_proj": (256, 256),
    "self_attn.k_proj": (256, 256),
    "self_attn.v_proj": (256, 256),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_proj": (512, 256),
    "mlp.up_proj": (512, 256),
    "mlp.down_proj": (256, 512),
}
VECTORS = {
    "input_layernorm": 256,
    "post_attention_layernorm": 256,
    "self_attn.attn_sub_norm": 256,
    "mlp.ffn_sub_norm": 512,
}
OFFLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}


def packed(signs: np.ndarray) -> np.ndarray:
    """Four rows in one: the first quarter of the rows in the lowest two bits, as value plus 1."""
    quarters = np.split((signs + 1).astype(np.uint8), 4)
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def write(folder: Path, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> Path:
    """A checkpoint of one layer; uint8 tensors are packed, the others bfloat16."""
    folder.mkdir()
    header: dict[str, Any] = {}
    data = b""
    for name, value in tensors.items():
        dtype = "U8" if value.dtype == np.uint8 else "BF16"
        encoded = value.tobytes() if dtype == "U8" else tiny.encode(value, "BF16")
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [len(data), len(data) + len(encoded)]}
        data += encoded
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_key_value_heads": 4}
    config = tiny.config(
        architectures=["BitNetForCausalLM"],
        model_type="bitnet",
        hidden_act="relu2",
        head_dim=64,
        tie_word_embeddings=True,
        quantization_config=settings,
        **sizes,
    )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(260)))
    return folder


def nearest(values: np.ndarray) -> np.ndarray:
    """The nearest values that bfloat16 has."""
    below = tiny.exactly(values, "BF16")  # towards zero
    above = np.where(below == 0, below, (below.view(np.uint32) + 0x10000).view(np.float32))
    return np.where(abs(values - below) <= abs(above - values), below, above)


def others() -> dict[str, np.ndarray]:
    """What is not ternary."""
    vectors = {f"model.layers.0.{name}.weight": np.ones(size, "f4") for name, size in VECTORS.items()}
    embedding = np.random.default_rng(0).standard_normal((260, 256)).astype("f4")
    return {"model.embed_tokens.weight": embedding, "model.norm.weight": np.ones(256, "f4"), **vectors}


@pytest.mark.parametrize("kind", ["autobitlinear", "bitlinear"])
def test_packed_weights_are_kept_exactly(tmp_path: Path, kind: str) -> None:
    rng, tensors, expected = np.random.default_rng(1), others(), {}
    for i, (name, shape) in enumerate(MATRICES.items()):
        signs, scale = rng.integers(-1, 2, shape), np.float32(0.5 + i / 16)  # which bfloat16 holds
        tensors[f"model.layers.0.{name}.weight"] = packed(signs)
        tensors[f"model.layers.0.{name}.weight_scale"] = np.array([scale])
        expected[name] = (signs / scale if kind == "bitlinear" else signs * scale).astype("f4")
    folder = write(tmp_path / "packed", tensors, {**OFFLINE, "linear_class": kind})
    for name, values in expected.items():
        tensor = checkpoint.open(folder).tensors[f"model.layers.0.{name}.weight"]
        np.testing.assert_array_equal(tensor.read_f32(), values)
        np.testing.assert_array_equal(tensor.read_f32(100, 250), values[100:250])  # across quarters
    if kind == "bitlinear":
        return
    for type in ("F32", "TQ2_0", "TQ1_0"):
        out = tmp_path / f"{type}.gguf"
        gguflike.convert(folder, out, type=type)
        file = gguflike.open(out)
        for name, role in (("self_attn.q_proj", "attn_q"), ("mlp.down_proj", "ffn_down"), ("mlp.up_proj", "ffn_up")):
            stored = file.tensors[f"blk.0.{role}.weight"]
            assert stored.format.name == type
            np.testing.assert_array_equal(stored.dequantize(), expected[name])


def test_trained_weights_are_rounded_as_the_model_does(tmp_path: Path) -> None:
    """By the formula of Transformers: (w s).round().clamp(-1, 1) / s with s = 1 / mean |w|, in bfloat16."""
    rng, tensors = np.random.default_rng(2), others()
    for name, shape in MATRICES.items():
        trained = tiny.exactly(rng.standard_normal(shape).astype("f4"), "BF16")
        tensors[f"model.layers.0.{name}.weight"] = trained
    folder = write(tmp_path / "trained", tensors, {**OFFLINE, "quantization_mode": "online"})
    opened = checkpoint.open(folder).tensors
    for name in MATRICES:
        trained = tensors[f"model.layers.0.{name}.weight"]
        scale = np.float32(1 / np.abs(trained).mean(dtype=np.float64))
        expected = nearest(np.clip(np.rint(trained * scale), -1, 1) / scale)
        got = opened[f"model.layers.0.{name}.weight"].read_f32()
        np.testing.assert_array_equal(got, expected)
        assert len(np.unique(got)) == 3
    np.testing.assert_array_equal(
        opened["model.embed_tokens.weight"].read_f32(), tiny.exactly(others()["model.embed_tokens.weight"], "BF16")
    )


def test_a_matrix_that_was_trained_on_is_rounded_anew(tmp_path: Path) -> None:
    """One process may convert a folder twice, whose file has other weights in the same places by then."""
    name = "model.layers.0.mlp.up_proj.weight"
    folder, later = (
        write(
            tmp_path / str(value),
            {**others(), name: np.full((512, 256), value, "f4")},
            {**OFFLINE, "quantization_mode": "online"},
        )
        for value in (1, 4)
    )
    before = checkpoint.open(folder).tensors[name]
    assert set(before.read_f32().flat) == {1}
    (later / "model.safetensors").replace(folder / "model.safetensors")
    after = checkpoint.open(folder).tensors[name]
    assert after == before
    assert set(after.read_f32().flat) == {4}


def test_trained_weights_on_the_hub_are_rounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    trained = np.random.default_rng(3).standard_normal((512, 256)).astype("f4")
    folder = write(tmp_path / "trained", {**others(), name: trained}, {**OFFLINE, "quantization_mode": "online"})
    expected = checkpoint.open(folder).tensors[name].read_f32()
    with hub_server.in_use(monkeypatch, tmp_path) as hub:
        hub.repo("org/name", {path.name: path.read_bytes() for path in folder.iterdir()})
        tensor = checkpoint.open("org/name").tensors[name]
        assert tensor.path.startswith("hf://")
        np.testing.assert_array_equal(tensor.read_f32(), expected)


def test_ternary_weights_that_cannot_be_read(tmp_path: Path) -> None:
    lone = {**others(), "model.layers.0.mlp.up_proj.weight": np.zeros((128, 256), np.uint8)}
    with pytest.raises(CheckpointError, match=r"lacks a part; expected model.layers.0.mlp.up_proj.weight_scale"):
        checkpoint.open(write(tmp_path / "lone", lone, OFFLINE))
    with pytest.raises(UnsupportedError, match="linear_class: the checkpoint is quantized by BitNet"):
        checkpoint.open(write(tmp_path / "kind", lone, {**OFFLINE, "linear_class": "other"}))
    with pytest.raises(UnsupportedError, match="quantized by a method that is not known"):
        checkpoint.open(write(tmp_path / "other", lone, {"quant_method": "other"}))
