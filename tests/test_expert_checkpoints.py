"""Checkpoints with experts, there and back: stacks, fused halves, rows that take turns, 4-bit floats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike.checkpoint.safetensors import read_header
from gguflike.errors import CheckpointError, GGUFError, UnsupportedError
from gguflike.families import config as configs
from gguflike.families import registry
from gguflike.reference.forward import hidden
from tests import tiny
from tests.by_hand import IDS
from tests.files import floats_of
from tests.measures import relative_error

D, FF, E, VOCAB = 32, 64, 4, 300
COMMON: dict[str, Any] = {
    "hidden_size": D,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
L = "model.layers.0."
ATTENTION = {
    "model.embed_tokens.weight": (VOCAB, D),
    "model.norm.weight": (D,),
    f"{L}input_layernorm.weight": (D,),
    f"{L}post_attention_layernorm.weight": (D,),
    f"{L}self_attn.q_proj.weight": (32, D),
    f"{L}self_attn.k_proj.weight": (16, D),
    f"{L}self_attn.v_proj.weight": (16, D),
    f"{L}self_attn.o_proj.weight": (D, 32),
}
BIASES = {f"{L}self_attn.{name}_proj.bias": (rows,) for name, rows in (("q", 32), ("k", 16), ("v", 16))}
QWEN = {
    **ATTENTION,
    **BIASES,
    f"{L}mlp.gate.weight": (E, D),
    f"{L}mlp.shared_expert_gate.weight": (1, D),
    **{f"{L}mlp.shared_expert.{name}_proj.weight": (FF, D) for name in ("gate", "up")},
    f"{L}mlp.shared_expert.down_proj.weight": (D, FF),
}
ONE_BY_ONE = {
    **{f"{L}mlp.experts.{e}.{name}_proj.weight": (FF, D) for e in range(E) for name in ("gate", "up")},
    **{f"{L}mlp.experts.{e}.down_proj.weight": (D, FF) for e in range(E)},
}
STACKED = {f"{L}mlp.experts.gate_up_proj": (E, 2 * FF, D), f"{L}mlp.experts.down_proj": (E, D, FF)}
QWEN_CONFIG = {
    **COMMON,
    "architectures": ["Qwen2MoeForCausalLM"],
    "intermediate_size": 96,
    "moe_intermediate_size": FF,
    "shared_expert_intermediate_size": FF,
    "num_experts": E,
    "norm_topk_prob": False,
}
OSS_CONFIG = {
    **COMMON,
    "architectures": ["GptOssForCausalLM"],
    "intermediate_size": FF,
    "num_local_experts": E,
    "attention_bias": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention"],
}
OSS = {
    **ATTENTION,
    **BIASES,
    f"{L}self_attn.o_proj.bias": (D,),
    f"{L}self_attn.sinks": (2,),
    f"{L}mlp.router.weight": (E, D),
    f"{L}mlp.router.bias": (E,),
    f"{L}mlp.experts.gate_up_proj_bias": (E, 2 * FF),
    f"{L}mlp.experts.down_proj_bias": (E, D),
}
OSS_FLOATS = {f"{L}mlp.experts.gate_up_proj": (E, D, 2 * FF), f"{L}mlp.experts.down_proj": (E, FF, D)}
OSS_PACKED = {
    f"{L}mlp.experts.gate_up_proj_blocks": (E, 2 * FF, D // 32, 16),
    f"{L}mlp.experts.gate_up_proj_scales": (E, 2 * FF, D // 32),
    f"{L}mlp.experts.down_proj_blocks": (E, D, FF // 32, 16),
    f"{L}mlp.experts.down_proj_scales": (E, D, FF // 32),
}
# The values of 4-bit floats (OCP Microscaling Formats 1.0).
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def made(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    bytes_of = {"blocks": 256, "scales": 8}
    return {
        name: rng.integers(0, bytes_of[name.rsplit("_", 1)[1]], shape).astype(np.uint8)
        + np.uint8(120) * ("scales" in name)
        if name.endswith(("_blocks", "_scales"))
        else rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    header: dict[str, Any] = {}
    data = b""
    for name, x in tensors.items():
        raw = x.tobytes()
        kind = "U8" if x.dtype == np.uint8 else "F32"
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(VOCAB)))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def assert_same_back(path: Path, folder: Path, wanted: dict[str, np.ndarray]) -> None:
    gguflike.export(path, folder)
    found = read_header(folder / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.read_f32(), wanted[name], err_msg=name)


def test_experts_saved_one_by_one(tmp_path: Path) -> None:
    tensors = made({**QWEN, **ONE_BY_ONE})
    gguflike.convert(write(tmp_path / "hf", QWEN_CONFIG, tensors), tmp_path / "m.gguf", "F32")
    found = floats_of(tmp_path / "m.gguf")
    for role in ("gate", "up", "down"):
        wanted = np.stack([tensors[f"{L}mlp.experts.{e}.{role}_proj.weight"] for e in range(E)])
        np.testing.assert_array_equal(found[f"blk.0.ffn_{role}_exps.weight"], wanted)
    np.testing.assert_array_equal(
        found["blk.0.ffn_gate_inp_shexp.weight"], tensors[f"{L}mlp.shared_expert_gate.weight"]
    )
    assert_same_back(tmp_path / "m.gguf", tmp_path / "back", tensors)


def test_experts_saved_as_stacks(tmp_path: Path) -> None:
    """As Transformers has them in memory; an export saves them one by one."""
    tensors = made({**QWEN, **STACKED})
    gguflike.convert(write(tmp_path / "hf", QWEN_CONFIG, tensors), tmp_path / "m.gguf", "F32")
    found, both = floats_of(tmp_path / "m.gguf"), tensors[f"{L}mlp.experts.gate_up_proj"]
    np.testing.assert_array_equal(found["blk.0.ffn_gate_exps.weight"], both[:, :FF])
    np.testing.assert_array_equal(found["blk.0.ffn_up_exps.weight"], both[:, FF:])
    np.testing.assert_array_equal(found["blk.0.ffn_down_exps.weight"], tensors[f"{L}mlp.experts.down_proj"])


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    tensors = made({**QWEN, **ONE_BY_ONE})
    del tensors[f"{L}mlp.experts.2.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"experts\.2\.up_proj\.weight"):
        gguflike.convert(write(tmp_path / "hf", QWEN_CONFIG, tensors), tmp_path / "m.gguf", "F32")


def test_rows_that_take_turns(tmp_path: Path) -> None:
    tensors = made({**OSS, **OSS_FLOATS})
    gguflike.convert(write(tmp_path / "hf", OSS_CONFIG, tensors), tmp_path / "m.gguf", "F32")
    found, both = floats_of(tmp_path / "m.gguf"), tensors[f"{L}mlp.experts.gate_up_proj"].swapaxes(1, 2)
    biases = tensors[f"{L}mlp.experts.gate_up_proj_bias"]
    for index, role in enumerate(("gate", "up")):
        np.testing.assert_array_equal(found[f"blk.0.ffn_{role}_exps.weight"], both[:, index::2])
        np.testing.assert_array_equal(found[f"blk.0.ffn_{role}_exps.bias"], biases[:, index::2])
    assert_same_back(tmp_path / "m.gguf", tmp_path / "back", tensors)


def test_an_export_needs_all_that_share_a_tensor(tmp_path: Path) -> None:
    tensors = made({**OSS, **OSS_FLOATS})
    gguflike.convert(write(tmp_path / "hf", OSS_CONFIG, tensors), tmp_path / "m.gguf", "F32")
    with gguflike.open(tmp_path / "m.gguf") as file:
        others = [tensor for name, tensor in file.tensors.items() if name != "blk.0.ffn_up_exps.weight"]
        gguflike.write(tmp_path / "less.gguf", file.metadata, others)
    with pytest.raises(GGUFError, match="ffn_up_exps"):
        gguflike.export(tmp_path / "less.gguf", tmp_path / "back")


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The values of 4-bit floats, two in a byte, low bits first, times their block's power of two."""
    levels = np.stack([E2M1[blocks & 15], E2M1[blocks >> 4]], axis=-1).reshape(*scales.shape, 32)
    return np.ldexp(levels, scales.astype(np.int32)[..., None] - 127).reshape(*scales.shape[:-1], -1)


@pytest.mark.parametrize("kind", ["MXFP4_MOE", "F32"])
def test_4_bit_floats_are_kept_bit_for_bit_or_decoded(kind: str, tmp_path: Path) -> None:
    tensors = made({**OSS, **OSS_PACKED})
    config = {**OSS_CONFIG, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
    plan = gguflike.convert(write(tmp_path / "hf", config, tensors), tmp_path / "m.gguf", kind)
    both, down = (
        unpacked(tensors[f"{L}mlp.experts.{name}_blocks"], tensors[f"{L}mlp.experts.{name}_scales"])
        for name in ("gate_up_proj", "down_proj")
    )
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for name, wanted in (("gate", both[:, ::2]), ("up", both[:, 1::2]), ("down", down)):
        tensor = found[f"blk.0.ffn_{name}_exps.weight"]
        assert tensor.tensor_type.name == ("MXFP4" if kind == "MXFP4_MOE" else "F32")
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(decoded.reshape(wanted.shape), wanted)
    assert ("quantized already" in "".join(plan.notices)) == (kind == "F32")


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_plain_floats_are_taken_for_what_they_are(method: str, tmp_path: Path) -> None:
    config = {**OSS_CONFIG, "quantization_config": {"quant_method": method}}
    plan = gguflike.convert(write(tmp_path / "hf", config, made({**OSS, **OSS_FLOATS})), tmp_path / "m.gguf", "F32")
    assert "quantization_config of config.json is left aside: the weights are not quantized" in plan.notices


def test_codes_without_scales_are_refused(tmp_path: Path) -> None:
    config = {**OSS_CONFIG, "quantization_config": {"quant_method": "mxfp4"}}
    tensors = made({**OSS, **OSS_PACKED})
    del tensors[f"{L}mlp.experts.down_proj_scales"]
    with pytest.raises(CheckpointError, match=r"lacks a part; expected .*down_proj_scales"):
        gguflike.convert(write(tmp_path / "hf", config, tensors), tmp_path / "m.gguf", "F32")


SEEING_CONFIG = {
    **COMMON,
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "intermediate_size": 96,
    "moe_intermediate_size": FF,
    "num_experts": E,
}
SEEING = {
    **ATTENTION,
    **{f"{L}self_attn.{name}_norm.weight": (16,) for name in ("q", "k")},
    f"{L}mlp.gate.weight": (E, D),
}


def test_stacks_are_told_by_their_shapes_to_be_transposed(tmp_path: Path) -> None:
    """Qwen3-VL's experts are published transposed, Transformers 5 saves them as it multiplies them."""
    tensors = made({**SEEING, **STACKED})
    turned = {name: x.swapaxes(1, 2).copy() if name in STACKED else x for name, x in tensors.items()}
    for name, each in (("saved", tensors), ("published", turned)):
        gguflike.convert(write(tmp_path / name, SEEING_CONFIG, each), tmp_path / f"{name}.gguf", "F32")
    saved, published = floats_of(tmp_path / "saved.gguf"), floats_of(tmp_path / "published.gguf")
    both = tensors[f"{L}mlp.experts.gate_up_proj"]
    np.testing.assert_array_equal(saved["blk.0.ffn_gate_exps.weight"], both[:, :FF])
    np.testing.assert_array_equal(saved["blk.0.ffn_up_exps.weight"], both[:, FF:])
    np.testing.assert_array_equal(saved["blk.0.ffn_down_exps.weight"], tensors[f"{L}mlp.experts.down_proj"])
    assert saved.keys() == published.keys()
    for name, x in saved.items():
        np.testing.assert_array_equal(published[name], x, name)


NOMIC_CONFIG = {
    "architectures": ["NomicBertModel"],
    "model_type": "nomic_bert",
    "activation_function": "gelu",
    "n_embd": D,
    "n_inner": FF,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 2048,
    "max_trained_positions": 2048,
    "layer_norm_epsilon": 1e-5,
    "rotary_emb_base": 10000,
    "rotary_scaling_factor": None,
    "vocab_size": VOCAB,
    "type_vocab_size": 1,
    "moe_every_n_layers": 2,
    "moe_top_k": 2,
    "moe_normalize_expert_weights": False,
    "num_experts": E,
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), True),
}


def nomic(experts: bool = True) -> dict[str, tuple[int, ...]]:
    """Tensors of nomic-bert: two layers, the second of them with experts."""
    norms = {f"{name}.{kind}": (D,) for name in ("emb_ln",) for kind in ("weight", "bias")}
    names = {
        **norms,
        "embeddings.word_embeddings.weight": (VOCAB, D),
        "embeddings.token_type_embeddings.weight": (1, D),
    }
    for layer in range(2):
        at = f"encoder.layers.{layer}."
        names |= {f"{at}norm{i}.{kind}": (D,) for i in (1, 2) for kind in ("weight", "bias")}
        names |= {f"{at}attn.Wqkv.weight": (3 * D, D), f"{at}attn.out_proj.weight": (D, D)}
        if not experts:
            names |= {f"{at}mlp.fc11.weight": (FF, D), f"{at}mlp.fc12.weight": (FF, D), f"{at}mlp.fc2.weight": (D, FF)}
            continue
        names |= {f"{at}attn.Wqkv.bias": (3 * D,), f"{at}attn.out_proj.bias": (D,)}
        if layer:
            names |= {f"{at}mlp.router.layer.weight": (E, D), f"{at}mlp.experts.bias": (D,)}
            names |= {f"{at}mlp.experts.mlp.w{i}": (E * FF, D) for i in (1, 2)}
        else:
            names |= {f"{at}mlp.fc1.weight": (FF, D), f"{at}mlp.fc1.bias": (FF,)}
            names |= {f"{at}mlp.fc2.weight": (D, FF), f"{at}mlp.fc2.bias": (D,)}
    return names


def test_nomic_experts_and_the_bias_that_they_share(tmp_path: Path) -> None:
    tensors = made(nomic())
    folder = write(tmp_path / "hf", NOMIC_CONFIG, tensors)
    plan = gguflike.convert(folder, tmp_path / "x.gguf", "F32")
    assert any("mlp.experts.bias" in notice for notice in plan.notices)
    found, at = floats_of(tmp_path / "x.gguf"), "encoder.layers.1.mlp.experts."
    first, second = (tensors[f"{at}mlp.w{i}"].reshape(E, FF, D) for i in (1, 2))
    np.testing.assert_array_equal(found["blk.1.ffn_up_exps.weight"], first)
    np.testing.assert_array_equal(found["blk.1.ffn_down_exps.weight"], second.transpose(0, 2, 1))
    assert not any("gate_exps" in name or "exps.bias" in name for name in found)
    with gguflike.load(tmp_path / "x.gguf", threads=1, cache_type="f32") as model:
        assert model.context == model.config.n_ctx == 512
        np.testing.assert_array_equal(np.float32(model.config.expert_bias), tensors[f"{at}bias"])
        got = model.hidden(IDS)
        assert relative_error(got, hidden(model.graph, found, IDS)) < 1e-5
        without = configs.changed(model.config, expert_bias=(0.0,) * D)
        other = hidden(registry.for_gguf("nomic-bert-moe").graph(without), found, IDS)
        assert relative_error(got, other) > 0.01
    assert_same_back(tmp_path / "x.gguf", tmp_path / "back", tensors)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {name: config[name] for name in ("n_embd", "n_positions", "moe_top_k")} == {
        "n_embd": D,
        "n_positions": 2048,
        "moe_top_k": 2,
    }


@pytest.mark.parametrize(("shape", "message"), [((D + 1,), "expected 32 values"), ((2**17,), "at most 65536 values")])
def test_a_shared_bias_of_another_size(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    tensors = made(nomic() | {"encoder.layers.1.mlp.experts.bias": shape})
    with pytest.raises(CheckpointError, match=message):
        gguflike.convert(write(tmp_path / "hf", NOMIC_CONFIG, tensors), None, "F32", dry_run=True)


def test_a_shared_bias_that_is_missing(tmp_path: Path) -> None:
    tensors = made(nomic())
    del tensors["encoder.layers.1.mlp.experts.bias"]
    with pytest.raises(CheckpointError, match=r"expected 32 values: 32 of each tensor mlp\.experts\.bias"):
        gguflike.convert(write(tmp_path / "hf", NOMIC_CONFIG, tensors), None, "F32", dry_run=True)


def test_nomic_without_experts_in_the_words_of_its_own_code(tmp_path: Path) -> None:
    config = {key: value for key, value in NOMIC_CONFIG.items() if "moe" not in key and key != "num_experts"}
    config |= dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False)
    config |= {"activation_function": "swiglu", "n_positions": 8192, "rotary_emb_base": 1000}
    gguflike.convert(write(tmp_path / "hf", config, made(nomic(experts=False))), tmp_path / "x.gguf", "F32")
    with gguflike.open(tmp_path / "x.gguf") as file:
        assert file.architecture == "nomic-bert"
        assert file.metadata["nomic-bert.context_length"] == 2048
        assert file.metadata["nomic-bert.rope.freq_base"] == 1000
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "rotary_scaling_factor": 2}))
    with pytest.raises(UnsupportedError, match="rotary_scaling_factor"):
        gguflike.convert(tmp_path / "hf", None, "F32", dry_run=True)


def test_an_adapter_of_some_experts(tmp_path: Path) -> None:
    """Merged, it changes these; as a file of its own, the stack has zeros for the others."""
    tensors = made({**QWEN, **ONE_BY_ONE})
    base = write(tmp_path / "hf", QWEN_CONFIG, tensors)
    a, b = made({"a": (2, D), "b": (FF, 2)}).values()
    module = f"base_model.model.{L}mlp.experts.2.up_proj"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    data = tiny.safetensors({f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b})
    (adapter / "adapter_model.safetensors").write_bytes(data)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    gguflike.convert(base, tmp_path / "plain.gguf", "F32")
    gguflike.convert(base, tmp_path / "merged.gguf", "F32", lora=[adapter])
    gguflike.convert(adapter, tmp_path / "adapter.gguf")
    name = "blk.0.ffn_up_exps.weight"
    plain, merged, alone = (floats_of(tmp_path / f"{each}.gguf") for each in ("plain", "merged", "adapter"))
    expected = plain[name].copy()
    expected[2] += 3 * (b @ a)
    np.testing.assert_allclose(merged[name], expected, atol=1e-4)
    assert all(np.array_equal(merged[other], plain[other]) for other in plain if other != name)
    assert {each: x.shape for each, x in alone.items()} == {
        f"{name}.lora_a": (E, 2, D),
        f"{name}.lora_b": (E, FF, 2),
    }
    change = 3 * np.einsum("eor,eri->eoi", alone[f"{name}.lora_b"], alone[f"{name}.lora_a"])
    np.testing.assert_allclose(plain[name] + change, expected, atol=1e-4)
