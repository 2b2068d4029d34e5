"""GLM-4 and GLM-4-0414, dense."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    Decoder,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    rms,
    rope_notices,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.origins import Named
from gguflike.families.parts import Attention, Branch, Graph
from gguflike.families.windows import partial
from gguflike.frozen import frozen, replace


@frozen
class Glm(Decoder):
    """Hyper-parameters; half of each head turns, in adjacent pairs."""

    n_rot: int = partial()
    attention_bias: bool = key(None, "attention_bias", default=False, tensor="blk.0.attn_q.bias")


def mixer_of(c: Glm) -> Attention:
    """Attention, in which queries, keys and values may have biases."""
    return attention(c, rope_of(c, "norm"), output_bias=False)


def glm(c: Glm) -> Graph:
    """Llama's graph; one matrix gives gate and values of the feed-forward."""
    block = pre_norm(c, mixer_of(c), feed_forward(c, fused=True))
    return decoder(c, lambda _: block)


def glm4(c: Glm) -> Graph:
    """The same with norms behind the mixers, too."""
    block = (
        Branch(rms(c, "attn_norm"), mixer_of(c), rms(c, "post_attention_norm")),
        Branch(rms(c, "ffn_norm"), feed_forward(c, fused=True), rms(c, "post_ffw_norm")),
    )
    return decoder(c, lambda _: block)


GLM = Family(
    name="chatglm",
    classes=("GlmForCausalLM",),
    config=Glm,
    graph=glm,
    origins=MappingProxyType({**DECODER_NAMES, "ffn_up": Named("mlp.gate_up_proj")}),
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("GlmForCausalLM", "glm"),
    assumed=MappingProxyType(
        {"head_dim": 128, "num_key_value_heads": 2, "max_position_embeddings": 131072, "partial_rotary_factor": 0.5}
    ),
    notices=rope_notices,
)

GLM4 = replace(
    GLM,
    name="glm4",
    classes=("Glm4ForCausalLM",),
    graph=glm4,
    origins=MappingProxyType(
        {
            **GLM.origins,
            "post_attention_norm": Named("post_self_attn_layernorm"),
            "post_ffw_norm": Named("post_mlp_layernorm"),
        }
    ),
    constants=exported("Glm4ForCausalLM", "glm4"),
)
