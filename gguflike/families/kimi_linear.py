"""Kimi Linear: Kimi's delta attention, and in every fourth layer latent attention that turns nothing."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.config import Via, key
from gguflike.families.decoder import INERT_KEYS, SILU, decoder, exported, feed_forward, rms
from gguflike.families.deepseek import DEEPSEEK_V3, DeepSeek, latent_attention, mixture, norm_notices
from gguflike.families.family import Family
from gguflike.families.hybrid import with_layer_types
from gguflike.families.mixture import ROUTER_KEYS, SIGMOID, dense_lead, gating, unsaid_is_one_dense
from gguflike.families.origins import Either, Named, Origin, Stacked, Turned
from gguflike.families.parts import Block, Branch, Graph, Mixer
from gguflike.families.parts.recurrent import KimiDelta
from gguflike.families.transforms import NegExp, Unsqueezed
from gguflike.frozen import frozen, replace


def _as_many(c: Any, heads: Any) -> Any:
    if heads != c.n_head:
        raise ValueError(f"{c.n_head}, num_attention_heads, which GGUF has for all layers")
    return heads


@frozen
class KimiLinear(DeepSeek):
    """Hyper-parameters: layers with a key head attend, the others have delta attention of ``n_head`` heads."""

    n_ctx: int = key("context_length", ("model_max_length", "max_position_embeddings"), default=2048)
    n_head_kv: tuple[int, ...] = key(  # type: ignore[assignment]
        "attention.head_count_kv", "num_key_value_heads", array=True
    )
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    n_expert: int = key("expert_count", ("num_experts", "num_local_experts"))
    n_expert_used: int = key("expert_used_count", ("num_experts_per_token", "num_experts_per_tok"))
    n_dense: int = dense_lead("mlp_layer_types", "first_k_dense_replace")
    n_shared: int = key("expert_shared_count", ("num_shared_experts", "n_shared_experts"), default=0, zero=True)
    normalize: bool = key("expert_weights_norm", ("moe_renormalize", "norm_topk_prob"), default=True, implied=True)
    gating: int = gating(SIGMOID)
    n_groups: int | None = key("expert_group_count", ("num_expert_group", "n_group"))
    kernel: int = key("ssm.conv_kernel", "linear_conv_kernel_dim", default=4)
    delta_dim: int = key("kda.head_dim", "linear_head_dim", default=128)
    delta_heads: int = key(None, "linear_num_heads", default=lambda c: c.n_head, via=Via(_as_many, lambda c: c.n_head))


def kimi_linear(c: KimiLinear) -> Graph:
    """Pre-norm blocks; experts after the first dense layers."""
    latent = replace(latent_attention(c), rope=None)
    delta = KimiDelta(c.n_embd, c.n_head, c.delta_dim, c.kernel, rms(c, "ssm_norm", c.delta_dim))

    def block(layer: int) -> Block:
        first: Mixer = latent if c.n_head_kv[layer] else delta
        second = feed_forward(c) if layer < c.n_dense else mixture(c, "top2")
        return Branch(rms(c, "attn_norm"), first), Branch(rms(c, "ffn_norm"), second)

    return decoder(c, block)


# Of ``linear_attn_config`` as published -> in Transformers' words.
_DELTA = {
    "head_dim": "linear_head_dim",
    "num_heads": "linear_num_heads",
    "short_conv_kernel_size": "linear_conv_kernel_dim",
}


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json in Transformers' words, with a key head for each layer that attends and none for the others."""
    made = {key: value for key, value in values.items() if key not in ("head_dim", "qk_head_dim")}
    given = made.pop("linear_attn_config", None)
    layers = made.get("num_hidden_layers")
    if isinstance(given, dict):
        made |= {name: given[published] for published, name in _DELTA.items() if published in given}
        attending, others = given.get("full_attn_layers"), given.get("kda_layers")
        if isinstance(attending, list) and isinstance(layers, int):
            if isinstance(others, list) and sorted(attending + others) != list(range(1, layers + 1)):
                raise UnsupportedError(
                    "layers that are of no kind, or of both",
                    field="config.json: linear_attn_config",
                    expected=f"each of 1 to {layers} in full_attn_layers or in kda_layers",
                    got=f"{attending} and {others}"[:80],
                )
            made["layer_types"] = [_kind(layer + 1 in attending) for layer in range(layers)]
    if made.get("layer_types") is None and isinstance(layers, int):
        made["layer_types"] = [_kind(layer > 0 and layer % 4 == 0) for layer in range(layers)]
    made["num_key_value_heads"] = [int(kind == "full_attention") for kind in made.pop("layer_types", None) or ()]
    return unsaid_is_one_dense(made)


def _kind(attends: bool) -> str:
    return "full_attention" if attends else "linear_attention"


def spelled(config: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, with as many key heads as query heads, as the checkpoint's form has."""
    made = with_layer_types(config, "full_attention", "linear_attention")
    made.setdefault("q_lora_rank", None)  # which is not what its absence means
    return {**made, "num_key_value_heads": made["num_attention_heads"]}


def _conv(name: str) -> Origin:
    """The weight of a convolution, which may lack the axis between."""
    return Turned((Stacked(name), Stacked(name, Unsqueezed())))


_MOE = "block_sparse_moe"
_MLP = {
    f"ffn_{role}": Either((Named(f"{_MOE}.{role}_proj"), Named(f"mlp.{role}_proj"))) for role in ("gate", "up", "down")
}
KIMI_LINEAR = Family(
    name="kimi-linear",
    config=KimiLinear,
    graph=kimi_linear,
    origins=MappingProxyType(
        {
            **DEEPSEEK_V3.origins,
            **_MLP,  # Transformers 5 saves the first layer's by the name of the others'
            "ffn_gate_inp": Named(f"{_MOE}.gate"),
            "exp_probs_b": Named(f"{_MOE}.gate.e_score_correction_bias", bare=True),
            "ffn_gate_exps": Stacked(f"{_MOE}.experts.{{e}}.w1"),
            "ffn_up_exps": Stacked(f"{_MOE}.experts.{{e}}.w3"),
            "ffn_down_exps": Stacked(f"{_MOE}.experts.{{e}}.w2"),
            **{f"ffn_{role}_shexp": Named(f"{_MOE}.shared_experts.{role}_proj") for role in ("gate", "up", "down")},
            **{f"ssm_conv1d_{name}": _conv(f"self_attn.{name}_conv1d") for name in "qkv"},
            "ssm_f_a": Named("self_attn.f_a_proj"),
            "ssm_f_b": Named("self_attn.f_b_proj"),
            "ssm_dt.bias": Named("self_attn.dt_bias", bare=True),
            "ssm_a": Named("self_attn.A_log", NegExp(), bare=True),
            "ssm_beta": Named("self_attn.b_proj"),
            "ssm_g_a": Named("self_attn.g_a_proj"),
            "ssm_g_b": Named("self_attn.g_b_proj"),
            "ssm_norm": Named("self_attn.o_norm"),
        }
    ),
    implemented=MappingProxyType(
        {
            **SILU,
            "attention_bias": (False,),
            "mla_use_nope": (True,),
            "moe_layer_freq": (1,),
            "moe_router_activation_func": ("sigmoid",),
            "use_grouped_topk": (True,),
        }
    ),
    inert=INERT_KEYS | ROUTER_KEYS | {"rope_theta", "rope_scaling", "rope_parameters"},
    constants=exported("KimiLinearForCausalLM", "kimi_linear"),
    normalized=normalized,
    spelled=spelled,
    notices=norm_notices,
)
