"""Gemma, Gemma 2 and Gemma 3, and the text towers of Gemma 3's models that see."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    Decoder,
    attention,
    decoder,
    feed_forward,
    pre_norm,
    qk_norms,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.origins import Named
from gguflike.families.parts import Block, Branch, Graph, Mixer, Rope
from gguflike.families.transforms import PlusOne
from gguflike.families.windows import every, span, window, windowed
from gguflike.frozen import frozen


@frozen
class Gemma(Decoder):
    """Hyper-parameters; the output matrix is the embedding's."""

    rope_base: float = key("rope.freq_base", "rope.theta", default=10000.0, implied=True)
    untied: bool = key(None, "tie_word_embeddings", default=False, tensor="output.weight", negated=True)


def scale_of(large: int) -> Any:
    """The field of what scores are multiplied by: 1 over the root of ``query_pre_attn_scalar``.

    GGUF has no key that llama.cpp reads: it takes the size of a head for all but the largest model, which it tells by
    its ``large`` layers.
    """

    def implied(c: Any) -> float:
        root: float = (c.n_embd / c.n_head if c.n_layer == large else c.head_dim) ** -0.5
        return root

    def scalar(c: Any) -> int | float:
        square: float = c.attention_scale**-2
        return round(square) if abs(square - round(square)) < 1e-3 else square

    def root(_: Any, value: Any) -> Any:
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ValueError("a positive number")
        return value**-0.5

    return key(
        "attention.scale", "query_pre_attn_scalar", default=implied, implied=True, via=Via(read=root, write=scalar)
    )


# A cap that changes no float32: llama.cpp always caps in this architecture, and divides by what the file says.
NO_CAP = 1e9


def cap(most: float) -> float:
    """What scores or logits are capped at; 0: they are not."""
    return most if most < NO_CAP else 0.0


@frozen
class Gemma2(Gemma):
    """Hyper-parameters; the first of every two layers has a window."""

    window: int = window()
    windowed: tuple[bool, ...] = windowed(every(2))
    attention_scale: float = scale_of(46)
    attention_cap: float = key("attn_logit_softcapping", "attn_logit_softcapping", default=50.0, zero=True)
    final_cap: float = key("final_logit_softcapping", "final_logit_softcapping", default=30.0, zero=True)


@frozen
class Gemma3(Gemma):
    """Hyper-parameters; all layers but every sixth have a window and a rotation of their own, which is not scaled."""

    window: int = window()
    windowed: tuple[bool, ...] = windowed(every(6))
    attention_scale: float = scale_of(62)
    rope_base: float = key("rope.freq_base", "rope.theta", default=1e6)
    rope_base_swa: float = key("rope.freq_base_swa", "rope.sliding.theta", default=10000.0)
    final_cap: float = key("final_logit_softcapping", "final_logit_softcapping", default=0.0, zero=True, implied=True)


def gemma(c: Gemma) -> Graph:
    """Llama's graph with embeddings times the root of their size and a feed-forward gated by GELU."""
    block = pre_norm(c, attention(c, rope_of(c, "neox")), feed_forward(c, activation="gelu_tanh"))
    return decoder(c, lambda _: block, embedding_scale=c.n_embd**0.5)


def sandwich(c: Decoder, mixer: Mixer) -> Block:
    """A block of two branches with a norm on either side of the mixer."""
    return (
        Branch(rms(c, "attn_norm"), mixer, rms(c, "post_attention_norm")),
        Branch(rms(c, "ffn_norm"), feed_forward(c, activation="gelu_tanh"), rms(c, "post_ffw_norm")),
    )


def gemma2(c: Gemma2) -> Graph:
    """Norms around every mixer, windows, soft caps."""
    rope = rope_of(c, "neox")

    def block(layer: int) -> Block:
        mixer = attention(c, rope, scale=c.attention_scale, softcap=cap(c.attention_cap), window=span(c, layer))
        return sandwich(c, mixer)

    return decoder(c, block, embedding_scale=c.n_embd**0.5, softcap=cap(c.final_cap))


def gemma3(c: Gemma3) -> Graph:
    """Norms around every mixer and of queries and keys, windows, two rotations."""
    full, local, norms = rope_of(c, "neox"), Rope(c.n_rot, c.rope_base_swa, "neox"), qk_norms(c)

    def block(layer: int) -> Block:
        rope = local if c.windowed[layer] else full
        return sandwich(c, attention(c, rope, **norms, scale=c.attention_scale, window=span(c, layer)))

    return decoder(c, block, embedding_scale=c.n_embd**0.5, softcap=c.final_cap)


def uncapped(values: dict[str, Any]) -> dict[str, Any]:
    """config.json in which a cap that is switched off is one that does nothing, since one that is missing has a
    default."""
    return {name: NO_CAP if name.endswith("_logit_softcapping") and not v else v for name, v in values.items()}


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite: one that does nothing is null."""
    return {name: v if not name.endswith("_logit_softcapping") or cap(v) else None for name, v in values.items()}


def idle_window(values: dict[str, Any]) -> dict[str, Any]:
    """config.json without the window that no layer has."""
    types = values.get("layer_types")
    pattern = values.get("sliding_window_pattern")
    idle = set(types) == {"full_attention"} if isinstance(types, list) else pattern == 1
    return {**values, "sliding_window": None} if idle else values


def notices(period: int, large: int) -> Callable[[Any], list[str]]:
    """What llama.cpp does not compute of files with windows in all layers but every ``period``-th."""

    def said(c: Any) -> list[str]:
        told = []
        if c.window and c.windowed != every(period)(c):
            told.append(
                f"llama.cpp takes every {period}th layer for the one without a window, which this model does not"
            )
        implied = (c.n_embd / c.n_head if c.n_layer == large else c.head_dim) ** -0.5
        if c.attention_scale != implied:
            told.append(f"llama.cpp multiplies scores by {implied:.6g}, this model by {c.attention_scale:.6g}")
        return told

    return said


# Norms of the checkpoint that GGUF stores plus 1.
GEMMA_NAMES = MappingProxyType(
    {
        **DECODER_NAMES,
        "attn_norm": Named("input_layernorm", PlusOne()),
        "ffn_norm": Named("post_attention_layernorm", PlusOne()),
        "output_norm": Named("model.norm", PlusOne()),
    }
)
SANDWICH_NAMES = MappingProxyType(
    {
        **GEMMA_NAMES,
        "post_attention_norm": Named("post_attention_layernorm", PlusOne()),
        "ffn_norm": Named("pre_feedforward_layernorm", PlusOne()),
        "post_ffw_norm": Named("post_feedforward_layernorm", PlusOne()),
        "attn_q_norm": Named("self_attn.q_norm", PlusOne()),
        "attn_k_norm": Named("self_attn.k_norm", PlusOne()),
    }
)

GEMMA_INERT = INERT_KEYS | {"cache_implementation"}  # how Transformers keeps keys and values

GEMMA = Family(
    name="gemma",
    config=Gemma,
    graph=gemma,
    origins=GEMMA_NAMES,
    # The first files said "gelu" and meant its approximation, as Google's code computes.
    implemented=MappingProxyType(
        {
            "hidden_act": ("gelu_pytorch_tanh", "gelu"),
            "hidden_activation": ("gelu_pytorch_tanh",),
            "use_bidirectional_attention": (False,),
        }
    ),
    inert=GEMMA_INERT,
    constants=MappingProxyType(
        {
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
        }
    ),
)

_ACTIVATION = MappingProxyType(
    {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "hidden_act": ("gelu_pytorch_tanh",),
        "use_bidirectional_attention": (False,),
    }
)

GEMMA2 = Family(
    name="gemma2",
    config=Gemma2,
    graph=gemma2,
    origins=SANDWICH_NAMES,
    implemented=_ACTIVATION,
    inert=GEMMA_INERT,
    constants=MappingProxyType(
        {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "hidden_activation": "gelu_pytorch_tanh",
        }
    ),
    normalized=uncapped,
    spelled=spelled,
    notices=notices(2, 46),
)

GEMMA3 = Family(
    name="gemma3",
    config=Gemma3,
    graph=gemma3,
    origins=SANDWICH_NAMES,
    left_out=MappingProxyType(
        {
            r"(model\.)?vision_tower\.": "the vision tower",
            r"(model\.)?multi_modal_projector\.": "the projector of images",
        }
    ),
    implemented=_ACTIVATION,
    inert=GEMMA_INERT,
    constants=MappingProxyType(
        {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_activation": "gelu_pytorch_tanh",
        }
    ),
    normalized=idle_window,
    spelled=spelled,
    notices=notices(6, 62),
)
