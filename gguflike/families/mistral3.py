"""Ministral 3, and the text towers of Mistral's models that see."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gguflike.families import registry
from gguflike.families.config import key
from gguflike.families.decoder import (
    INERT_KEYS,
    LONGROPE_NAMES,
    PERMUTED_NAMES,
    SILU,
    LongRope,
    attention,
    decoder,
    exported,
    feed_forward,
    longrope_of,
    magnitude,
    pre_norm,
    recover_stretched,
)
from gguflike.families.family import Family, text_config
from gguflike.families.parts import Graph, Temperature
from gguflike.families.qwen import notices
from gguflike.families.rope import yarn_magnitude
from gguflike.families.windows import Windowed, span
from gguflike.frozen import frozen, replace


@frozen
class Mistral3(LongRope, Windowed):
    """Hyper-parameters. ``temperature`` is the scale by which queries grow beyond the original context."""

    yarn_log_multiplier: float | None = key("rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_log_multiplier")
    temperature: float | None = key("attention.temperature_scale", "rope.temperature")


def mistral3(c: Mistral3) -> Graph:
    """Llama's graph with queries that grow with their position."""
    rope = longrope_of(c, "norm")
    if rope.scaling is not None and c.yarn_log_multiplier is not None:
        # mscale and mscale_all_dim of config.json, by whose ratio cosines and sines are multiplied
        own = magnitude(c) or yarn_magnitude(rope.scaling.factor)
        divided = own / yarn_magnitude(rope.scaling.factor, c.yarn_log_multiplier)
        rope = replace(rope, scaling=replace(rope.scaling, magnitude=divided))
    grows = None if c.temperature is None else Temperature(c.temperature, float(c.rope_context or c.n_ctx))
    return decoder(
        c,
        lambda layer: pre_norm(c, attention(c, rope, temperature=grows, window=span(c, layer)), feed_forward(c)),
    )


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json: of Mistral's class where queries do not grow, as in Mistral Small 3."""
    if "llama_4_scaling_beta" in (values.get("rope_scaling") or {}):
        return values
    same = len(set(values.get("layer_types", ()))) < 2  # of MistralConfig, all layers have the window or none
    kept = {name: value for name, value in values.items() if name != "layer_types" or not same}
    return {**kept, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}


# What models that also see hold beside their text tower.
LEFT_OUT = MappingProxyType(
    {
        r"(model\.)?vision_(tower|encoder)\.": "the vision tower",
        r"(model\.)?multi_modal_projector\.": "the projector of images",
    }
)


def _variant(values: Mapping[str, Any]) -> Family[Any] | None:
    """Mistral 4 is another architecture inside of the same class."""
    return registry.at("deepseek:MISTRAL4") if text_config(values).get("model_type") == "mistral4" else None


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the epsilon that the class of the text model assumes."""
    return {"rms_norm_eps": 1e-6 if values.get("model_type") == "mistral" else 1e-5, **values}


MISTRAL3 = Family(
    name="mistral3",
    config=Mistral3,
    graph=mistral3,
    origins=MappingProxyType({**PERMUTED_NAMES, **LONGROPE_NAMES}),
    left_out=LEFT_OUT,
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("Ministral3ForCausalLM", "ministral3"),
    normalized=normalized,
    spelled=spelled,
    notices=notices,
    recover=recover_stretched,
    variant=_variant,
)
