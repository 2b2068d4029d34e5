"""Granite 3 and 4, dense: Llama with four multipliers."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import (
    INERT_KEYS,
    LONGROPE_NAMES,
    PERMUTED_NAMES,
    SILU,
    Decoder,
    LongRope,
    attention,
    decoder,
    exported,
    feed_forward,
    longrope_of,
    recover_stretched,
    rms,
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


@frozen
class Stretched(LongRope, Granite):
    """The same of models whose rotation may be stretched by two lists of divisors."""


def granite(c: Stretched) -> Graph:
    """Llama's graph with multipliers."""
    block = scaled_block(c, attention(c, longrope_of(c, "norm"), scale=c.attention_scale), feed_forward(c))
    return decoder(c, lambda _: block, **scales(c))


GRANITE = Family(
    name="granite",
    config=Stretched,
    graph=granite,
    origins=MappingProxyType({**PERMUTED_NAMES, **LONGROPE_NAMES}),
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("GraniteForCausalLM", "granite"),
    recover=recover_stretched,
)
