"""Seed-OSS."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    Decoder,
    attention,
    decoder,
    exported,
    feed_forward,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.origins import Named
from gguflike.families.parts import Branch, Graph
from gguflike.frozen import frozen


@frozen
class SeedOss(Decoder):
    """Hyper-parameters; the output of attention may have a bias that queries, keys and values lack."""

    attention_bias: bool = key(None, "attention_bias", default=True, tensor="blk.0.attn_q.bias")
    output_bias: bool = key(None, "attention_out_bias", default=False, tensor="blk.0.attn_output.bias")


def seed_oss(c: SeedOss) -> Graph:
    """Llama's graph, in which GGUF calls the second norm after what is before it."""
    mixer = attention(c, rope_of(c, "neox"), output_bias=c.output_bias)
    block = (Branch(rms(c, "attn_norm"), mixer), Branch(rms(c, "post_attention_norm"), feed_forward(c)))
    return decoder(c, lambda _: block)


SEED_OSS = Family(
    name="seed_oss",
    config=SeedOss,
    graph=seed_oss,
    origins=MappingProxyType({**DECODER_NAMES, "post_attention_norm": Named("post_attention_layernorm")}),
    implemented=SILU,
    inert=INERT_KEYS | {"residual_dropout"},
    constants=exported("SeedOssForCausalLM", "seed_oss"),
)
