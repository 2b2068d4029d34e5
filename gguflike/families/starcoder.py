"""StarCoder 2."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import DECODER_NAMES, INERT_KEYS, attention, decoder, exported, feed_forward, rope_of
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, sequential
from gguflike.families.origins import Named
from gguflike.families.parts import Graph
from gguflike.families.qwen import notices
from gguflike.families.windows import all_layers, span, window, windowed
from gguflike.frozen import frozen


@frozen
class Starcoder2(LayerNormed):
    """Hyper-parameters; one key says whether matrices have biases."""

    norm_eps: float = key("attention.layer_norm_epsilon", "norm_epsilon", default=1e-5)
    attention_bias: bool = key(None, "use_bias", default=True, tensor="blk.0.attn_q.bias")
    mlp_bias: bool = key(None, "use_bias", default=True, tensor="blk.0.ffn_up.bias")
    window: int = window()
    windowed: tuple[bool, ...] = windowed(all_layers)
    untied: bool = key(None, "tie_word_embeddings", default=False, tensor="output.weight", negated=True)


def starcoder2(c: Starcoder2) -> Graph:
    """Layer norms and a feed-forward without a gate."""
    rope, after = rope_of(c, "neox"), feed_forward(c, gated=False, activation="gelu_tanh")
    return decoder(
        c,
        lambda layer: sequential(c, attention(c, rope, window=span(c, layer)), after),
        layer_norm(c, "output_norm"),
    )


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json; Starcoder2Config has a window for all layers or for none."""
    return {name: value for name, value in values.items() if name != "layer_types"}


STARCODER2 = Family(
    name="starcoder2",
    config=Starcoder2,
    graph=starcoder2,
    origins=MappingProxyType({**DECODER_NAMES, "ffn_up": Named("mlp.c_fc"), "ffn_down": Named("mlp.c_proj")}),
    implemented=MappingProxyType(
        {
            "hidden_act": ("gelu_pytorch_tanh",),
            "activation_function": ("gelu_pytorch_tanh",),
            "mlp_type": ("default",),
            "norm_type": ("layer_norm",),
        }
    ),
    inert=INERT_KEYS
    | {
        "attention_softmax_in_fp32",
        "embedding_dropout",
        "residual_dropout",
        "scale_attention_softmax_in_fp32",
    },
    constants=exported("Starcoder2ForCausalLM", "starcoder2", "gelu_pytorch_tanh"),
    spelled=spelled,
    notices=notices,
)
