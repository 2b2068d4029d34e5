"""GPT-2, and the first StarCoder."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import INERT_KEYS, attention, decoder, feed_forward
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, sequential
from gguflike.families.origins import Named
from gguflike.families.parts import Graph
from gguflike.families.transforms import Transposed
from gguflike.frozen import frozen, replace


@frozen
class Gpt2(LayerNormed):
    """Hyper-parameters. Positions are learned, nothing turns."""

    n_layer: int = key("block_count", "n_layer")
    n_ctx: int = key("context_length", "n_positions", default=1024)
    n_embd: int = key("embedding_length", "n_embd")
    n_ff: int = key("feed_forward_length", "n_inner", default=lambda c: 4 * c.n_embd)
    n_head: int = key("attention.head_count", "n_head")
    n_head_kv: int = key("attention.head_count_kv", None, default=lambda c: c.n_head, implied=True)
    head_dim: int = key(
        "attention.key_length", None, default=lambda c: c.n_embd // c.n_head, copies=("attention.value_length",)
    )
    n_rot: int = key(None, None, default=lambda c: c.head_dim)
    rope_base: float = key(None, None, default=10000.0)
    norm_eps: float = key("attention.layer_norm_epsilon", "layer_norm_epsilon", default=1e-5)
    attention_bias: bool = key(None, None, default=True)
    mlp_bias: bool = key(None, None, default=True)
    untied: bool = key(None, "tie_word_embeddings", default=False, tensor="output.weight", negated=True)


@frozen
class BigCode(Gpt2):
    """Hyper-parameters of StarCoder; all heads share one key and value."""

    n_head_kv: int = key("attention.head_count_kv", None, default=1)


def gpt2(c: Gpt2) -> Graph:
    """Layer norms, one matrix for queries, keys and values, a feed-forward without a gate; biases everywhere."""
    block = sequential(c, attention(c, None, fused=True), feed_forward(c, gated=False, activation="gelu_tanh"))
    graph = decoder(c, lambda _: block, layer_norm(c, "output_norm"))
    return replace(graph, embedding=replace(graph.embedding, positions=c.n_ctx))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json without the older name of its context, which says the same."""
    return {name: value for name, value in values.items() if name != "n_ctx" or value != values.get("n_positions")}


_NAMES = MappingProxyType(
    {
        "token_embd": Named("transformer.wte"),
        "position_embd": Named("transformer.wpe"),
        "attn_norm": Named("ln_1"),
        "attn_qkv": Named("attn.c_attn"),
        "attn_output": Named("attn.c_proj"),
        "ffn_norm": Named("ln_2"),
        "ffn_up": Named("mlp.c_fc"),
        "ffn_down": Named("mlp.c_proj"),
        "output_norm": Named("transformer.ln_f"),
        "output": Named("lm_head"),
    }
)
_MATRICES = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")

GPT2 = Family(
    name="gpt2",
    config=Gpt2,
    graph=gpt2,
    layers="transformer.h.{i}.",
    origins=MappingProxyType(
        {**_NAMES, **{f"{role}.weight": Named(_NAMES[role].name, Transposed()) for role in _MATRICES}}
    ),
    # OpenAI's own files lack the first part of the names.
    ignored=("transformer.h.{i}.attn.bias",),
    implemented=MappingProxyType(
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
        }
    ),
    inert=INERT_KEYS
    | {
        "attn_pdrop",
        "embd_pdrop",
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    },
    constants=MappingProxyType(
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new"}
    ),
    normalized=normalized,
)

GPT_BIGCODE = replace(
    GPT2,
    name="starcoder",
    config=BigCode,
    origins=_NAMES,
    implemented=MappingProxyType(
        {
            "activation_function": ("gelu_pytorch_tanh",),
            "add_cross_attention": (False,),
            "multi_query": (True,),
            "num_key_value_heads": (1,),
            "scale_attn_weights": (True,),
        }
    ),
    inert=GPT2.inert
    | {"attention_softmax_in_fp32", "inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length"}
    | {"pre_allocate_kv_cache", "scale_attention_softmax_in_fp32", "validate_runner_input"},
    constants=MappingProxyType(
        {
            "architectures": ["GPTBigCodeForCausalLM"],
            "model_type": "gpt_bigcode",
            "activation_function": "gelu_pytorch_tanh",
        }
    ),
)
