"""BitNet b1.58."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
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
from gguflike.families.origins import Named
from gguflike.families.parts import Graph
from gguflike.frozen import frozen


@frozen
class BitNet(Decoder):
    """Hyper-parameters."""

    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)


def bitnet(c: BitNet) -> Graph:
    """A norm before the last matrix of either mixer, and relu(x)**2 for the gate."""
    mixer = attention(c, rope_of(c, "neox"), output_norm=rms(c, "attn_sub_norm", c.n_head * c.head_dim))
    after = feed_forward(c, activation="relu2", down_norm=rms(c, "ffn_sub_norm", c.n_ff))
    return decoder(c, lambda _: pre_norm(c, mixer, after))


def notices(_: BitNet) -> list[str]:
    """What is computed otherwise of files of this architecture."""
    return ["llama.cpp activates the gate of this architecture by silu, the model's authors by relu squared"]


BITNET = Family(
    name="bitnet",
    config=BitNet,
    graph=bitnet,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            "attn_sub_norm": Named("self_attn.attn_sub_norm"),
            "ffn_sub_norm": Named("mlp.ffn_sub_norm"),
        }
    ),
    implemented=MappingProxyType({"hidden_act": ("relu2",)}),
    inert=INERT_KEYS,
    constants=exported("BitNetForCausalLM", "bitnet", "relu2"),
    notices=notices,
)
