"""Jais 2: Nemotron's graph with biases."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import DECODER_NAMES, INERT_KEYS, exported
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed
from gguflike.families.nemotron import nemotron
from gguflike.frozen import frozen


@frozen
class Jais2(LayerNormed):
    """Hyper-parameters."""

    attention_bias: bool = key(None, "attention_bias", default=True, tensor="blk.0.attn_q.bias")
    mlp_bias: bool = key(None, "mlp_bias", default=True, tensor="blk.0.ffn_up.bias")


JAIS2 = Family(
    name="jais2",
    config=Jais2,
    graph=nemotron,
    origins=DECODER_NAMES,
    implemented=MappingProxyType({"hidden_act": ("relu2",)}),
    inert=INERT_KEYS,
    constants=exported("Jais2ForCausalLM", "jais2", "relu2"),
)
