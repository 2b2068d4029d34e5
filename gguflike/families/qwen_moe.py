"""Qwen's models with experts, and OLMoE: softmax routers on pre-norm blocks, every layer of experts."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    QK_NAMES,
    SILU,
    Decoder,
    attention,
    decoder,
    exported,
    pre_norm,
    qk_norms,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import ROUTER_KEYS, Mixture, expert_names, experts, shared, shared_names
from gguflike.families.origins import Named, Stacked, Turned
from gguflike.families.parts import Graph
from gguflike.families.parts.experts import Router
from gguflike.families.qwen import VISION, check_switch, deepstack, sections
from gguflike.families.transforms import IDENTITY, Share, Transform, Transposed
from gguflike.frozen import frozen, replace

_QWEN = MappingProxyType(
    {
        **SILU,
        "decoder_sparse_step": (1,),
        "mlp_only_layers": ([],),
        "use_sliding_window": (False,),
    }
)
_INERT = INERT_KEYS | ROUTER_KEYS | {"sliding_window", "max_window_layers", "layer_types"}  # unused without the switch


def normalized(default: bool) -> Any:
    """The field of whether weights are divided by their sum: ``default`` in llama.cpp's graph of the architecture."""
    return key("expert_weights_norm", "norm_topk_prob", default=default, implied=True)


def notices(c: Any, default: bool) -> list[str]:
    """What llama.cpp computes otherwise."""
    does = "divides" if default else "does not divide"
    said = f"llama.cpp {does} the weights of experts by their sum in this architecture, unlike this model"
    return [] if c.normalize == default else [said]


@frozen
class Qwen3Moe(Mixture):
    """Qwen 3 with experts."""

    normalize: bool = normalized(True)


def qwen3moe(c: Qwen3Moe) -> Graph:
    """Queries and keys normalized per head; all layers have experts."""
    block = pre_norm(c, attention(c, rope_of(c, "neox"), **qk_norms(c)), experts(c, Router(normalize=c.normalize)))
    return decoder(c, lambda _: block)


QWEN3MOE = Family(
    name="qwen3moe",
    config=Qwen3Moe,
    graph=qwen3moe,
    origins=MappingProxyType({**DECODER_NAMES, **QK_NAMES, **expert_names()}),
    implemented=_QWEN,
    inert=_INERT,
    constants=exported("Qwen3MoeForCausalLM", "qwen3_moe"),
    notices=lambda c: notices(c, True),
)


@frozen
class Qwen3VLMoe(Qwen3Moe):
    """The text tower of Qwen3-VL with experts."""

    sections: tuple[int, ...] = sections((24, 20, 20, 0))
    deepstack: int = deepstack()


def _stack(role: str, name: str, published: Transform, saved: Transform) -> Turned:
    """The origin of the experts' matrices of a stack, which are transposed in published checkpoints, and not where
    Transformers saves one; an export has them one by one, as Qwen 3 does."""
    stacks = (Named(f"mlp.experts.{name}", via, bare=True) for via in (published, saved))
    return Turned((Stacked(f"mlp.experts.{{e}}.{role}_proj"), *stacks))


QWEN3VLMOE = replace(
    QWEN3MOE,
    name="qwen3vlmoe",
    config=Qwen3VLMoe,
    outer=("vision_config",),
    left_out=VISION,
    origins=MappingProxyType(
        {
            **QWEN3MOE.origins,
            "ffn_gate_exps": _stack("gate", "gate_up_proj", Share(index=0, transposed=True), Share(index=0)),
            "ffn_up_exps": _stack("up", "gate_up_proj", Share(index=1, transposed=True), Share(index=1)),
            "ffn_down_exps": _stack("down", "down_proj", Transposed(), IDENTITY),
        }
    ),
)


@frozen
class Qwen2Moe(Mixture):
    """Qwen 1.5 and 2 with experts, and one that all tokens share."""

    qkv_bias: bool = key(None, "qkv_bias", default=True, tensor="blk.0.attn_q.bias")
    n_ff_shared: int = key("expert_shared_feed_forward_length", "shared_expert_intermediate_size")
    normalize: bool = normalized(False)


def qwen2moe(c: Qwen2Moe) -> Graph:
    """Queries, keys and values have biases; the shared expert has a gate of its own."""
    mixture = experts(c, Router(normalize=c.normalize), shared=shared(c, c.n_ff_shared), shared_gate=True)
    block = pre_norm(c, attention(c, rope_of(c, "neox"), bias=c.qkv_bias, output_bias=False), mixture)
    return decoder(c, lambda _: block)


def _without_windows(values: dict[str, Any]) -> dict[str, Any]:
    """config.json, of which no layer may have a window, on or off: Transformers computes with one of no tokens where
    they are switched off. (It reads no ``layer_types`` of Qwen 3 with experts.)"""
    if not values.get("use_sliding_window"):
        check_switch({**values, "sliding_window": 0})
    return values


QWEN2MOE = Family(
    name="qwen2moe",
    config=Qwen2Moe,
    graph=qwen2moe,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **expert_names(),
            **shared_names("mlp.shared_expert"),
            "ffn_gate_inp_shexp": Named("mlp.shared_expert_gate"),
        }
    ),
    implemented=_QWEN,
    inert=_INERT,
    constants=exported("Qwen2MoeForCausalLM", "qwen2_moe"),
    normalized=_without_windows,
    notices=lambda c: notices(c, False),
)


@frozen
class Olmoe(Decoder):
    """OLMoE, whose experts have as many hidden values as config.json says of a feed-forward."""

    n_expert: int = key("expert_count", "num_experts", default=64)
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=8)
    normalize: bool = normalized(False)

    @property
    def n_ff_expert(self) -> int:
        return self.n_ff


def olmoe(c: Olmoe) -> Graph:
    """Queries and keys normalized as a whole."""
    mixer = attention(
        c,
        rope_of(c, "neox"),
        q_norm=rms(c, "attn_q_norm", c.n_head * c.head_dim),
        k_norm=rms(c, "attn_k_norm", c.n_head_kv * c.head_dim),
    )
    block = pre_norm(c, mixer, experts(c, Router(normalize=c.normalize)))
    return decoder(c, lambda _: block)


OLMOE = replace(
    QWEN3MOE,
    name="olmoe",
    config=Olmoe,
    graph=olmoe,
    implemented=SILU,
    inert=INERT_KEYS | ROUTER_KEYS,
    constants=exported("OlmoeForCausalLM", "olmoe"),
    notices=lambda c: notices(c, False),
)
