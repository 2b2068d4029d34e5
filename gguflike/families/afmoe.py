"""Trinity (AFMoE): sandwich norms, gated attention, windows, experts behind the first layers."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    QK_NAMES,
    SILU,
    attention,
    decoder,
    exported,
    qk_norms,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import ROUTER_KEYS, dense_lead, expert_names, shared_names
from gguflike.families.origins import Named
from gguflike.families.parts import Block, Branch, Graph
from gguflike.families.sigmoid_moe import SigmoidMixture, sparse
from gguflike.families.windows import every, span, turned_notices, window, windowed
from gguflike.frozen import frozen


@frozen
class Afmoe(SigmoidMixture):
    """Hyper-parameters; only layers with a window turn queries and keys."""

    n_expert: int = key("expert_count", ("num_experts", "num_local_experts"))
    n_dense: int = dense_lead("num_dense_layers")
    n_shared: int = key("expert_shared_count", "num_shared_experts", default=1, zero=True)
    expert_scale: float = key("expert_weights_scale", "route_scale", default=1.0)
    normalize: bool = key("expert_weights_norm", "route_norm", default=True)
    n_groups: int = key("expert_group_count", "n_group", default=1, implied=True)
    n_groups_used: int = key("expert_group_used_count", "topk_group", default=1, implied=True)
    window: int = window()
    windowed: tuple[bool, ...] = windowed(every(4))


def afmoe(c: Afmoe) -> Graph:
    """Embeddings times the root of their size; norms before and behind attention and what follows it."""
    rope = rope_of(c, "neox")

    def block(layer: int) -> Block:
        turned = rope if c.windowed[layer] else None
        mixer = attention(c, turned, window=span(c, layer), gate="element", **qk_norms(c))
        return (
            Branch(rms(c, "attn_norm"), mixer, rms(c, "post_attention_norm")),
            Branch(rms(c, "ffn_norm"), sparse(c, layer), rms(c, "post_ffw_norm")),
        )

    return decoder(c, block, embedding_scale=c.n_embd**0.5)


AFMOE = Family(
    name="afmoe",
    config=Afmoe,
    graph=afmoe,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **QK_NAMES,
            **expert_names(router="router.gate"),
            **shared_names("mlp.shared_experts"),
            "attn_gate": Named("self_attn.gate_proj"),
            "post_attention_norm": Named("post_attention_layernorm"),
            "ffn_norm": Named("pre_mlp_layernorm"),
            "post_ffw_norm": Named("post_mlp_layernorm"),
            "exp_probs_b": Named("mlp.expert_bias", bare=True),
        }
    ),
    implemented=MappingProxyType({**SILU, "mup_enabled": (True,), "score_func": ("sigmoid",)}),
    inert=INERT_KEYS
    | ROUTER_KEYS
    | {"global_attn_every_n_layers", "load_balance_coeff", "use_grouped_mm"}
    | {"num_expert_groups", "num_limited_groups"},
    constants=exported("AfmoeForCausalLM", "afmoe", mup_enabled=True),
    notices=lambda c: turned_notices(c, c.windowed),
)
