"""Mellum 2: Qwen 3's blocks with experts, windows on three of four layers, and a rotation for each of the two."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import attention, decoder, exported, pre_norm, qk_norms, rope_of
from gguflike.families.mixture import experts
from gguflike.families.parts import Block, Graph
from gguflike.families.parts.experts import Router
from gguflike.families.qwen_moe import QWEN3MOE, Qwen3Moe
from gguflike.families.windows import every, idle_notices, span, unsaid_is_full, window, windowed, without_window
from gguflike.frozen import frozen, replace


@frozen
class Mellum(Qwen3Moe):
    """Hyper-parameters. Rotations of layers with a window are not stretched."""

    window: int = window()
    windowed: tuple[bool, ...] = windowed(every(4), implied=without_window)
    rope_base_swa: float = key("rope.freq_base_swa", "rope.sliding.theta", default=lambda c: c.rope_base)


def mellum(c: Mellum) -> Graph:
    """Queries and keys normalized per head; all layers have experts."""
    full, near = rope_of(c, "neox"), rope_of(c, "neox", base=c.rope_base_swa, scaling=None, divisors=())
    mixture = experts(c, Router(normalize=c.normalize))

    def block(layer: int) -> Block:
        rope = near if c.windowed[layer] else full
        return pre_norm(c, attention(c, rope, window=span(c, layer), **qk_norms(c)), mixture)

    return decoder(c, block)


def _all_sparse(values: dict[str, Any]) -> dict[str, Any]:
    """config.json without the kinds of feed-forwards where all layers have experts."""
    made = unsaid_is_full(dict(values))
    if set(made.get("mlp_layer_types") or ["sparse"]) == {"sparse"}:
        made.pop("mlp_layer_types", None)
    return made


MELLUM = replace(
    QWEN3MOE,
    name="mellum",
    config=Mellum,
    graph=mellum,
    implemented=MappingProxyType({**QWEN3MOE.implemented, "use_sliding_window": (True,)}),
    normalized=_all_sparse,
    constants=exported("MellumForCausalLM", "mellum"),
    notices=idle_notices,
)
