"""Command with experts (North): parallel blocks behind one norm, shared experts averaged with the others."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families import mtp
from gguflike.families.cohere import Cohere2
from gguflike.families.config import key
from gguflike.families.decoder import DECODER_NAMES, INERT_KEYS, SILU, attention, decoder, exported, rope_of
from gguflike.families.family import Family
from gguflike.families.layernorm import layer_norm, parallel
from gguflike.families.mixture import (
    ROUTER_KEYS,
    SCORINGS,
    SIGMOID,
    dense_lead,
    expert_names,
    experts,
    gating,
    shared,
    shared_names,
)
from gguflike.families.parts import Block, FeedForward, Graph
from gguflike.families.parts.experts import Router
from gguflike.families.windows import windowed, without_window
from gguflike.frozen import frozen


def _all_but_first(c: Any) -> tuple[bool, ...]:
    """All layers but the first of every four."""
    return tuple(layer % 4 > 0 for layer in range(c.n_layer))


@frozen
class CohereMoe(mtp.Headed, Cohere2):
    """Hyper-parameters; layers without experts, those with a window, and those of heads turn queries and keys."""

    n_ff: int = key("feed_forward_length", ("prefix_dense_intermediate_size", "intermediate_size"))
    n_expert: int = key("expert_count", ("num_experts", "num_local_experts"))
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok")
    n_ff_expert: int = key("expert_feed_forward_length", "intermediate_size")
    n_dense: int = dense_lead("mlp_layer_types", "first_k_dense_replace")
    n_shared: int = key("expert_shared_count", "num_shared_experts", default=0, zero=True, implied=True)
    n_ff_shared: int = key(
        "expert_shared_feed_forward_length",
        None,
        default=lambda c: c.n_ff_expert * c.n_shared,
        zero=True,
    )
    normalize: bool = key("expert_weights_norm", "norm_topk_prob", default=False)
    gating: int = gating(SIGMOID)
    windowed: tuple[bool, ...] = windowed(_all_but_first, implied=without_window)


def cohere_moe(c: CohereMoe) -> Graph:
    """Attention beside experts."""
    rope = rope_of(c, "norm")
    router = Router(SCORINGS[c.gating], normalize=c.normalize)
    mixture = experts(c, router, shared=shared(c, c.n_ff_shared), total_scale=0.5 if c.n_ff_shared else 1.0)

    norm = layer_norm(c, "attn_norm", bias=False)

    def block(layer: int) -> Block:
        is_dense = layer < c.n_dense
        turned = rope if is_dense or c.windowed[layer] else None
        mixer = attention(c, turned, window=c.window if c.windowed[layer] else 0)
        return parallel(norm, mixer, FeedForward(c.n_embd, c.n_ff) if is_dense else mixture)

    of_head = parallel(norm, attention(c, rope), mixture)
    graph = decoder(c, block, layer_norm(c, "output_norm", bias=False), scale=c.logit_scale)
    return mtp.with_mtp(c, graph, lambda _: of_head)


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the kinds of layers: where it lacks them, those without experts see everything, and so does
    every so many-th of the others."""
    layers: Any = values.get("num_hidden_layers")
    first, period = values.get("first_k_dense_replace") or 0, values.get("sliding_window_pattern", 4)
    numbers = all(isinstance(value, int) for value in (layers, first, period)) and period > 0
    if values.get("layer_types") is not None or not numbers:
        return dict(values)
    kinds = [
        "full_attention" if layer < first or (layer - first + 1) % period == 0 else "sliding_attention"
        for layer in range(layers)
    ]
    return {**values, "layer_types": kinds}


COHERE_MOE = Family(
    name="cohere2moe",
    config=CohereMoe,
    graph=cohere_moe,
    origins=MappingProxyType({**DECODER_NAMES, **expert_names(), **shared_names("mlp.shared_experts")}),
    mtp_origins=mtp.MTP_NAMES,
    implemented=MappingProxyType(
        {
            **SILU,
            "expert_selection_fn": ("sigmoid",),
            "shared_expert_combination_strategy": ("average",),
            "prefix_dense_sliding_window_pattern": (1,),
            "rms_norm_eps": (None,),
        }
    ),
    inert=INERT_KEYS | ROUTER_KEYS | {"cache_implementation", "sliding_window_pattern"},  # layer_types says it
    constants=exported("Cohere2MoeForCausalLM", "cohere2_moe", expert_selection_fn="sigmoid"),
    normalized=normalized,
)
