"""StableLM 2 and StableLM 3B."""

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
    feed_forward,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, parallel, sequential
from gguflike.families.origins import Stacked
from gguflike.families.parts import Graph
from gguflike.families.windows import partial
from gguflike.frozen import frozen


@frozen
class StableLm(LayerNormed):
    """Hyper-parameters. ``parallel``: attention and feed-forward read the same norm."""

    rope_base: float = key("rope.freq_base", "rope.theta", default=10000.0, implied=True)
    n_rot: int = partial()
    attention_bias: bool = key(None, "use_qkv_bias", default=False, tensor="blk.0.attn_q.bias")
    parallel: bool = key("use_parallel_residual", "use_parallel_residual", default=False)
    qk_norm: bool = key(None, "qk_layernorm", default=False, tensor="blk.0.attn_q_norm.weight")


def stablelm(c: StableLm) -> Graph:
    """Layer norms; each head may have its own for queries and keys."""
    norms = {}
    if c.qk_norm:
        norms = {
            name: layer_norm(c, role, c.head_dim, bias=False, groups=heads)
            for name, role, heads in (("q_norm", "attn_q_norm", c.n_head), ("k_norm", "attn_k_norm", c.n_head_kv))
        }
    mixer = attention(c, rope_of(c, "neox"), output_bias=False, **norms)
    if c.parallel:
        block = parallel(layer_norm(c, "attn_norm"), mixer, feed_forward(c))
    else:
        block = sequential(c, mixer, feed_forward(c))
    return decoder(c, lambda _: block, layer_norm(c, "output_norm"))


STABLELM = Family(
    name="stablelm",
    config=StableLm,
    graph=stablelm,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            "attn_q_norm": Stacked("self_attn.q_layernorm.norms.{e}"),
            "attn_k_norm": Stacked("self_attn.k_layernorm.norms.{e}"),
        }
    ),
    implemented=SILU,
    inert=INERT_KEYS | {"hidden_dropout"},
    constants=exported("StableLmForCausalLM", "stablelm"),
)
