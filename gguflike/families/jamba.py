"""Jamba: Mamba in most layers, attention without rotation in the others, experts in some."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import Via, key
from gguflike.families.decoder import DECODER_NAMES, INERT_KEYS, SILU, attention, decoder, exported, feed_forward, rms
from gguflike.families.family import Family
from gguflike.families.hybrid import Hybrid, mamba_origins, with_layer_heads
from gguflike.families.mixture import enough
from gguflike.families.origins import Named, Stacked
from gguflike.families.parts import Block, Branch, Graph, Mixer, Norm
from gguflike.families.parts.experts import Experts, Router
from gguflike.families.parts.recurrent import Mamba
from gguflike.frozen import frozen


@frozen
class Jamba(Hybrid):
    """Hyper-parameters. Layer i has experts where ``i % expert_period == expert_offset``."""

    kernel: int = key("ssm.conv_kernel", "mamba_d_conv", default=4)
    d_state: int = key("ssm.state_size", "mamba_d_state", default=16)
    dt_rank: int = key("ssm.time_step_rank", "mamba_dt_rank", default=lambda c: -(-c.n_embd // 16))
    inner: int = key(
        "ssm.inner_size",
        "mamba_expand",
        default=lambda c: 2 * c.n_embd,
        via=Via(read=lambda c, factor: int(c.n_embd * factor), write=lambda c: c.inner // c.n_embd),
    )
    n_expert: int = key("expert_count", "num_experts", default=16)
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=2)
    # llama.cpp asks which tensors a layer has; all published models have these.
    expert_period: int = key("gguflike.expert_layer_period", "expert_layer_period", default=2)
    expert_offset: int = key("gguflike.expert_layer_offset", "expert_layer_offset", default=1, zero=True)


def _norm(c: Jamba, role: str, size: int) -> Norm:
    return Norm(role, size, c.norm_eps)


def jamba(c: Jamba) -> Graph:
    """Pre-norm blocks of either mixer and of either feed-forward."""
    scan = Mamba(
        c.n_embd,
        c.inner,
        c.d_state,
        c.dt_rank,
        c.kernel,
        _norm(c, "ssm_dt_norm", c.dt_rank),
        _norm(c, "ssm_b_norm", c.d_state),
        _norm(c, "ssm_c_norm", c.d_state),
    )
    mixers: tuple[Mixer, Mixer] = (scan, attention(c, None, kv_heads=c.key_heads))
    dense: Mixer = feed_forward(c)
    sparse = Experts(c.n_embd, c.n_ff, c.n_expert, c.n_expert_used, Router(normalize=False))

    def block(layer: int) -> Block:
        has_experts = c.n_expert > 1 and layer % c.expert_period == c.expert_offset
        return (
            Branch(rms(c, "attn_norm"), mixers[c.n_head_kv[layer] > 0]),
            Branch(rms(c, "ffn_norm"), enough(sparse) if has_experts else dense),
        )

    return decoder(c, block)


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with a number of key heads for each layer."""
    made = {name: value for name, value in values.items() if (name, value) != ("mamba_dt_rank", "auto")}
    period, offset = made.pop("attn_layer_period", 8), made.pop("attn_layer_offset", 4)
    layers = range(made.get("num_hidden_layers") or 0)
    return with_layer_heads(made, [layer % period == offset for layer in layers])


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite: the distance of layers that attend, and the first of them."""
    heads = values["num_key_value_heads"]
    attends = [layer for layer, number in enumerate(heads) if number]
    first = attends[0] if attends else len(heads)
    period = attends[1] - first if len(attends) > 1 else len(heads) + 1
    return {
        **values,
        "num_key_value_heads": max(heads),
        "attn_layer_period": period,
        "attn_layer_offset": first,
    }


JAMBA = Family(
    name="jamba",
    config=Jamba,
    graph=jamba,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **mamba_origins("mamba"),
            "ffn_norm": Named("pre_ff_layernorm"),
            "ffn_gate": Named("feed_forward.gate_proj"),
            "ffn_up": Named("feed_forward.up_proj"),
            "ffn_down": Named("feed_forward.down_proj"),
            "ffn_gate_inp": Named("feed_forward.router"),
            "ffn_gate_exps": Stacked("feed_forward.experts.{e}.gate_proj"),
            "ffn_up_exps": Stacked("feed_forward.experts.{e}.up_proj"),
            "ffn_down_exps": Stacked("feed_forward.experts.{e}.down_proj"),
            "output_norm": Named("model.final_layernorm"),
        }
    ),
    implemented=MappingProxyType({**SILU, "mamba_conv_bias": (True,), "mamba_proj_bias": (False,)}),
    inert=INERT_KEYS
    | {
        "calc_logits_for_entire_prompt",
        "n_ctx",
        "num_logits_to_keep",
        "output_router_logits",
        "router_aux_loss_coef",
        "sliding_window",
        "use_associative_scan",
        "use_mamba_kernels",
        "use_mambapy",
    },
    constants=exported("JambaForCausalLM", "jamba"),
    normalized=normalized,
    spelled=spelled,
)
