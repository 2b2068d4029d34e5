"""Llama and what shares its graph: Llama 2 and 3, Mistral, TinyLlama, SmolLM2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.families import registry
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    INERT_KEYS,
    LONGROPE_NAMES,
    PERMUTED_NAMES,
    SILU,
    LongRope,
    attention,
    decoder,
    feed_forward,
    longrope_of,
    pre_norm,
    recover_stretched,
    window_notices,
)
from gguflike.families.family import Family, said
from gguflike.families.parts import Graph
from gguflike.frozen import frozen, replace


@frozen
class Llama(LongRope):
    """A decoder of which all layers may have a sliding window (the first Mistral's; Llama has none)."""

    window: int = key(
        "attention.sliding_window",
        "sliding_window",
        default=0,
        zero=True,
        implied=True,
        via=Via(read=lambda _, value: value, write=lambda c: c.window or None),
    )


def llama(c: Llama) -> Graph:
    """Pre-norm blocks of attention and a gated feed-forward."""
    window = c.window if c.window < c.n_ctx else 0  # one as long as the context hides nothing
    block = pre_norm(c, attention(c, longrope_of(c, "norm"), window=window), feed_forward(c))
    return decoder(c, lambda _: block)


def notices(c: Llama) -> list[str]:
    """What llama.cpp does not compute of files of this architecture."""
    return window_notices(c)


def without_idle_window(values: dict[str, Any]) -> dict[str, Any]:
    """config.json without a sliding window that ``use_sliding_window`` switches off."""
    switch = values.pop("use_sliding_window", None)
    return {**values, "sliding_window": None} if switch is False else values


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json: of Mistral's class where there is a window, which Llama's does not have."""
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return {**values, **mistral} if "sliding_window" in values else values


def _of_file(metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any] | None:  # noqa: ARG001
    """Mixtral, where a file of this architecture has experts."""
    return registry.at("mixtral:MIXTRAL") if said(metadata, "llama.expert_count") else None


LLAMA = Family(
    name="llama",
    config=Llama,
    graph=llama,
    origins=MappingProxyType({**PERMUTED_NAMES, **LONGROPE_NAMES}),
    implemented=SILU,
    inert=INERT_KEYS,
    unread=frozenset({"bias", "max_window_layers", "sliding_window", "use_sliding_window"}),
    constants=MappingProxyType({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}),
    spelled=spelled,
    notices=notices,
    file_variant=_of_file,
    recover=recover_stretched,
)

# The same graph; only what Transformers assumes for absent keys differs (MistralConfig).
MISTRAL = replace(
    LLAMA,
    unread=frozenset(),
    normalized=without_idle_window,
)
