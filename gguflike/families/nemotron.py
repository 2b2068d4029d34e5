"""Nemotron (Minitron), whose layers all attend."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    attention,
    decoder,
    exported,
    feed_forward,
    rope_of,
    unscaled,
)
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, sequential
from gguflike.families.origins import Named
from gguflike.families.parts import Graph
from gguflike.families.transforms import PlusOne
from gguflike.families.windows import partial
from gguflike.frozen import frozen


@frozen
class Nemotron(LayerNormed):
    """Hyper-parameters; half of each head turns."""

    n_rot: int = partial()
    norm_eps: float = key(
        "attention.layer_norm_epsilon", "norm_eps", default=1e-5, copies=("attention.layer_norm_rms_epsilon",)
    )
    rope_scaling: str | None = unscaled()


def nemotron(c: LayerNormed) -> Graph:
    """Layer norms and a feed-forward without a gate."""
    block = sequential(c, attention(c, rope_of(c, "neox")), feed_forward(c, gated=False, activation="relu2"))
    return decoder(c, lambda _: block, layer_norm(c, "output_norm"))


NEMOTRON = Family(
    name="nemotron",
    config=Nemotron,
    graph=nemotron,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            "attn_norm.weight": Named("input_layernorm", PlusOne()),
            "ffn_norm.weight": Named("post_attention_layernorm", PlusOne()),
            "output_norm.weight": Named("model.norm", PlusOne()),
        }
    ),
    implemented=MappingProxyType({"hidden_act": ("relu2",)}),
    inert=INERT_KEYS,
    constants=exported("NemotronForCausalLM", "nemotron", "relu2"),
)
