"""LFM2: gated short convolutions, and attention in a few layers."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import DECODER_NAMES, INERT_KEYS, attention, decoder, feed_forward, rms, rope_of
from gguflike.families.family import Family
from gguflike.families.hybrid import Hybrid, attending, with_layer_heads, with_layer_types
from gguflike.families.mixture import SIGMOID, experts
from gguflike.families.origins import Named, Stacked
from gguflike.families.parts import Block, Branch, Graph, Mixer
from gguflike.families.parts.experts import Router
from gguflike.families.parts.recurrent import ShortConv
from gguflike.families.transforms import Squeezed
from gguflike.frozen import frozen, replace


@frozen
class Lfm2(Hybrid):
    """Hyper-parameters; ``kernel`` is in tokens."""

    kernel: int = key("shortconv.l_cache", "conv_L_cache", default=3)
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "norm_eps", default=1e-5)
    conv_bias: bool = key(None, "conv_bias", default=False, tensor="blk.0.shortconv.conv.bias")


def mixer_of(c: Lfm2, layer: int) -> Mixer:
    """Attention with normalized queries and keys, or a short convolution."""
    if not c.n_head_kv[layer]:
        return ShortConv(c.n_embd, c.kernel, bias=c.conv_bias)
    norms = (rms(c, "attn_q_norm", c.head_dim), rms(c, "attn_k_norm", c.head_dim))
    return attention(c, rope_of(c, "neox"), kv_heads=c.key_heads, q_norm=norms[0], k_norm=norms[1])


def lfm2(c: Lfm2) -> Graph:
    """Pre-norm blocks; the last norm is called as if it were the embedding's."""

    def block(layer: int) -> Block:
        return (
            Branch(rms(c, "attn_norm"), mixer_of(c, layer)),
            Branch(rms(c, "ffn_norm"), feed_forward(c)),
        )

    return decoder(c, block, rms(c, "token_embd_norm"))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the sizes that its rules give."""
    made = dict(values)
    if "tie_embedding" in made:
        made["tie_word_embeddings"] = made.pop("tie_embedding")
    size = made.pop("block_ff_dim", made.get("intermediate_size"))
    multiple, factor = made.pop("block_multiple_of", 256), made.pop("block_ffn_dim_multiplier", 1.0)
    if made.pop("block_auto_adjust_ff_dim", True) and isinstance(size, int):
        size = int((1.0 if factor is None else factor) * int(2 * size / 3))
        size = -(-size // multiple) * multiple
    made["intermediate_size"] = size
    indices = made.pop("full_attn_idxs", None)
    layers = range(made.get("num_hidden_layers") or 0)
    attends = attending(made) or [indices is None or layer in indices for layer in layers]
    made.pop("layer_types", None)
    return with_layer_heads(made, attends)


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite: the sizes as they are."""
    return {**with_layer_types(values, "full_attention", "conv"), "block_auto_adjust_ff_dim": False}


LFM2_NAMES = MappingProxyType(
    {
        **DECODER_NAMES,
        "token_embd_norm": Named("model.embedding_norm"),
        "attn_norm": Named("operator_norm"),
        "attn_q_norm": Named("self_attn.q_layernorm"),
        "attn_k_norm": Named("self_attn.k_layernorm"),
        "attn_output": Named("self_attn.out_proj"),
        "shortconv.in_proj": Named("conv.in_proj"),
        "shortconv.conv": Named("conv.conv"),
        "shortconv.conv.weight": Named("conv.conv", Squeezed()),
        "shortconv.out_proj": Named("conv.out_proj"),
        "ffn_norm": Named("ffn_norm"),
        "ffn_gate": Named("feed_forward.w1"),
        "ffn_down": Named("feed_forward.w2"),
        "ffn_up": Named("feed_forward.w3"),
    }
)
# What config.json still has of the trainer's own implementation.
LFM2_INERT = INERT_KEYS | {
    "block_dim",
    "block_mlp_init_scale",
    "block_norm_eps",
    "block_out_init_scale",
    "block_use_swiglu",
    "block_use_xavier_init",
    "conv_dim",
    "conv_dim_out",
    "conv_use_xavier_init",
    "num_heads",
    "use_pos_enc",
}

LFM2 = Family(
    name="lfm2",
    config=Lfm2,
    graph=lfm2,
    origins=LFM2_NAMES,
    inert=LFM2_INERT,
    constants=MappingProxyType({"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2"}),
    normalized=normalized,
    spelled=spelled,
)


@frozen
class Lfm2Moe(Lfm2):
    """Hyper-parameters; the first ``n_dense`` layers have no experts."""

    n_expert: int = key("expert_count", "num_experts")
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok")
    n_ff_expert: int = key("expert_feed_forward_length", "moe_intermediate_size")
    n_dense: int = key("leading_dense_block_count", "num_dense_layers", default=0, zero=True)
    gating: int = key("expert_gating_func", None, default=SIGMOID)


def lfm2moe(c: Lfm2Moe) -> Graph:
    """The same with experts behind the first layers."""
    router = Router("sigmoid", choice_bias="exp_probs_b.bias")
    sparse: Mixer = experts(c, router)

    def block(layer: int) -> Block:
        after = feed_forward(c) if layer < c.n_dense else sparse
        return (Branch(rms(c, "attn_norm"), mixer_of(c, layer)), Branch(rms(c, "ffn_norm"), after))

    return decoder(c, block, rms(c, "token_embd_norm"))


LFM2MOE = replace(
    LFM2,
    name="lfm2moe",
    config=Lfm2Moe,
    graph=lfm2moe,
    origins=MappingProxyType(
        {
            **LFM2_NAMES,
            "ffn_gate_inp": Named("feed_forward.gate"),
            "exp_probs_b": Named("feed_forward.expert_bias", bare=True),
            "ffn_gate_exps": Stacked("feed_forward.experts.{e}.w1"),
            "ffn_down_exps": Stacked("feed_forward.experts.{e}.w2"),
            "ffn_up_exps": Stacked("feed_forward.experts.{e}.w3"),
        }
    ),
    implemented=MappingProxyType(
        {"norm_topk_prob": (True,), "routed_scaling_factor": (1.0,), "use_expert_bias": (True,)}
    ),
    inert=LFM2_INERT | {"output_router_logits", "router_aux_loss_coef"},
    constants=MappingProxyType({"architectures": ["Lfm2MoeForCausalLM"], "model_type": "lfm2_moe"}),
    normalized=lambda values: normalized({**values, "block_auto_adjust_ff_dim": False}),
    spelled=lambda values: with_layer_types(values, "full_attention", "conv"),
)
