"""GLM-4 and GLM-4-0414, dense."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.errors import UnsupportedError
from gguflike.families import mtp
from gguflike.families.config import Via, key
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
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.origins import Depending, Named
from gguflike.families.parts import Attention, Branch, Graph
from gguflike.families.qwen import padded
from gguflike.families.transforms import RopeSplit
from gguflike.families.windows import partial
from gguflike.frozen import frozen, replace


@frozen
class Glm(Decoder):
    """Hyper-parameters; half of each head turns, in adjacent pairs."""

    n_rot: int = partial()


@frozen
class Glm4(mtp.Headed, Glm):
    """Hyper-parameters. GLM-OCR has a head that predicts further tokens. Of models that see, ``sections`` say how many
    pairs turn by which of an image's positions; GGUF then has the pairs half apart."""

    sections: tuple[int, ...] | None = key(
        "rope.dimension_sections", "rope.sections", listed=True, via=Via(read=padded, write=lambda _: None)
    )


@frozen
class Glm4v(Glm4):
    """Hyper-parameters of a text tower, whose config.json does not say whether there are biases."""

    attention_bias: bool = key(None, None, tensor="blk.0.attn_q.bias")


def mixer_of(c: Glm) -> Attention:
    """Attention, in which queries, keys and values may have biases."""
    sees = isinstance(c, Glm4) and c.sections is not None
    return attention(c, rope_of(c, "neox" if sees else "norm"), output_bias=False)


def _pairs(c: Glm4) -> int:
    """Which of the origins of queries and keys: as they are, or split where all of a head turns, or half of it."""
    if c.sections is None:
        return 0
    if c.n_rot not in (c.head_dim, c.head_dim // 2):
        raise UnsupportedError("share of a head that turns", expected="all of it or half", got=c.n_rot / c.head_dim)
    return 1 if c.n_rot == c.head_dim else 2


def _turned(name: str) -> Depending:
    return Depending((Named(name), Named(name, RopeSplit(part=1)), Named(name, RopeSplit(part=2))), _pairs)


def glm(c: Glm) -> Graph:
    """Llama's graph; one matrix gives gate and values of the feed-forward."""
    block = pre_norm(c, mixer_of(c), feed_forward(c, fused=True))
    return decoder(c, lambda _: block)


def glm4(c: Glm4) -> Graph:
    """The same with norms behind the mixers, too, in the block of a head as well."""
    block = (
        Branch(rms(c, "attn_norm"), mixer_of(c), rms(c, "post_attention_norm")),
        Branch(rms(c, "ffn_norm"), feed_forward(c, fused=True), rms(c, "post_ffw_norm")),
    )
    return mtp.with_mtp(c, decoder(c, lambda _: block), lambda _: block)


GLM = Family(
    name="chatglm",
    config=Glm,
    graph=glm,
    origins=MappingProxyType({**DECODER_NAMES, "ffn_up": Named("mlp.gate_up_proj")}),
    implemented=SILU,
    inert=INERT_KEYS,
    constants=exported("GlmForCausalLM", "glm"),
)

GLM4 = replace(
    GLM,
    name="glm4",
    config=Glm4,
    graph=glm4,
    origins=MappingProxyType(
        {
            **GLM.origins,
            "attn_q": _turned("self_attn.q_proj"),
            "attn_k": _turned("self_attn.k_proj"),
            "post_attention_norm": Named("post_self_attn_layernorm"),
            "post_ffw_norm": Named("post_mlp_layernorm"),
        }
    ),
    mtp_origins=mtp.MTP_NAMES,
    constants=exported("Glm4ForCausalLM", "glm4"),
)

GLM4V = replace(
    GLM4,
    config=Glm4v,
    left_out=MappingProxyType({r"(model\.)?visual\.": "the vision tower"}),
)
