"""Command R and Command R7B, dense."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    QK_NAMES,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    rope_of,
    unscaled,
)
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, parallel
from gguflike.families.parts import Block, Graph
from gguflike.families.windows import every, span, window, windowed, windowed_notices
from gguflike.frozen import frozen, replace


@frozen
class Cohere(LayerNormed):
    """Hyper-parameters; logits are multiplied by ``logit_scale``."""

    rope_scaling: str | None = unscaled()
    logit_scale: float = key("logit_scale", "logit_scale", default=0.0625)
    qk_norm: bool = key(None, "use_qk_norm", default=False, tensor="blk.0.attn_q_norm.weight")
    untied: bool = key(None, "tie_word_embeddings", default=False, tensor="output.weight", negated=True)


@frozen
class Cohere2(LayerNormed):
    """Hyper-parameters; only layers with a window turn queries and keys."""

    rope_scaling: str | None = unscaled()
    logit_scale: float = key("logit_scale", "logit_scale", default=0.0625)
    window: int = window()
    windowed: tuple[bool, ...] = windowed(every(4))
    untied: bool = key(None, "tie_word_embeddings", default=False, tensor="output.weight", negated=True)


def cohere(c: Cohere) -> Graph:
    """Attention and feed-forward in parallel behind one layer norm without bias."""
    norms = {}
    if c.qk_norm:
        norms = {
            name: layer_norm(c, role, c.head_dim, bias=False, groups=heads)
            for name, role, heads in (("q_norm", "attn_q_norm", c.n_head), ("k_norm", "attn_k_norm", c.n_head_kv))
        }
    mixer = attention(c, rope_of(c, "norm"), **norms)
    block = parallel(layer_norm(c, "attn_norm", bias=False), mixer, feed_forward(c))
    return decoder(c, lambda _: block, layer_norm(c, "output_norm", bias=False), scale=c.logit_scale)


def cohere2(c: Cohere2) -> Graph:
    """The same, with windows and a rotation in all layers but every fourth."""
    rope = rope_of(c, "norm")

    def block(layer: int) -> Block:
        mixer = attention(c, rope if c.windowed[layer] else None, window=span(c, layer))
        return parallel(layer_norm(c, "attn_norm", bias=False), mixer, feed_forward(c))

    return decoder(c, block, layer_norm(c, "output_norm", bias=False), scale=c.logit_scale)


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the context that the model was trained on, of which ``max_position_embeddings`` is a part."""
    context = values.get("model_max_length") or values.get("max_position_embeddings")
    return {**{k: v for k, v in values.items() if k != "model_max_length"}, "max_position_embeddings": context}


def notices(c: Cohere2) -> list[str]:
    """What llama.cpp does not compute of files of this architecture."""
    return windowed_notices(c)


COHERE = Family(
    name="command-r",
    config=Cohere,
    graph=cohere,
    origins=MappingProxyType({**DECODER_NAMES, **QK_NAMES}),
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("CohereForCausalLM", "cohere"),
    normalized=normalized,
)

COHERE2 = replace(
    COHERE,
    name="cohere2",
    config=Cohere2,
    graph=cohere2,
    implemented=MappingProxyType(
        {
            **SILU,
            "position_embedding_type": ("rope_gptj",),
            "rotary_pct": (1.0,),
            "use_embedding_sharing": (True,),
            "use_gated_activation": (True,),
            "use_parallel_block": (True,),
            "use_parallel_embedding": (False,),
            "use_qk_norm": (False,),
        }
    ),
    inert=INERT_KEYS | {"cache_implementation", "layer_switch", "order_of_interleaved_layers"},
    constants=exported("Cohere2ForCausalLM", "cohere2"),
    notices=notices,
)
