"""Falcon 7B, 40B, 180B and Falcon 2."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import INERT_KEYS, STRETCHED_NAMES, attention, decoder, feed_forward, rope_of
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, parallel, parallel_norms
from gguflike.families.origins import Depending, Named, Run, Runs
from gguflike.families.parts import Graph, Tensor
from gguflike.frozen import frozen


@frozen
class Falcon(LayerNormed):
    """Hyper-parameters. ``two_norms``: attention and feed-forward have each their own."""

    rope_base: float = key("rope.freq_base", "rope.theta", default=10000.0, implied=True)
    n_ff: int = key("feed_forward_length", "ffn_hidden_size", default=lambda c: 4 * c.n_embd)
    head_dim: int = key(
        "attention.key_length", None, default=lambda c: c.n_embd // c.n_head, copies=("attention.value_length",)
    )
    norm_eps: float = key("attention.layer_norm_epsilon", "layer_norm_epsilon", default=1e-5)
    layout: str = key("tensor_data_layout", None, default="jploski")  # as llama.cpp calls queries before keys
    attention_bias: bool = key(None, "bias", default=False, tensor="blk.0.attn_qkv.bias")
    mlp_bias: bool = key(None, "bias", default=False, tensor="blk.0.ffn_up.bias")
    two_norms: bool = key(None, None, tensor="blk.0.attn_norm_2.weight")
    untied: bool = key(None, "tie_word_embeddings", default=False, tensor="output.weight", negated=True)


def falcon(c: Falcon) -> Graph:
    """Attention and feed-forward in parallel, behind one layer norm or two."""
    mixer = attention(c, rope_of(c, "neox"), fused=True)
    after = feed_forward(c, gated=False, activation="gelu")
    norm = layer_norm(c, "attn_norm")
    if c.two_norms:
        block = parallel_norms(layer_norm(c, "attn_norm_2"), mixer, norm, after)
    else:
        block = parallel(norm, mixer, after)
    return decoder(c, lambda _: block, layer_norm(c, "output_norm"))


def by_part(c: Falcon, tensor: Tensor) -> tuple[list[Run], int]:
    """Rows of all queries, all keys and all values; the checkpoint has them by groups that share a key."""
    size, groups = c.head_dim, c.n_head_kv
    queries = c.n_head // groups
    each = (queries + 2) * size
    runs = [Run(group * each, queries * size) for group in range(groups)]
    runs += [Run(group * each + queries * size, size) for group in range(groups)]
    runs += [Run(group * each + (queries + 1) * size, size) for group in range(groups)]
    return runs, tensor.shape[0]


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the number of key heads that its switches mean."""
    made = dict(values)
    for old, new in (("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads")):
        if old in made:
            made[new] = made.pop(old)
    grouped = made.pop("new_decoder_architecture", False)
    kept = made.pop("num_kv_heads", made.pop("n_head_kv", None))
    made.pop("num_ln_in_parallel_attn", None)  # the tensors show it
    if grouped:
        made["num_key_value_heads"] = kept or made.get("num_attention_heads")
        made.pop("multi_query", None)
        made.pop("parallel_attn", None)
    elif made.pop("multi_query", True):
        made["num_key_value_heads"] = 1
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite."""
    made = dict(values)
    heads = made.pop("num_key_value_heads")
    if made.pop("two_norms", False) or heads > 1:
        return {**made, "new_decoder_architecture": True, "num_kv_heads": heads}
    return {**made, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}


FALCON = Family(
    name="falcon",
    config=Falcon,
    graph=falcon,
    layers="transformer.h.{i}.",
    origins=MappingProxyType(
        {
            **STRETCHED_NAMES,
            "token_embd": Named("transformer.word_embeddings"),
            "attn_norm": Depending((Named("input_layernorm"), Named("ln_mlp")), lambda c: int(c.two_norms)),
            "attn_norm_2": Named("ln_attn"),
            "attn_qkv": Runs("self_attention.query_key_value", by_part),
            "attn_output": Named("self_attention.dense"),
            "ffn_up": Named("mlp.dense_h_to_4h"),
            "ffn_down": Named("mlp.dense_4h_to_h"),
            "output_norm": Named("transformer.ln_f"),
            "output": Named("lm_head"),
        }
    ),
    implemented=MappingProxyType(
        {"activation": ("gelu",), "alibi": (False,), "parallel_attn": (True,), "rotary": (True,)}
    ),
    inert=INERT_KEYS | {"apply_residual_connection_post_layernorm", "hidden_dropout"},
    constants=MappingProxyType(
        {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "activation": "gelu", "alibi": False}
    ),
    normalized=normalized,
    spelled=spelled,
)
