"""Hunyuan with experts (A13B)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import Via, key
from gguflike.families.decoder import attention, decoder, exported, pre_norm, qk_norms, rope_of
from gguflike.families.hunyuan import HUNYUAN, Hunyuan
from gguflike.families.mixture import ROUTER_KEYS, expert_names, experts, shared, shared_names
from gguflike.families.parts import Graph
from gguflike.families.parts.experts import Router
from gguflike.frozen import frozen, replace


def _alike(_: Any, value: Any) -> Any:
    """One number, which config.json may say for each layer."""
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        return value[0]
    if isinstance(value, list):
        raise ValueError("the same number for all layers")
    return value


def _layers_alike(gguf: str, config: str, name: str, **changes: Any) -> Any:
    return key(gguf, config, via=Via(read=_alike, write=lambda c: getattr(c, name)), **changes)


@frozen
class HunyuanMoe(Hunyuan):
    """Hyper-parameters, alike in all layers."""

    n_expert: int = _layers_alike("expert_count", "num_experts", "n_expert")
    n_expert_used: int = _layers_alike("expert_used_count", "moe_topk", "n_expert_used")
    n_ff_expert: int = _layers_alike(
        "expert_feed_forward_length", "moe_intermediate_size", "n_ff_expert", default=lambda c: c.n_ff
    )
    n_shared: int = _layers_alike("expert_shared_count", "num_shared_expert", "n_shared", default=1)
    n_ff_shared: int = key("expert_shared_feed_forward_length", None, default=lambda c: c.n_ff * c.n_shared)


def hunyuan_moe(c: HunyuanMoe) -> Graph:
    """Hunyuan's graph with experts and a shared one."""
    mixer = attention(c, rope_of(c, "neox"), **qk_norms(c), norm_after_rope=True)
    block = pre_norm(c, mixer, experts(c, Router(), shared=shared(c, c.n_ff_shared)))
    return decoder(c, lambda _: block)


HUNYUAN_MOE = replace(
    HUNYUAN,
    name="hunyuan-moe",
    config=HunyuanMoe,
    graph=hunyuan_moe,
    origins=MappingProxyType({**HUNYUAN.origins, **expert_names(router="gate.wg"), **shared_names("mlp.shared_mlp")}),
    implemented=MappingProxyType(
        {**HUNYUAN.implemented, "moe_layer_num_skipped": (0,), "use_mixed_mlp_moe": (True,), "norm_topk_prob": (True,)}
    ),
    inert=HUNYUAN.inert
    | ROUTER_KEYS
    | {"capacity_factor", "moe_drop_tokens", "moe_random_routing_dropped_token", "group_limited_greedy"}
    | {"n_group", "topk_group", "routed_scaling_factor", "num_media_embeds"},
    constants=exported("HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe"),
)
