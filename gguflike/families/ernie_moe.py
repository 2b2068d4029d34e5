"""ERNIE 4.5 with experts: softmax routers with a bias of the choice, on some of the layers."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import attention, decoder, exported, feed_forward, pre_norm, rope_of
from gguflike.families.ernie import ERNIE, Ernie
from gguflike.families.mixture import ROUTER_KEYS, expert_names, experts, one_row, shared, shared_names
from gguflike.families.parts import Block, Graph
from gguflike.families.parts.experts import Router
from gguflike.frozen import frozen, replace


@frozen
class ErnieMoe(Ernie):
    """Hyper-parameters: every ``step``-th layer has experts, from ``n_dense`` on."""

    n_expert: int = key("expert_count", ("moe_num_experts", "num_experts"))
    n_expert_used: int = key("expert_used_count", ("moe_k", "num_experts_per_tok"))
    n_ff_expert: int = key("expert_feed_forward_length", "moe_intermediate_size")
    step: int = key("interleave_moe_layer_step", "moe_layer_interval", default=1)
    n_dense: int = key("leading_dense_block_count", "moe_layer_start_index", default=0, zero=True)
    n_shared: int = key("expert_shared_count", "moe_num_shared_experts", default=0, zero=True)
    # llama.cpp's converter divides the size of feed-forwards by the heads of keys, which gives the same in all models.
    n_ff_shared: int = key(
        "expert_shared_feed_forward_length", None, default=lambda c: c.n_ff_expert * c.n_shared, zero=True
    )


def ernie_moe(c: ErnieMoe) -> Graph:
    """ERNIE's graph, with experts and shared ones in place of some feed-forwards."""
    mixer = attention(c, rope_of(c, "norm"))
    mixture = experts(c, Router(choice_bias="exp_probs_b.bias"), shared=shared(c, c.n_ff_shared))

    def block(layer: int) -> Block:
        has_experts = layer >= c.n_dense and (layer + 1) % c.step == 0
        return pre_norm(c, mixer, mixture if has_experts else feed_forward(c))

    return decoder(c, block)


def _to_the_end(values: dict[str, object]) -> dict[str, object]:
    """config.json without the last layer with experts where that is the last of all."""
    last, layers = values.get("moe_layer_end_index"), values.get("num_hidden_layers")
    is_last = isinstance(last, int) and isinstance(layers, int) and (last == -1 or last >= layers - 1)
    return {key: value for key, value in values.items() if key != "moe_layer_end_index"} if is_last else dict(values)


ERNIE_MOE = replace(
    ERNIE,
    name="ernie4_5-moe",
    config=ErnieMoe,
    graph=ernie_moe,
    origins=MappingProxyType(
        {
            **ERNIE.origins,
            **expert_names(),
            **shared_names("mlp.shared_experts"),
            "exp_probs_b": one_row("mlp.moe_statics.e_score_correction_bias", bare=True),
        }
    ),
    implemented=MappingProxyType({**ERNIE.implemented, "use_bias": (False,)}),  # of logits and of shared experts, too
    left_out=MappingProxyType({r"model\.mtp_": "what predicts further tokens"}),
    inert=ERNIE.inert | ROUTER_KEYS | {"moe_norm_min", "moe_capacity", "moe_gate", "moe_use_aux_free"},
    constants=exported("Ernie4_5_MoeForCausalLM", "ernie4_5_moe"),
    normalized=_to_the_end,
)
