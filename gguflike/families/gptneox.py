"""GPT-NeoX and Pythia."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import CheckpointError
from gguflike.families.config import key
from gguflike.families.decoder import INERT_KEYS, STRETCHED_NAMES, attention, decoder, exported, feed_forward, rope_of
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, parallel_norms, sequential
from gguflike.families.origins import Named, Run, Runs
from gguflike.families.parts import Graph, Tensor
from gguflike.families.windows import partial
from gguflike.frozen import frozen


@frozen
class GptNeoX(LayerNormed):
    """Hyper-parameters. ``parallel``: attention and feed-forward, each with its norm, read the same."""

    rope_base: float = key("rope.freq_base", "rope.theta", default=10000.0, implied=True)
    n_head_kv: int = key("attention.head_count_kv", None, default=lambda c: c.n_head, implied=True)
    n_rot: int = partial()
    attention_bias: bool = key(None, "attention_bias", default=True, tensor="blk.0.attn_qkv.bias")
    parallel: bool = key("use_parallel_residual", "use_parallel_residual", default=True)


def gptneox(c: GptNeoX) -> Graph:
    """Layer norms, one matrix for queries, keys and values, a feed-forward without a gate; biases everywhere."""
    mixer = attention(c, rope_of(c, "neox"), fused=True)
    after = feed_forward(c, gated=False, activation="gelu", bias=True)
    if c.parallel:
        block = parallel_norms(layer_norm(c, "attn_norm"), mixer, layer_norm(c, "ffn_norm"), after)
    else:
        block = sequential(c, mixer, after)
    return decoder(c, lambda _: block, layer_norm(c, "output_norm"))


def by_part(c: Any, tensor: Tensor) -> tuple[list[Run], int]:
    """Rows of all queries, all keys and all values; the checkpoint has the three of each head together."""
    size = c.head_dim
    runs = [Run((3 * head + part) * size, size) for part in range(3) for head in range(c.n_head)]
    return runs, tensor.shape[0]


# What other classes call settings of the rotation, what GPTNeoXConfig does, and what it assumes.
_OTHERS = (("partial_rotary_factor", "rotary_pct", 0.25), ("rope_theta", "rotary_emb_base", 10000.0))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the rotation as GPTNeoXConfig has it. CheckpointError where a name that others read says what it
    does not."""
    made = dict(values)
    settings = made.get("rope_scaling") or made.get("rope_parameters") or {}
    for other, own, assumed in _OTHERS:
        given, read = made.pop(other, None), settings.get(other)
        if read is None:
            read = made[own] = assumed if made.get(own) is None else made[own]
        if given not in (None, read):
            raise CheckpointError(
                f"{other} is not {own}, which GPTNeoXForCausalLM of Transformers reads",
                field=f"config.json: {other}",
                expected=repr(read),
                got=repr(given),
                remedy=f"say it by {own}, or remove {other}",
            )
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, with the base and the share of a head that turns where GPTNeoXConfig has them."""
    made = dict(values)
    base = {"rotary_emb_base": made.pop("rope_theta")} if "rope_theta" in made else {}
    return {"rotary_pct": made.pop("partial_rotary_factor", 1.0), **base, **made}


GPTNEOX = Family(
    name="gptneox",
    config=GptNeoX,
    graph=gptneox,
    layers="gpt_neox.layers.{i}.",
    origins=MappingProxyType(
        {
            **STRETCHED_NAMES,
            "token_embd": Named("gpt_neox.embed_in"),
            "attn_norm": Named("input_layernorm"),
            "attn_qkv": Runs("attention.query_key_value", by_part),
            "attn_output": Named("attention.dense"),
            "ffn_norm": Named("post_attention_layernorm"),
            "ffn_up": Named("mlp.dense_h_to_4h"),
            "ffn_down": Named("mlp.dense_4h_to_h"),
            "output_norm": Named("gpt_neox.final_layer_norm"),
            "output": Named("embed_out"),
        }
    ),
    ignored=("gpt_neox.layers.{i}.attention.bias",),
    implemented=MappingProxyType({"hidden_act": ("gelu",)}),
    inert=INERT_KEYS | {"classifier_dropout", "hidden_dropout"},
    constants=exported("GPTNeoXForCausalLM", "gpt_neox", "gelu"),
    normalized=normalized,
    spelled=spelled,
)
