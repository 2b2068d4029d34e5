"""gpt-oss: windows on every other layer, attention sinks, experts with biases and a clamped activation."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    attention,
    decoder,
    exported,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import ROUTER_KEYS, Mixture, experts
from gguflike.families.origins import Either, Microscaled, Named, Origin
from gguflike.families.parts import Branch, Graph
from gguflike.families.parts.experts import Router
from gguflike.families.transforms import Share, Transposed
from gguflike.families.windows import every, span, window, windowed
from gguflike.frozen import frozen


@frozen
class GptOss(Mixture):
    """Hyper-parameters. What config.json calls a feed-forward's size is an expert's."""

    n_ff_expert: int = key("expert_feed_forward_length", "intermediate_size")
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    attention_bias: bool = key(None, "attention_bias", default=True, tensor="blk.0.attn_q.bias")
    window: int = window()
    windowed: tuple[bool, ...] = windowed(every(2))


def gpt_oss(c: GptOss) -> Graph:
    """Pre-norm blocks of attention and experts."""
    rope = rope_of(c, "neox")
    router = Router("softmax_chosen", normalize=False, bias=True)
    mixture = Branch(rms(c, "post_attention_norm"), experts(c, router, activation="swiglu_oai", clamp=7.0, bias=True))
    return decoder(
        c,
        lambda layer: (
            Branch(rms(c, "attn_norm"), attention(c, rope, window=span(c, layer), sinks=True)),
            mixture,
        ),
    )


def _halves(name: str) -> dict[str, Origin]:
    """Rows of gate and up, which take turns in one tensor of the checkpoint: floats, or as they are published."""
    made: dict[str, Origin] = {}
    for index, role in enumerate(("gate", "up")):
        floats = Named(name, Share(index=index, alternate=True, transposed=True), bare=True)
        made[f"ffn_{role}_exps.weight"] = Either((floats, Microscaled(name, Share(index=index, alternate=True))))
        made[f"ffn_{role}_exps.bias"] = Named(f"{name}_bias", Share(index=index, alternate=True), bare=True)
    return made


GPT_OSS = Family(
    name="gpt-oss",
    config=GptOss,
    graph=gpt_oss,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **_halves("mlp.experts.gate_up_proj"),
            "post_attention_norm": Named("post_attention_layernorm"),
            "attn_sinks": Named("self_attn.sinks", bare=True),
            "ffn_gate_inp": Named("mlp.router"),
            "ffn_down_exps.weight": Either(
                (Named("mlp.experts.down_proj", Transposed(), bare=True), Microscaled("mlp.experts.down_proj"))
            ),
            "ffn_down_exps.bias": Named("mlp.experts.down_proj_bias", bare=True),
        }
    ),
    implemented=MappingProxyType({**SILU, "swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)}),
    inert=INERT_KEYS | ROUTER_KEYS | {"experts_per_token", "initial_context_length"},  # others say the same
    constants=exported("GptOssForCausalLM", "gpt_oss"),
)
