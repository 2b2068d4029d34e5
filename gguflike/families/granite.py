"""Granite 3 and 4, dense: Llama with four multipliers."""

from __future__ import annotations

from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import (
    INERT_KEYS,
    PERMUTED_NAMES,
    SILU,
    Decoder,
    attention,
    decoder,
    exported,
    feed_forward,
    recover_llama3,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.parts import Block, Branch, Graph, Mixer
from gguflike.frozen import frozen


@frozen
class Granite(Decoder):
    """Hyper-parameters: what scores, embeddings and results of mixers are multiplied by, and logits divided."""

    attention_scale: float | None = key("attention.scale", "attention_multiplier")
    embedding_scale: float = key("embedding_scale", "embedding_multiplier", default=1.0)
    residual_scale: float = key("residual_scale", "residual_multiplier", default=1.0)
    logit_scale: float = key("logit_scale", "logits_scaling", default=1.0)


# What GraniteConfig assumes. (A GGUF file without attention.scale means the usual scale.)


def scaled_block(c: Any, mixer: Mixer, after: Mixer) -> Block:
    """A block of two branches that begin with a norm and whose results are scaled as a configuration says."""
    scale = c.residual_scale
    return (Branch(rms(c, "attn_norm"), mixer, scale=scale), Branch(rms(c, "ffn_norm"), after, scale=scale))


def scales(c: Any) -> dict[str, Any]:
    """The scales of embedding and logits that a configuration has, as `decoder` takes them."""
    return {"embedding_scale": c.embedding_scale, "scale": 1.0 / c.logit_scale}


def granite(c: Granite) -> Graph:
    """Llama's graph with multipliers."""
    block = scaled_block(c, attention(c, rope_of(c, "norm"), scale=c.attention_scale), feed_forward(c))
    return decoder(c, lambda _: block, **scales(c))


GRANITE = Family(
    name="granite",
    config=Granite,
    graph=granite,
    origins=PERMUTED_NAMES,
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("GraniteForCausalLM", "granite"),
    recover=recover_llama3,
)
