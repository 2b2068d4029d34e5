"""Laguna, poolside's models: gated attention, windows, and experts behind a router of sigmoids."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    QK_NAMES,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    qk_norms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import (
    ROUTER_KEYS,
    SCORINGS,
    SIGMOID,
    Mixture,
    dense_lead,
    expert_names,
    experts,
    gating,
    shared,
    shared_names,
)
from gguflike.families.origins import Named
from gguflike.families.parts import Block, Graph
from gguflike.families.parts.experts import Router
from gguflike.families.windows import idle_notices, partial, span, unsaid_is_full, window, windowed, without_window
from gguflike.frozen import frozen

# What config.json says of the gate -> what the part has.
_GATES = {True: "head", "per-head": "head", "per-element": "element"}


def _gate(_: Any, value: Any) -> str:
    if not isinstance(value, bool | str) or value not in _GATES:
        raise ValueError(f"one of {', '.join(map(repr, _GATES))}")
    return _GATES[value]


@frozen
class Laguna(Mixture):
    """Hyper-parameters. Numbers of query heads differ between layers; those with a window turn queries and keys by
    angles of their own, which are not stretched. ``gate`` is "head" or "element", as of `parts.Attention`; where files
    do not say, it is the former in models with windows."""

    n_head: tuple[int, ...] = key(  # type: ignore[assignment]
        "attention.head_count", ("num_attention_heads_per_layer", "num_attention_heads"), array=True
    )
    n_head_kv: int = key("attention.head_count_kv", "num_key_value_heads", default=8)
    head_dim: int = key("attention.key_length", "head_dim", default=128, copies=("attention.value_length",))
    n_rot: int = partial()
    n_dense: int = dense_lead("mlp_layer_types", default=1)
    n_ff_shared: int = key("expert_shared_feed_forward_length", "shared_expert_intermediate_size", default=512)
    expert_scale: float = key("expert_weights_scale", "moe_routed_scaling_factor", default=1.0)
    normalize: bool = key("expert_weights_norm", None, default=True)
    gating: int = gating(SIGMOID)
    window: int = window()
    windowed: tuple[bool, ...] = windowed(lambda c: tuple(layer % 4 > 0 for layer in range(c.n_layer)))
    rope_base_window: float = key(
        "rope.freq_base_swa", "rope.sliding.theta", default=lambda c: c.rope_base, implied=without_window
    )
    n_rot_window: int = key(
        "rope.dimension_count_swa",
        "rope.sliding.partial_rotary_factor",
        default=lambda c: c.head_dim,
        implied=without_window,
        via=Via(lambda c, share: int(share * c.head_dim), lambda c: c.n_rot_window / c.head_dim),
    )
    gate: str = key(
        "gguflike.attention.gate",
        "gating",
        default=lambda c: "head" if c.window else "element",
        implied=True,
        via=Via(_gate, lambda c: c.gate == "head" or "per-element"),
    )


def laguna(c: Laguna) -> Graph:
    """Queries and keys normalized per head; what the heads found is multiplied by softplus of a gate."""
    full = rope_of(c, "neox")
    near = rope_of(c, "neox", n_rot=c.n_rot_window, base=c.rope_base_window, scaling=None, divisors=())
    router = Router(SCORINGS[c.gating], c.normalize, c.expert_scale, choice_bias="exp_probs_b.bias")
    mixture = experts(c, router, shared=shared(c, c.n_ff_shared))

    def block(layer: int) -> Block:
        mixer = attention(
            c,
            near if c.windowed[layer] else full,
            heads=c.n_head[layer],
            window=span(c, layer),
            gate=c.gate,
            gate_activation="softplus",
            **qk_norms(c),
        )
        return pre_norm(c, mixer, feed_forward(c) if layer < c.n_dense else mixture)

    return decoder(c, block)


LAGUNA = Family(
    name="laguna",
    config=Laguna,
    graph=laguna,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **QK_NAMES,
            **expert_names(),
            **shared_names("mlp.shared_expert"),
            "attn_gate": Named("self_attn.g_proj"),
            "exp_probs_b": Named("mlp.experts.e_score_correction_bias", bare=True),
        }
    ),
    implemented=MappingProxyType(
        {**SILU, "moe_apply_router_weight_on_input": (False,), "moe_router_logit_softcapping": (0.0,)}
    ),
    inert=INERT_KEYS | ROUTER_KEYS,
    normalized=unsaid_is_full,
    notices=idle_notices,
    constants=exported("LagunaForCausalLM", "laguna"),
    spelled=lambda values: {**values, "num_attention_heads": values["num_attention_heads_per_layer"][0]},
)
