"""Llama and what shares its graph: Llama 2 and 3, Mistral, TinyLlama, SmolLM2."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    Decoder,
    attention,
    decoder,
    feed_forward,
    llama3_rope_freqs,
    pre_norm,
    recover_llama3,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.origins import Made, Named
from gguflike.families.parts import Graph
from gguflike.families.transforms import RopePermute
from gguflike.frozen import replace


def llama(c: Decoder) -> Graph:
    """Pre-norm blocks of attention and a gated feed-forward."""
    block = pre_norm(c, attention(c, rope_of(c, "norm")), feed_forward(c))
    return decoder(c, lambda _: block)


LLAMA = Family(
    name="llama",
    classes=("LlamaForCausalLM",),
    config=Decoder,
    graph=llama,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            "rope_freqs": Made(llama3_rope_freqs),
            "attn_q": Named("self_attn.q_proj", RopePermute()),
            "attn_k": Named("self_attn.k_proj", RopePermute()),
        }
    ),
    ignored=("model.layers.{i}.self_attn.rotary_emb.inv_freq",),
    implemented=MappingProxyType({"hidden_act": ("silu", "swish")}),
    inert=INERT_KEYS,
    constants=MappingProxyType({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}),
    recover=recover_llama3,
)

# The same graph; only what Transformers assumes for absent keys differs (MistralConfig).
MISTRAL = replace(
    LLAMA,
    classes=("MistralForCausalLM",),
    assumed=MappingProxyType({"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}),
    window="sliding_window",
)
