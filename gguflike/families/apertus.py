"""Apertus."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    LONGROPE_NAMES,
    QK_NAMES,
    LongRope,
    attention,
    decoder,
    exported,
    feed_forward,
    longrope_of,
    pre_norm,
    qk_norms,
    recover_stretched,
)
from gguflike.families.family import Family, Small
from gguflike.families.origins import Named
from gguflike.families.parts import Block, Graph
from gguflike.frozen import frozen

# What a checkpoint holds as tensors of each layer: the constants of its activation.
_CONSTANTS = MappingProxyType(
    {
        "xielu_alpha_n": Small("mlp.act_fn.alpha_n", lambda _: (1,)),
        "xielu_alpha_p": Small("mlp.act_fn.alpha_p", lambda _: (1,)),
        "xielu_beta": Small("mlp.act_fn.beta", lambda _: ()),
        "xielu_eps": Small("mlp.act_fn.eps", lambda _: ()),
    }
)


def _constant(name: str) -> Any:
    """The field of a constant of xIELU, a value for each layer."""
    return key(f"xielu.{name}", f"xielu_{name}", signed=True, array=True)


@frozen
class Apertus(LongRope):
    """Hyper-parameters. ``alpha_n`` and ``alpha_p`` are stored so that softplus of them is positive."""

    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    alpha_n: tuple[float, ...] = _constant("alpha_n")
    alpha_p: tuple[float, ...] = _constant("alpha_p")
    beta: tuple[float, ...] = _constant("beta")
    eps: tuple[float, ...] = _constant("eps")


def apertus(c: Apertus) -> Graph:
    """Queries and keys normalized per head; a feed-forward without a gate, whose activation each layer has learned."""
    mixer = attention(c, longrope_of(c, "neox"), **qk_norms(c))

    def block(layer: int) -> Block:
        beta = c.beta[layer]
        constants = (beta + _softplus(c.alpha_n[layer]), _softplus(c.alpha_p[layer]), beta, c.eps[layer])
        return pre_norm(c, mixer, feed_forward(c, gated=False, activation="xielu", xielu=constants))

    return decoder(c, block)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


APERTUS = Family(
    name="apertus",
    config=Apertus,
    graph=apertus,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **LONGROPE_NAMES,
            **QK_NAMES,
            "attn_norm": Named("attention_layernorm"),
            "ffn_norm": Named("feedforward_layernorm"),
        }
    ),
    implemented=MappingProxyType({"hidden_act": ("xielu",), "qk_norm": (True,), "post_norm": (False,)}),
    inert=INERT_KEYS,
    constants=exported("ApertusForCausalLM", "apertus", "xielu"),
    small=_CONSTANTS,
    recover=recover_stretched,
)
