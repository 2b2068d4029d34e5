"""Tiny checkpoints of models with multi-token-prediction heads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import gguflike
from gguflike import container
from tests import tiny

D, FF, E, VOCAB, LAYERS = 64, 64, 4, 300, 2
COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": D,
    "intermediate_size": 2 * FF,
    "moe_intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCAB,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
    "attention_bias": False,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
GLM: dict[str, Any] = {
    **COMMON,
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "n_routed_experts": E,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "head_dim": 32,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
}


def attention(layer: str) -> dict[str, tuple[int, ...]]:
    return {
        **{f"{layer}{name}_layernorm.weight": (D,) for name in ("input", "post_attention")},
        **{f"{layer}self_attn.{name}_proj.weight": (rows, D) for name, rows in (("q", 64), ("k", 32), ("v", 32))},
        f"{layer}self_attn.o_proj.weight": (D, 64),
        **{f"{layer}self_attn.{name}_norm.weight": (32,) for name in "qk"},
    }


def feed_forward(place: str, size: int) -> dict[str, tuple[int, ...]]:
    return {
        **{f"{place}.{name}_proj.weight": (size, D) for name in ("gate", "up")},
        f"{place}.down_proj.weight": (D, size),
    }


def mixture(layer: str) -> dict[str, tuple[int, ...]]:
    made = {f"{layer}mlp.gate.weight": (E, D), f"{layer}mlp.gate.e_score_correction_bias": (E,)}
    for expert in range(E):
        made |= feed_forward(f"{layer}mlp.experts.{expert}", FF)
    return made | feed_forward(f"{layer}mlp.shared_experts", FF)


HEAD = f"model.layers.{LAYERS}."
TRUNK = {
    "model.embed_tokens.weight": (VOCAB, D),
    **attention("model.layers.0."),
    **feed_forward("model.layers.0.mlp", 2 * FF),
    **attention("model.layers.1."),
    **mixture("model.layers.1."),
    "model.norm.weight": (D,),
    "lm_head.weight": (VOCAB, D),
}
GLM_HEAD = {
    **attention(HEAD),
    **mixture(HEAD),
    f"{HEAD}eh_proj.weight": (D, 2 * D),
    f"{HEAD}enorm.weight": (D,),
    f"{HEAD}hnorm.weight": (D,),
}
OWN = {
    f"{HEAD}embed_tokens.weight": (VOCAB, D),
    f"{HEAD}shared_head.norm.weight": (D,),
    f"{HEAD}shared_head.head.weight": (VOCAB, D),
}


QWEN: dict[str, Any] = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "hidden_act": "silu",
    "hidden_size": D,
    "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "vocab_size": VOCAB,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def gated(layer: str) -> dict[str, tuple[int, ...]]:
    return attention(layer) | feed_forward(f"{layer}mlp", FF) | {f"{layer}self_attn.q_proj.weight": (128, D)}


def delta_net(layer: str) -> dict[str, tuple[int, ...]]:
    return {
        **{f"{layer}{name}_layernorm.weight": (D,) for name in ("input", "post_attention")},
        **feed_forward(f"{layer}mlp", FF),
        f"{layer}linear_attn.in_proj_qkv.weight": (128, D),
        f"{layer}linear_attn.in_proj_z.weight": (64, D),
        **{f"{layer}linear_attn.in_proj_{name}.weight": (2, D) for name in "ab"},
        f"{layer}linear_attn.conv1d.weight": (128, 1, 4),
        **{f"{layer}linear_attn.{name}": (2,) for name in ("dt_bias", "A_log")},
        f"{layer}linear_attn.norm.weight": (32,),
        f"{layer}linear_attn.out_proj.weight": (D, 64),
    }


QWEN_WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB, D),
    **delta_net("model.layers.0."),
    **gated("model.layers.1."),
    "model.norm.weight": (D,),
    **gated("mtp.layers.0."),
    "mtp.fc.weight": (D, 2 * D),
    **{f"mtp.{name}.weight": (D,) for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")},
}


LITE: dict[str, Any] = {
    **{name: value for name, value in GLM.items() if name not in ("head_dim", "use_qk_norm", "partial_rotary_factor")},
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
}


def latent(layer: str) -> dict[str, tuple[int, ...]]:
    place = f"{layer}self_attn."
    return {
        **{f"{layer}{name}_layernorm.weight": (D,) for name in ("input", "post_attention")},
        f"{place}q_a_proj.weight": (32, D),
        f"{place}q_a_layernorm.weight": (32,),
        f"{place}q_b_proj.weight": (2 * 64, 32),
        f"{place}kv_a_proj_with_mqa.weight": (32 + 32, D),
        f"{place}kv_a_layernorm.weight": (32,),
        f"{place}kv_b_proj.weight": (2 * 64, 32),
        f"{place}o_proj.weight": (D, 64),
    }


#: What joins a token with what was made of the one before it, in heads that are layers.
JOINED = {f"{HEAD}{name}.weight": GLM_HEAD[f"{HEAD}{name}.weight"] for name in ("enorm", "hnorm", "eh_proj")}

LITE_WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB, D),
    **latent("model.layers.0."),
    **feed_forward("model.layers.0.mlp", 2 * FF),
    **latent("model.layers.1."),
    **mixture("model.layers.1."),
    "model.norm.weight": (D,),
    "lm_head.weight": (VOCAB, D),
    **latent(HEAD),
    **mixture(HEAD),
    **JOINED,
    f"{HEAD}shared_head.norm.weight": (D,),
}


HY: dict[str, Any] = {
    **{name: value for name, value in COMMON.items() if name != "first_k_dense_replace"},
    "architectures": ["HYV3ForCausalLM"],
    "model_type": "hy_v3",
    "num_experts": E,
    "num_shared_experts": 1,
    "router_scaling_factor": 1.5,
    "mlp_layer_types": ["dense", "sparse"],
    "head_dim": 32,
}


def of_hy(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names that Hy 3 has for what GLM has."""
    names = {
        "mlp.gate.weight": "mlp.router.gate.weight",
        "mlp.gate.e_score_correction_bias": "mlp.expert_bias",
        "mlp.shared_experts.": "mlp.shared_mlp.",
        "shared_head.norm.": "final_layernorm.",
    }
    made = {}
    for name, shape in shapes.items():
        for before, after in names.items():
            name = name.replace(before, after)
        made[name] = shape
    return made


HY_WEIGHTS = of_hy({**TRUNK, **GLM_HEAD, f"{HEAD}shared_head.norm.weight": (D,)})


DSA: dict[str, Any] = {
    **LITE,
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "index_n_heads": 2,
    "index_head_dim": 128,
    "index_topk": 128,
    "indexer_types": ["full", "full"],
    "scoring_func": "sigmoid",
}


def indexed(layer: str) -> dict[str, tuple[int, ...]]:
    place = f"{layer}self_attn.indexer."
    return {
        f"{place}wq_b.weight": (2 * 128, 32),
        f"{place}wk.weight": (128, D),
        f"{place}k_norm.weight": (128,),
        f"{place}k_norm.bias": (128,),
        f"{place}weights_proj.weight": (2, D),
    }


TRUNK_INDEXED = {**LITE_WEIGHTS, **indexed("model.layers.0."), **indexed("model.layers.1.")}


EXAONE: dict[str, Any] = {
    **{name: value for name, value in GLM.items() if name not in ("n_shared_experts", "n_routed_experts")},
    "architectures": ["ExaoneMoEForCausalLM"],
    "model_type": "exaone_moe",
    "num_experts": E,
    "num_shared_experts": 1,
    "scoring_func": "sigmoid",
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse"],
}
for name in ("use_qk_norm", "partial_rotary_factor"):
    del EXAONE[name]
APART = {
    "mtp.fc.weight": (D, 2 * D),
    **{f"mtp.{name}.weight": (D,) for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")},
}
EXAONE_WEIGHTS = {
    **{name.replace("gate.e_score", "e_score"): shape for name, shape in TRUNK.items()},
    **attention("mtp.layers.0."),
    **feed_forward("mtp.layers.0.mlp", 2 * FF),
    **APART,
}


NEMOTRON: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "hidden_size": D,
    "layers_block_type": ["mamba", "attention", "moe"],
    "hybrid_override_pattern": "M*E",
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "ssm_state_size": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 16,
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "use_conv_bias": True,
    "intermediate_size": FF,
    "n_routed_experts": E,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "moe_intermediate_size": FF,
    "moe_shared_expert_intermediate_size": 2 * FF,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
    "mtp_hybrid_override_pattern": "*E",
    "vocab_size": VOCAB,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def of_nemotron(layer: str, kind: str) -> dict[str, tuple[int, ...]]:
    place = f"{layer}mixer."
    made: dict[str, tuple[int, ...]] = {f"{layer}norm.weight": (D,)}
    if kind == "mamba":
        convolved = 128 + 2 * 2 * 16
        return made | {
            f"{place}in_proj.weight": (128 + convolved + 8, D),
            f"{place}conv1d.weight": (convolved, 1, 4),
            f"{place}conv1d.bias": (convolved,),
            **{f"{place}{name}": (8,) for name in ("A_log", "D", "dt_bias")},
            f"{place}norm.weight": (128,),
            f"{place}out_proj.weight": (D, 128),
        }
    if kind == "attention":
        sizes = (("q", 64), ("k", 32), ("v", 32))
        made |= {f"{place}{name}_proj.weight": (rows, D) for name, rows in sizes}
        return made | {f"{place}o_proj.weight": (D, 64)}
    made |= {f"{place}gate.weight": (E, D), f"{place}gate.e_score_correction_bias": (E,)}
    for name, size in (*((f"experts.{expert}", FF) for expert in range(E)), ("shared_experts", 2 * FF)):
        made |= {f"{place}{name}.up_proj.weight": (size, D), f"{place}{name}.down_proj.weight": (D, size)}
    return made


NEMOTRON_WEIGHTS = {
    "backbone.embeddings.weight": (VOCAB, D),
    **{
        name: shape
        for number, kind in enumerate(NEMOTRON["layers_block_type"])
        for name, shape in of_nemotron(f"backbone.layers.{number}.", kind).items()
    },
    "backbone.norm_f.weight": (D,),
    "lm_head.weight": (VOCAB, D),
    **of_nemotron("mtp.layers.0.", "attention"),
    **of_nemotron("mtp.layers.1.", "moe"),
    **{f"mtp.layers.0.{name}.weight": (D,) for name in ("enorm", "hnorm")},
    "mtp.layers.0.eh_proj.weight": (D, 2 * D),
    "mtp.layers.1.final_layernorm.weight": (D,),
}


MIMO: dict[str, Any] = {
    **{name: value for name, value in COMMON.items() if name not in ("num_nextn_predict_layers", "rms_norm_eps")},
    "architectures": ["MiMoV2FlashForCausalLM"],
    "model_type": "mimo_v2_flash",
    "layernorm_epsilon": 1e-5,
    "head_dim": 32,
    "v_head_dim": 16,
    "n_routed_experts": E,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "sliding_window": 8,
    "hybrid_layer_pattern": [0, 1],
    "moe_layer_freq": [0, 1],
    "swa_head_dim": 32,
    "swa_v_head_dim": 16,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_rope_theta": 5000.0,
    "partial_rotary_factor": 0.5,
    "add_full_attention_sink_bias": False,
    "add_swa_attention_sink_bias": True,
    "attention_value_scale": 0.75,
}
del MIMO["first_k_dense_replace"]


def of_mimo(layer: str, kv_heads: int, second: str = "post_attention") -> dict[str, tuple[int, ...]]:
    place = f"{layer}self_attn."
    sizes = (("q", 2 * 32), ("k", kv_heads * 32), ("v", kv_heads * 16))
    return {
        **{f"{layer}{name}_layernorm.weight": (D,) for name in ("input", second)},
        **{f"{place}{name}_proj.weight": (rows, D) for name, rows in sizes},
        f"{place}o_proj.weight": (D, 2 * 16),
        **({f"{place}attention_sink_bias": (2,)} if kv_heads > 1 else {}),
    }


MIMO_WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB, D),
    **of_mimo("model.layers.0.", 1),
    **feed_forward("model.layers.0.mlp", 2 * FF),
    **of_mimo("model.layers.1.", 2),
    **{name: shape for name, shape in mixture("model.layers.1.").items() if "shared" not in name},
    "model.norm.weight": (D,),
    "lm_head.weight": (VOCAB, D),
}
for head in range(3):
    place = f"model.mtp.layers.{head}."
    MIMO_WEIGHTS |= {
        **of_mimo(place, 2, "pre_mlp"),
        **feed_forward(f"{place}mlp", 2 * FF),
        f"{place}eh_proj.weight": (D, 2 * D),
        **{f"{place}{name}.weight": (D,) for name in ("enorm", "hnorm", "final_layernorm")},
    }

#: The class that has queries, keys and values in one matrix.
MIMO_FUSED = MIMO | {
    "architectures": ["MiMoV2ForCausalLM"],
    "model_type": "mimo_v2",
    "attention_projection_layout": "fused_qkv",
    "num_nextn_predict_layers": 3,
}


def in_one(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    made: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        whole = re.sub(r"self_attn\.[qkv]_proj", "self_attn.qkv_proj", name)
        made[whole] = shape if whole == name else (made.get(whole, (0,))[0] + shape[0], D)
    return made


MIMO_FUSED_WEIGHTS = in_one(MIMO_WEIGHTS)

COHERE: dict[str, Any] = {
    **{name: value for name, value in COMMON.items() if name not in ("rms_norm_eps", "moe_intermediate_size")},
    "architectures": ["Cohere2MoeForCausalLM"],
    "model_type": "cohere2_moe",
    "intermediate_size": FF,
    "prefix_dense_intermediate_size": 2 * FF,
    "head_dim": 32,
    "logit_scale": 0.25,
    "layer_norm_eps": 1e-5,
    "sliding_window": 8,
    "layer_types": ["full_attention", "sliding_attention"],
    "mlp_layer_types": ["dense", "sparse"],
    "num_experts": E,
    "num_shared_experts": 1,
    "expert_selection_fn": "sigmoid",
    "norm_topk_prob": True,
    "tie_word_embeddings": True,
}


def of_cohere(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """What of GLM's tensors it has."""
    lacks = ("q_norm", "k_norm", "post_attention", "e_score", "lm_head")
    return {name: shape for name, shape in shapes.items() if not any(word in name for word in lacks)}


COHERE_WEIGHTS = of_cohere({**TRUNK, **GLM_HEAD, f"{HEAD}shared_head.norm.weight": (D,)})

EXAONE4: dict[str, Any] = {
    **{name: value for name, value in COMMON.items() if "expert" not in name and "moe" not in name},
    "architectures": ["Exaone4_5_ForConditionalGeneration"],
    "model_type": "exaone4",
    "head_dim": 32,
    "mtp_share_layers": False,
}
del EXAONE4["first_k_dense_replace"]


def post_normed(layer: str) -> dict[str, tuple[int, ...]]:
    made = {**attention(layer), **feed_forward(f"{layer}mlp", 2 * FF)}
    del made[f"{layer}input_layernorm.weight"]
    return made | {f"{layer}post_feedforward_layernorm.weight": (D,)}


EXAONE4_WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB, D),
    **post_normed("model.layers.0."),
    **post_normed("model.layers.1."),
    "model.norm.weight": (D,),
    "lm_head.weight": (VOCAB, D),
    **post_normed("mtp.layers.0."),
    **APART,
}

OCR: dict[str, Any] = {
    **{name: value for name, value in EXAONE4.items() if name != "mtp_share_layers"},
    "architectures": ["GlmOcrForConditionalGeneration"],
    "model_type": "glm_ocr_text",
    "partial_rotary_factor": 1.0,
}


def between_norms(layer: str) -> dict[str, tuple[int, ...]]:
    made = {name: shape for name, shape in attention(layer).items() if "self_attn" not in name or "proj" in name}
    made |= {f"{layer}post_{name}_layernorm.weight": (D,) for name in ("self_attn", "mlp")}
    return made | {f"{layer}mlp.gate_up_proj.weight": (4 * FF, D), f"{layer}mlp.down_proj.weight": (D, 2 * FF)}


OCR_WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB, D),
    **between_norms("model.layers.0."),
    **between_norms("model.layers.1."),
    "model.norm.weight": (D,),
    "lm_head.weight": (VOCAB, D),
    **between_norms(HEAD),
    **JOINED,
    **OWN,
}

#: The tensors of each checkpoint, and its config.json.
VARIANTS = {
    "hy": HY_WEIGHTS,
    "shared": {**TRUNK, **GLM_HEAD},
    "own": {**TRUNK, **GLM_HEAD, **OWN},
    "apart": QWEN_WEIGHTS,
    "latent": LITE_WEIGHTS,
    "sparse latent": {**TRUNK_INDEXED, **indexed(HEAD)},
    "without indexer": TRUNK_INDEXED,
    "windows": EXAONE_WEIGHTS,
    "two layers": NEMOTRON_WEIGHTS,
    "three": MIMO_WEIGHTS,
    "three, fused": MIMO_FUSED_WEIGHTS,
    "centered": COHERE_WEIGHTS,
    "norms behind": EXAONE4_WEIGHTS,
    "norms on both sides": OCR_WEIGHTS,
}
CONFIGS = {
    "hy": HY,
    "shared": GLM,
    "own": GLM,
    "apart": QWEN,
    "latent": LITE,
    "sparse latent": DSA,
    "without indexer": DSA,
    "windows": EXAONE,
    "two layers": NEMOTRON,
    "three": MIMO,
    "three, fused": MIMO_FUSED,
    "centered": COHERE,
    "norms behind": EXAONE4,
    "norms on both sides": OCR,
}
PROMPT = [10, 20, 30, 40, 50, 60, 70]


def values(shapes: dict[str, tuple[int, ...]], seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        made[name] = x + np.float32(1) if "norm" in name else x
    return made


def right(weights: dict[str, np.ndarray], of_token: bool = True) -> dict[str, np.ndarray]:
    """A model whose blocks add nothing, so that its next token depends on the last alone, and heads that are right:
    they are given the embedding of a token and do as the model does; or (not ``of_token``) what the head before them,
    or the model, made of one, of which they make what it would make of the next: tokens follow by number, or
    themselves where the output matrix is the embedding."""
    made, turn = dict(weights), circle(1)[1] if any("lm_head" in name for name in weights) else np.eye(D)
    adds_one = any("linear_attn" in name for name in weights)  # to the weights of norms
    for name, x in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight")):
            made[name] = 0 * x
        elif x.shape == (D,):
            made[name] = 0 * x + np.float32(not adds_one)
        elif x.shape == (D, 2 * D):
            halves = (np.eye(D), np.zeros((D, D))) if of_token else (np.zeros((D, D)), turn)
            made[name] = np.concatenate(halves, axis=1).astype(np.float32)
        elif name.endswith(("embed_tokens.weight", "embeddings.weight")):
            made[name] = x - x.mean(axis=1, keepdims=True) if of_token else circle(VOCAB)[0]
        elif name.endswith("head.weight") and not of_token:
            made[name] = np.roll(circle(VOCAB)[0], 1, axis=0)
    return made


def circle(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (tokens, D) whose values sum to 0, and the matrix that turns each into that of the next token."""
    turns = 2 * np.pi / VOCAB * np.random.default_rng(1).permutation(np.arange(1, VOCAB // 2))[: D // 4]
    angles = np.arange(tokens)[:, None] * turns
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=2).reshape(tokens, D // 2)
    turned = np.kron(np.diag(np.cos(turns)), np.eye(2)) + np.kron(np.diag(np.sin(turns)), [[0, -1], [1, 0]])
    return np.concatenate([plane, -plane], axis=1).astype(np.float32), np.kron(np.eye(2), turned)


def checkpoint(folder: Path, weights: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(tiny.safetensors(weights))
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(VOCAB)))
    return folder


def converted(folder: Path, weights: dict[str, np.ndarray], kind: str = "F32", config: Any = None) -> Path:
    config = config or next(CONFIGS[name] for name, shapes in VARIANTS.items() if shapes.keys() == weights.keys())
    gguflike.convert(checkpoint(folder / "hf", weights, config), folder / "m.gguf", kind)
    return folder / "m.gguf"


def stored(path: Path) -> dict[str, np.ndarray]:
    with container.open(path) as file:
        return {name: tensor.dequantize().reshape(tensor.shape) for name, tensor in file.tensors.items()}
