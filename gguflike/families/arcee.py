"""Arcee's AFM."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    INERT_KEYS,
    PERMUTED_NAMES,
    Decoder,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.parts import Graph
from gguflike.frozen import frozen


@frozen
class Arcee(Decoder):
    """Hyper-parameters."""

    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)


def arcee(c: Arcee) -> Graph:
    """Llama's graph with a feed-forward without a gate."""
    after = feed_forward(c, gated=False, activation="relu2")
    block = pre_norm(c, attention(c, rope_of(c, "norm")), after)
    return decoder(c, lambda _: block)


ARCEE = Family(
    name="arcee",
    config=Arcee,
    graph=arcee,
    origins=PERMUTED_NAMES,
    implemented=MappingProxyType({"hidden_act": ("relu2",)}),
    inert=INERT_KEYS,
    constants=exported("ArceeForCausalLM", "arcee", "relu2"),
)
