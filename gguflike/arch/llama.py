"""Llama and what shares its graph: Llama 2 and 3, Mistral, TinyLlama, SmolLM2.

Key and tensor names are llama.cpp's (gguf's constants.py); defaults are those of Transformers' LlamaConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from gguflike.arch.inert import PRETRAINED_KEYS
from gguflike.arch.rope import llama3_factors, recognise_llama3
from gguflike.arch.spec import ArchSpec, Graph, HParam, HParams, TensorRule
from gguflike.arch.transforms import RopePermute

ROPE_HPARAMS = (
    HParam("rope_base", "rope.freq_base", "rope.theta", float, 10000.0),
    HParam("rope_scaling", "rope.scaling.type", "rope.scaling.type", str, optional=True),  # "linear" or "yarn"
    HParam("rope_factor", "rope.scaling.factor", "rope.scaling.factor", float, optional=True),
    HParam(
        "rope_context", "rope.scaling.original_context_length", "rope.scaling.original_context_length", optional=True
    ),
    HParam("yarn_beta_fast", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_fast", float, optional=True),
    HParam("yarn_beta_slow", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_beta_slow", float, optional=True),
    # llama.cpp knows Llama 3's scaling only as rope_freqs.weight, so its four numbers are kept under our own keys.
    HParam("llama3_factor", "gguflike.rope.llama3.factor", "rope.llama3.factor", float, optional=True),
    HParam("llama3_low", "gguflike.rope.llama3.low_freq_factor", "rope.llama3.low_freq_factor", float, optional=True),
    HParam(
        "llama3_high", "gguflike.rope.llama3.high_freq_factor", "rope.llama3.high_freq_factor", float, optional=True
    ),
    HParam(
        "llama3_context",
        "gguflike.rope.llama3.original_context_length",
        "rope.llama3.original_context_length",
        optional=True,
    ),
    HParam("rope_freqs", None, None, bool, lambda h: "llama3_factor" in h, present="rope_freqs.weight"),
)

COMMON_HPARAMS = (
    HParam("n_layer", "block_count", "num_hidden_layers"),
    HParam("n_ctx", "context_length", "max_position_embeddings", default=2048),
    HParam("n_embd", "embedding_length", "hidden_size"),
    HParam("n_ff", "feed_forward_length", "intermediate_size"),
    HParam("n_head", "attention.head_count", "num_attention_heads"),
    HParam("n_head_kv", "attention.head_count_kv", "num_key_value_heads", default=lambda h: h["n_head"]),
    HParam(
        "head_dim",
        "attention.key_length",
        "head_dim",
        default=lambda h: h["n_embd"] // h["n_head"],
        copies=("attention.value_length",),
    ),
    HParam("n_rot", "rope.dimension_count", None, default=lambda h: h["head_dim"]),
    HParam("n_vocab", "vocab_size", "vocab_size"),
    *ROPE_HPARAMS,
)

# Keys of config.json that describe training, serving or the file itself, not what the model computes.
INERT_KEYS = PRETRAINED_KEYS | {
    "attention_dropout",
    "initializer_range",
    "is_llama_config",
    "pretraining_tp",  # splits the same matrix products over devices
    "rope_interleaved",  # a note of SmolLM's trainer; LlamaForCausalLM does not read it
    "use_cache",
}


def llama3_rope_freqs(h: HParams) -> npt.NDArray[np.float32]:
    """``rope_freqs.weight`` of a model with Llama 3's scaling."""
    context = h["llama3_context"]
    return llama3_factors(h["rope_base"], h["n_rot"], h["llama3_factor"], h["llama3_low"], h["llama3_high"], context)


def recover_llama3(h: HParams, read: Callable[[str], npt.NDArray[np.float32]]) -> HParams:
    """Llama 3's scaling from the factors alone, for files that we did not write."""
    if not h["rope_freqs"] or "llama3_factor" in h:
        return {}
    factor, low, high, context = recognise_llama3(read("rope_freqs.weight"), h["rope_base"])
    return {"llama3_factor": factor, "llama3_low": low, "llama3_high": high, "llama3_context": int(context)}


LLAMA = ArchSpec(
    name="llama",
    hf_names=("LlamaForCausalLM",),
    hparams=(
        *COMMON_HPARAMS,
        HParam("norm_eps", "attention.layer_norm_rms_epsilon", "rms_norm_eps", float, 1e-6),
        HParam("attention_bias", None, "attention_bias", bool, False, present="blk.0.attn_q.bias"),
        HParam("mlp_bias", None, "mlp_bias", bool, False, present="blk.0.ffn_up.bias"),
        HParam("untied", None, "!tie_word_embeddings", bool, True, present="output.weight"),
    ),
    tensors=(
        TensorRule(None, "rope_freqs.weight", ("n_rot/2",), when="rope_freqs", make=llama3_rope_freqs),
        TensorRule("model.embed_tokens.weight", "token_embd.weight", ("n_vocab", "n_embd")),
        TensorRule("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight", ("n_embd",)),
        TensorRule(
            "model.layers.{i}.self_attn.q_proj.weight",
            "blk.{i}.attn_q.weight",
            ("n_head*head_dim", "n_embd"),
            via=RopePermute(),
        ),
        TensorRule(
            "model.layers.{i}.self_attn.q_proj.bias",
            "blk.{i}.attn_q.bias",
            ("n_head*head_dim",),
            via=RopePermute(),
            when="attention_bias",
        ),
        TensorRule(
            "model.layers.{i}.self_attn.k_proj.weight",
            "blk.{i}.attn_k.weight",
            ("n_head_kv*head_dim", "n_embd"),
            via=RopePermute(),
        ),
        TensorRule(
            "model.layers.{i}.self_attn.k_proj.bias",
            "blk.{i}.attn_k.bias",
            ("n_head_kv*head_dim",),
            via=RopePermute(),
            when="attention_bias",
        ),
        TensorRule(
            "model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight", ("n_head_kv*head_dim", "n_embd")
        ),
        TensorRule(
            "model.layers.{i}.self_attn.v_proj.bias",
            "blk.{i}.attn_v.bias",
            ("n_head_kv*head_dim",),
            when="attention_bias",
        ),
        TensorRule(
            "model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight", ("n_embd", "n_head*head_dim")
        ),
        TensorRule(
            "model.layers.{i}.self_attn.o_proj.bias", "blk.{i}.attn_output.bias", ("n_embd",), when="attention_bias"
        ),
        TensorRule("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight", ("n_embd",)),
        TensorRule("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight", ("n_ff", "n_embd")),
        TensorRule("model.layers.{i}.mlp.gate_proj.bias", "blk.{i}.ffn_gate.bias", ("n_ff",), when="mlp_bias"),
        TensorRule("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight", ("n_ff", "n_embd")),
        TensorRule("model.layers.{i}.mlp.up_proj.bias", "blk.{i}.ffn_up.bias", ("n_ff",), when="mlp_bias"),
        TensorRule("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight", ("n_embd", "n_ff")),
        TensorRule("model.layers.{i}.mlp.down_proj.bias", "blk.{i}.ffn_down.bias", ("n_embd",), when="mlp_bias"),
        TensorRule("model.norm.weight", "output_norm.weight", ("n_embd",)),
        TensorRule("lm_head.weight", "output.weight", ("n_vocab", "n_embd"), when="untied"),
    ),
    graph=Graph(norm="rms", activation="silu", ffn="gated", rope="norm"),
    ignore=("model.layers.{i}.self_attn.rotary_emb.inv_freq",),
    config_values=MappingProxyType({"hidden_act": ("silu", "swish")}),
    config_inert=INERT_KEYS,
    config_constants=MappingProxyType(
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    ),
    recover=recover_llama3,
)

# The same graph; only what Transformers assumes for absent keys differs (MistralConfig).
MISTRAL = replace(
    LLAMA,
    hf_names=("MistralForCausalLM",),
    config_defaults=MappingProxyType(
        {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
    ),
    window_key="sliding_window",
)
