"""Families with recurrent layers: every tensor of a checkpoint comes back as it was, and value heads go where they
belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import reference
from gguflike.checkpoint import open as open_checkpoint
from gguflike.families import config as configs
from gguflike.families import registry
from tests import tiny

COMMON = {
    "hidden_size": 32,
    "vocab_size": 260,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
DELTA = {
    "head_dim": 16,
    "partial_rotary_factor": 0.25,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
}
MAMBA2 = {"mamba_d_state": 8, "mamba_n_groups": 2, "mamba_n_heads": 4, "mamba_expand": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3_5ForCausalLM": DELTA,
    "Qwen3_5MoeForCausalLM": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "Qwen3NextForCausalLM": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16, "conv_bias": True},
    "Lfm2MoeForCausalLM": {**EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "MambaForCausalLM": {"state_size": 4},
    "FalconMambaForCausalLM": {"state_size": 4, "model_type": "falcon_mamba"},
    "Mamba2ForCausalLM": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2},
    "GraniteMoeHybridForCausalLM": {
        **MAMBA2,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 64,
    },
    "BambaForCausalLM": {**MAMBA2, "attn_layer_indices": [1]},
    "NemotronHForCausalLM": {
        "hybrid_override_pattern": "M*-",
        "mamba_head_dim": 16,
        "mamba_num_heads": 4,
        "n_groups": 2,
        "ssm_state_size": 8,
    },
    "FalconH1ForCausalLM": {
        **MAMBA2,
        "mamba_d_ssm": 64,
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": False,
        "key_multiplier": 0.5,
        "ssm_multipliers": [0.5, 2.0, 0.25, 4.0, 0.125],  # powers of two, which divide exactly
        "mlp_multipliers": [0.5, 0.25],
        "embedding_multiplier": 2.0,
    },
    "JambaForCausalLM": {
        **{"mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
        **{"num_experts": 4, "num_experts_per_tok": 2},
    },
}


def checkpoint(folder: Path, name: str) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder of the class with every tensor that its family asks for, and their values."""
    dropped = {"MambaForCausalLM", "FalconMambaForCausalLM", "Mamba2ForCausalLM"}
    unknown = {"num_attention_heads", "num_key_value_heads", "intermediate_size", "max_position_embeddings"}
    common = {k: v for k, v in COMMON.items() if name not in dropped or k not in unknown}
    config = {"architectures": [name], **common, **CONFIGS[name]}
    family = registry.for_config(config)
    c, _ = family.from_config(config)
    rng = np.random.default_rng(0)
    shapes = {piece.hf: piece.hf_shape for binding in family.bind(c) for piece in binding.pieces}
    tensors = {hf: np.float32(rng.standard_normal(shape)) for hf, shape in shapes.items()}
    tiny.checkpoint(folder)
    (folder / "model.safetensors").write_bytes(tiny.safetensors(tensors))
    (folder / "config.json").write_text(json.dumps(config))
    return folder, tensors


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_comes_back(tmp_path: Path, name: str) -> None:
    folder, tensors = checkpoint(tmp_path / "in", name)
    gguflike.convert(folder, tmp_path / "m.gguf", "F32")
    with gguflike.open(tmp_path / "m.gguf") as file:
        assert file.architecture
        family = registry.for_gguf(file.architecture).of_file(file.metadata, file.infos)
        graph = family.graph(configs.from_gguf(family.config, family.name, file.metadata, file.infos.keys()))
        weights = {key: tensor.dequantize().reshape(tensor.shape) for key, tensor in file.tensors.items()}
    assert np.isfinite(reference.logits(graph, weights, [5, 17, 99])).all()
    gguflike.export(tmp_path / "m.gguf", tmp_path / "out")
    found = open_checkpoint(tmp_path / "out").tensors
    scaled = name == "FalconH1ForCausalLM"  # its products come back as weights
    assert found.keys() == tensors.keys()
    for key, value in tensors.items():
        got = found[key].read_f32(0, value.shape[0])
        assert got.shape == value.shape
        assert scaled or np.allclose(got, value, rtol=1e-6, atol=1e-6), key
    gguflike.convert(tmp_path / "out", tmp_path / "again.gguf", "F32")
    with gguflike.open(tmp_path / "again.gguf") as file:
        for key, tensor in file.tensors.items():
            assert np.allclose(tensor.dequantize().reshape(tensor.shape), weights[key], rtol=1e-6, atol=1e-6), key


def test_value_heads_of_qwen_3_5_are_tiled(tmp_path: Path) -> None:
    folder, tensors = checkpoint(tmp_path / "in", "Qwen3_5ForCausalLM")
    gguflike.convert(folder, tmp_path / "m.gguf", "F32")
    layer = "model.layers.0.linear_attn."
    # head h of GGUF goes with key head h % 2; in the checkpoint those of a key head stand side by side
    order = [0, 3, 1, 4, 2, 5]
    with gguflike.open(tmp_path / "m.gguf") as file:
        got = {
            role: file.tensors[f"blk.0.{role}"].dequantize() for role in ("attn_qkv.weight", "ssm_a", "ssm_out.weight")
        }
    values = tensors[layer + "in_proj_qkv.weight"][64:].reshape(6, 16, 32)[order].reshape(96, 32)
    assert np.array_equal(got["attn_qkv.weight"][64:], values)
    assert np.array_equal(got["attn_qkv.weight"][:64], tensors[layer + "in_proj_qkv.weight"][:64])
    assert np.allclose(got["ssm_a"], -np.exp(tensors[layer + "A_log"][order]))
    columns = tensors[layer + "out_proj.weight"].reshape(32, 6, 16)[:, order].reshape(32, 96)
    assert np.array_equal(got["ssm_out.weight"], columns)


def test_value_heads_of_another_size_than_keys_are_refused() -> None:
    config = {"architectures": ["Qwen3_5ForCausalLM"], **COMMON, **DELTA, "linear_value_head_dim": 32}
    family = registry.for_config(config)
    c, _ = family.from_config(config)
    with pytest.raises(gguflike.UnsupportedError, match="linear_value_head_dim"):
        family.graph(c)
