"""Phi-3.5-MoE: layer norms, two lists of divisors of the rotation, and a router that weighs each choice by itself."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    LONGROPE_NAMES,
    SILU,
    LongRope,
    attention,
    decoder,
    exported,
    first_context,
    longrope_of,
    recover_longrope,
)
from gguflike.families.family import Family
from gguflike.families.layernorm import layer_norm, sequential
from gguflike.families.mixture import ROUTER_KEYS, expert_names, experts
from gguflike.families.parts import Graph
from gguflike.families.parts.experts import Router
from gguflike.families.windows import window
from gguflike.frozen import frozen


@frozen
class Phimoe(LongRope):
    """Hyper-parameters. What config.json calls a feed-forward's size is an expert's. ``jitter``: how near each other,
    by half, two logits of the router have to be to be weighed against each other."""

    rope_context: int | None = first_context()
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    window: int = window(implied=False)
    n_expert: int = key("expert_count", "num_local_experts", default=16)
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=2)
    jitter: float = key("gguflike.router_jitter_noise", "router_jitter_noise", default=0.01, implied=True)
    head_bias: bool = key(None, "lm_head_bias", default=False, tensor="output.bias")

    @property
    def n_ff_expert(self) -> int:
        return self.n_ff


def phimoe(c: Phimoe) -> Graph:
    """Blocks that begin with layer norms, of attention and experts."""
    hidden = c.window if c.window < c.n_ctx else 0
    router = Router("sparse_mixer", normalize=False, near=2 * c.jitter)
    block = sequential(c, attention(c, longrope_of(c, "neox"), window=hidden), experts(c, router))
    return decoder(c, lambda _: block, layer_norm(c, "output_norm"), bias=c.head_bias)


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with what cosines and sines are multiplied by where others say it.

    UnsupportedError where that is something else for short contexts than for long ones.
    """
    made = dict(values)
    for name in ("rope_parameters", "rope_scaling"):
        settings = made.get(name)
        if not isinstance(settings, dict):
            continue
        rest = {key: value for key, value in settings.items() if key not in ("short_mscale", "long_mscale")}
        short, long = settings.get("short_mscale"), settings.get("long_mscale")
        if short != long:
            raise UnsupportedError(
                "rotation of two magnitudes",
                field=f"config.json: {name}",
                expected="one number as short_mscale and long_mscale",
                got=f"{short!r} and {long!r}",
            )
        made[name] = rest if short is None else {**rest, "attention_factor": short}
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite, as PhimoeConfig has it."""
    settings = values.get("rope_scaling")
    if not isinstance(settings, dict) or "attention_factor" not in settings:
        return values
    magnitude = settings["attention_factor"]
    rest = {key: value for key, value in settings.items() if key != "attention_factor"}
    return {**values, "rope_scaling": {**rest, "short_mscale": magnitude, "long_mscale": magnitude}}


def notices(c: Phimoe) -> list[str]:  # noqa: ARG001 - of all models of the family
    """What llama.cpp does not compute of files of this architecture."""
    return [
        "llama.cpp weighs the experts of this architecture by a plain softmax, and its norms do not subtract the mean: "
        "it computes another model"
    ]


PHIMOE = Family(
    name="phimoe",
    config=Phimoe,
    graph=phimoe,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **LONGROPE_NAMES,
            **expert_names("block_sparse_moe", names=("w1", "w3", "w2")),
        }
    ),
    implemented=MappingProxyType({**SILU, "num_experts_per_tok": (2,)}),
    inert=INERT_KEYS | ROUTER_KEYS,
    constants=exported("PhimoeForCausalLM", "phimoe"),
    normalized=normalized,
    spelled=spelled,
    notices=notices,
    recover=recover_longrope,
)
