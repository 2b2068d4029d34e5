"""OLMo, OLMo 2 and OLMo 3, dense."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    PERMUTED_NAMES,
    QK_NAMES,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, sequential
from gguflike.families.origins import Named
from gguflike.families.parts import Block, Branch, Graph, Mixer, Rope
from gguflike.families.windows import (
    Windowed,
    every,
    idle_notices,
    span,
    windowed,
    windowed_notices,
    without_window,
)
from gguflike.frozen import frozen


@frozen
class Olmo(LayerNormed):
    """Hyper-parameters. ``clamp`` limits queries, keys and values; 0: it does not."""

    norm_eps: float = key("attention.layer_norm_epsilon", None, default=1e-5)
    clamp: float = key("attention.clamp_kqv", "clip_qkv", default=0.0, zero=True, implied=True)


def olmo(c: Olmo) -> Graph:
    """Llama's graph with layer norms that have no weights."""
    mixer = attention(c, rope_of(c, "norm"), clamp=c.clamp)
    block = sequential(c, mixer, feed_forward(c), weight=False, bias=False)
    return decoder(c, lambda _: block, layer_norm(c, "output_norm", weight=False, bias=False))


def unclamped(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, in which no limit is null."""
    return {**values, "clip_qkv": values.get("clip_qkv") or None}


OLMO = Family(
    name="olmo",
    config=Olmo,
    graph=olmo,
    origins=PERMUTED_NAMES,
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("OlmoForCausalLM", "olmo"),
    spelled=unclamped,
)


@frozen
class Olmo2(Windowed):
    """Hyper-parameters. OLMo 3 has windows in all layers but every fourth, whose rotation is never stretched."""

    windowed: tuple[bool, ...] = windowed(every(4), implied=without_window)
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    rope_base_swa: float = key(
        "rope.freq_base_swa", "rope.sliding.theta", default=lambda c: c.rope_base, implied=without_window
    )


def post_norm(c: Any, mixer: Mixer, after: Mixer) -> Block:
    """A block of two branches with a norm behind the mixer only."""
    return (Branch(None, mixer, rms(c, "post_attention_norm")), Branch(None, after, rms(c, "post_ffw_norm")))


def olmo2(c: Olmo2) -> Graph:
    """Norms behind the mixers, and of all queries and all keys as a whole."""
    full, local = rope_of(c, "neox"), Rope(c.n_rot, c.rope_base_swa, "neox")
    q_norm, k_norm = rms(c, "attn_q_norm", c.n_head * c.head_dim), rms(c, "attn_k_norm", c.n_head_kv * c.head_dim)

    def block(layer: int) -> Block:
        rope = local if c.windowed[layer] else full
        mixer = attention(c, rope, q_norm=q_norm, k_norm=k_norm, window=span(c, layer))
        return post_norm(c, mixer, feed_forward(c))

    return decoder(c, block)


def notices(c: Olmo2) -> list[str]:
    """What llama.cpp does not compute of files of this architecture."""
    return [*idle_notices(c), *(windowed_notices(c) if c.window else [])]


POST_NORM_NAMES = MappingProxyType(
    {
        **DECODER_NAMES,
        **QK_NAMES,
        "post_attention_norm": Named("post_attention_layernorm"),
        "post_ffw_norm": Named("post_feedforward_layernorm"),
    }
)


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json: of OLMo 3's class where there are windows, which OLMo 2's does not have."""
    if "sliding_window" in values:
        return {**values, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"}
    rope = values.pop("rope_parameters", {})
    full = dict(rope.get("full_attention", {}))
    made = {"rope_theta": full.pop("rope_theta", values.get("rope_theta"))}
    return {**values, **made, "rope_scaling": full if full.get("rope_type", "default") != "default" else None}


OLMO2 = Family(
    name="olmo2",
    config=Olmo2,
    graph=olmo2,
    origins=POST_NORM_NAMES,
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("Olmo2ForCausalLM", "olmo2"),
    spelled=spelled,
    notices=notices,
)
