"""Qwen 2 and 2.5, Qwen 3, and the text towers of their models that see."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.errors import CheckpointError
from gguflike.families import registry
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    QK_NAMES,
    SILU,
    Decoder,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    qk_norms,
    recover_llama3,
    rope_of,
    window_notices,
)
from gguflike.families.family import Family
from gguflike.families.parts import Graph
from gguflike.families.pooling import RANK
from gguflike.families.windows import Windowed, span
from gguflike.frozen import frozen, replace


@frozen
class Qwen2(Windowed):
    """Hyper-parameters; queries, keys and values have biases."""

    attention_bias: bool = key(None, None, tensor="blk.0.attn_q.bias")


def qwen2(c: Qwen2) -> Graph:
    """Llama's graph with biases of queries, keys and values, and pairs of half a head apart."""
    rope = rope_of(c, "neox")
    return decoder(
        c,
        lambda layer: pre_norm(c, attention(c, rope, output_bias=False, window=span(c, layer)), feed_forward(c)),
    )


def qwen3(c: Windowed) -> Graph:
    """Queries and keys normalized per head before they turn; no biases unless the configuration has them."""
    rope, norms = rope_of(c, "neox"), qk_norms(c)
    return decoder(c, lambda layer: pre_norm(c, attention(c, rope, **norms, window=span(c, layer)), feed_forward(c)))


def check_switch(values: dict[str, Any]) -> None:
    """CheckpointError where layers have a window that ``use_sliding_window`` switches off: what Transformers computes
    then depends on its implementation of attention, if it loads such a model at all."""
    if values.get("sliding_window") is not None and "sliding_attention" in (values.get("layer_types") or ()):
        raise CheckpointError(
            "layers have a window that is switched off",
            field="config.json: layer_types",
            expected="full_attention where use_sliding_window is false",
            got="sliding_attention",
            remedy="say full_attention for all, or switch windows on",
        )


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the window of the layers that have it: those from ``max_window_layers`` on, once it is on."""
    made = dict(values)
    switched, first = made.pop("use_sliding_window", False), made.pop("max_window_layers", 28)
    if not switched:
        check_switch(made)
        made["sliding_window"] = None
    elif made.get("layer_types") is None and isinstance(made.get("num_hidden_layers"), int):
        layers = range(made["num_hidden_layers"])
        made["layer_types"] = ["sliding_attention" if layer >= first else "full_attention" for layer in layers]
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, with the window switched on where there is one."""
    return {**values, "use_sliding_window": True} if "sliding_window" in values else values


def notices(c: Any) -> list[str]:
    """What llama.cpp does not compute of files of these architectures."""
    return window_notices(c) if any(c.windowed) else []


QWEN2 = Family(
    name="qwen2",
    config=Qwen2,
    graph=qwen2,
    origins=DECODER_NAMES,
    implemented=MappingProxyType({**SILU, "use_mrope": (False,)}),
    inert=INERT_KEYS,
    constants=exported("Qwen2ForCausalLM", "qwen2"),
    normalized=normalized,
    spelled=spelled,
    notices=notices,
    recover=recover_llama3,
)


def _pooled(values: Mapping[str, Any]) -> Family[Any] | None:
    """The family of a model that gives vectors or scores."""
    if "pooling_type" not in values:
        return None
    return registry.at("embedders:QWEN3_RERANKER" if values["pooling_type"] == RANK else "embedders:QWEN3_EMBEDDING")


def _pooled_file(metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any] | None:
    """The same of a GGUF file."""
    if "cls.output.weight" in tensors:
        return registry.at("embedders:QWEN3_RERANKER")
    return registry.at("embedders:QWEN3_EMBEDDING") if "qwen3.pooling_type" in metadata else None


QWEN3 = replace(
    QWEN2,
    name="qwen3",
    variant=_pooled,
    file_variant=_pooled_file,
    config=Windowed,
    graph=qwen3,
    origins=MappingProxyType({**QWEN2.origins, **QK_NAMES}),
    constants=exported("Qwen3ForCausalLM", "qwen3"),
)


def padded(_: Any, sections: Any) -> Any:
    """Sections of time, height, width and a fourth."""
    return [*sections, 0, 0, 0, 0][:4] if isinstance(sections, list) else sections


def sections(default: tuple[int, ...]) -> Any:
    """The field of how many pairs turn by which of an image's positions, which are all equal in a text."""
    return key(
        "rope.dimension_sections",
        "rope.sections",
        default=default,
        listed=True,
        via=Via(read=padded, write=lambda _: None),  # an export is of a model without images
    )


def _length(_: Any, value: Any) -> int:
    if not isinstance(value, list):
        raise ValueError("a list")
    return len(value)


def deepstack() -> Any:
    """The field of to how many of the first layers a vision tower, which others keep in a file of its own, adds
    something; in a text nothing is added."""
    return key(
        "n_deepstack_layers",
        "vision_config.deepstack_visual_indexes",
        default=0,
        zero=True,
        via=Via(read=_length, write=lambda _: None),
    )


@frozen
class Qwen2VL(Qwen2):
    """Hyper-parameters of the text tower of Qwen2-VL and Qwen2.5-VL."""

    sections: tuple[int, ...] = sections((16, 24, 24, 0))


@frozen
class Qwen3VL(Decoder):
    """Hyper-parameters of the text tower of Qwen3-VL."""

    sections: tuple[int, ...] = sections((24, 20, 20, 0))
    deepstack: int = deepstack()


def text_norm(c: Any) -> Graph:
    """Qwen 3's graph, of a configuration without windows."""
    rope, norms = rope_of(c, "neox"), qk_norms(c)
    block = pre_norm(c, attention(c, rope, **norms), feed_forward(c))
    return decoder(c, lambda _: block)


# Of models that see, where config.json does not hold the text tower apart.
SEEING = frozenset(
    {
        "image_token_id",
        "video_token_id",
        "vision_config",
        "vision_end_token_id",
        "vision_start_token_id",
        "vision_token_id",
    }
)
VISION = MappingProxyType({r"(model\.)?visual\.": "the vision tower"})

QWEN2VL = replace(
    QWEN2,
    name="qwen2vl",
    config=Qwen2VL,
    left_out=VISION,
    inert=INERT_KEYS | SEEING,
)

QWEN3VL = replace(
    QWEN3,
    name="qwen3vl",
    config=Qwen3VL,
    outer=("vision_config",),
    graph=text_norm,
    left_out=VISION,
    normalized=dict,
    spelled=dict,
    notices=lambda _: [],
)
