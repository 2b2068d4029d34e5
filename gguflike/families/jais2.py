"""Jais 2."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import DECODER_NAMES, INERT_KEYS, attention, decoder, exported, feed_forward, rope_of
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, sequential
from gguflike.families.parts import Graph
from gguflike.frozen import frozen


@frozen
class Jais2(LayerNormed):
    """Hyper-parameters."""

    attention_bias: bool = key(None, "attention_bias", default=True, tensor="blk.0.attn_q.bias")
    mlp_bias: bool = key(None, "mlp_bias", default=True, tensor="blk.0.ffn_up.bias")


def jais2(c: Jais2) -> Graph:
    """Layer norms and a feed-forward without a gate."""
    block = sequential(c, attention(c, rope_of(c, "neox")), feed_forward(c, gated=False, activation="relu2"))
    return decoder(c, lambda _: block, layer_norm(c, "output_norm"))


JAIS2 = Family(
    name="jais2",
    classes=("Jais2ForCausalLM",),
    config=Jais2,
    graph=jais2,
    origins=DECODER_NAMES,
    implemented=MappingProxyType({"hidden_act": ("relu2",)}),
    inert=INERT_KEYS,
    constants=exported("Jais2ForCausalLM", "jais2", "relu2"),
    assumed=MappingProxyType({"max_position_embeddings": 8192}),
)
