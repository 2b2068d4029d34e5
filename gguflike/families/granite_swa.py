"""Granite with sliding windows, dense."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families import registry
from gguflike.families.decoder import attention, decoder, exported, feed_forward, longrope_of
from gguflike.families.family import Family, said
from gguflike.families.granite import GRANITE, Stretched, scaled_block, scales
from gguflike.families.origins import Named
from gguflike.families.parts import Attention, Graph
from gguflike.families.windows import all_layers, rotated, span, window, windowed, without_window
from gguflike.frozen import frozen, replace


def _first_full(c: Any) -> tuple[bool, ...]:
    """All layers but the first of every four."""
    return tuple(layer % 4 != 0 for layer in range(c.n_layer))


@frozen
class GraniteSwa(Stretched):
    """Hyper-parameters; heads have sinks, layers may have windows and may turn queries and keys."""

    window: int = window()
    windowed: tuple[bool, ...] = windowed(_first_full, implied=without_window)
    rotated: tuple[bool, ...] = rotated(all_layers)


def granite_swa(c: GraniteSwa) -> Graph:
    """Granite's graph with sinks, windows, and layers that do not turn queries and keys."""
    return decoder(c, lambda layer: scaled_block(c, mixer(c, layer), feed_forward(c)), **scales(c))


def mixer(c: GraniteSwa, layer: int) -> Attention:
    """A layer's attention."""
    turns = longrope_of(c, "norm") if c.rotated[layer] else None
    return attention(c, turns, scale=c.attention_scale, sinks=True, window=span(c, layer))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the layers that turn in a list of their own; ``layer_rope_theta`` is 0 for the others."""
    made = dict(values)
    thetas = made.pop("layer_rope_theta", None)
    if not isinstance(thetas, list):
        return made
    bases = {theta for theta in thetas if theta}
    if len(bases) > 1:
        raise UnsupportedError(
            "bases of the rotation that differ by layer", field="config.json: layer_rope_theta", got=sorted(bases)
        )
    made["no_rope_layers"] = [int(bool(theta)) for theta in thetas]
    if bases:
        made.pop("rope_theta", None)
        settings = "rope_scaling" if made.get("rope_scaling") else "rope_parameters"
        made[settings] = {**(made.get(settings) or {}), "rope_theta": bases.pop()}
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite."""
    made = dict(values)
    turns = made.pop("no_rope_layers")
    return {**made, "layer_rope_theta": [made["rope_theta"] if each else 0.0 for each in turns]}


def _of_file(metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any] | None:  # noqa: ARG001
    """The family with experts, where a file has them."""
    return registry.at("granite_moe:GRANITE_MOE_SWA") if said(metadata, "granite_swa.expert_count") else None


GRANITE_SWA = replace(
    GRANITE,
    name="granite_swa",
    config=GraniteSwa,
    graph=granite_swa,
    origins=MappingProxyType({**GRANITE.origins, "attn_sinks": Named("self_attn.sinks", bare=True)}),
    constants=exported("GraniteSWAForCausalLM", "granite_swa"),
    normalized=normalized,
    spelled=spelled,
    file_variant=_of_file,
)
