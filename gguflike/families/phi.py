"""Phi 1 to 2, and Phi 3 to 4."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    LONGROPE_NAMES,
    SILU,
    LongRope,
    attention,
    decoder,
    exported,
    feed_forward,
    first_context,
    longrope_of,
    pre_norm,
    recover_longrope,
    rope_of,
    window_notices,
)
from gguflike.families.family import Family
from gguflike.families.layernorm import LayerNormed, layer_norm, parallel
from gguflike.families.origins import Named
from gguflike.families.parts import Graph
from gguflike.families.windows import partial, window
from gguflike.frozen import frozen


@frozen
class Phi3(LongRope):
    """Hyper-parameters."""

    n_rot: int = partial()
    rope_context: int | None = first_context()
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)
    window: int = window(implied=False)


def phi3(c: Phi3) -> Graph:
    """Llama's graph with fused matrices, and a window in every layer where there is one."""
    hidden = c.window if c.window < c.n_ctx else 0
    mixer = attention(c, longrope_of(c, "neox"), fused=True, window=hidden)
    block = pre_norm(c, mixer, feed_forward(c, fused=True))
    return decoder(c, lambda _: block)


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json, with the original context where Phi3Config has it."""
    context = (values.get("rope_scaling") or {}).get("original_max_position_embeddings")
    return values if context is None else {**values, "original_max_position_embeddings": context}


PHI3 = Family(
    name="phi3",
    config=Phi3,
    graph=phi3,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **LONGROPE_NAMES,
            "attn_qkv": Named("self_attn.qkv_proj"),
            "ffn_up": Named("mlp.gate_up_proj"),
        }
    ),
    implemented=MappingProxyType(
        {
            **SILU,
            "attention_bias": (False,),
            "full_attn_mod": (1,),
            "interpolate_factor": (1,),
            "lm_head_bias": (False,),
            "mlp_bias": (False,),
        }
    ),
    inert=INERT_KEYS | {"embd_pdrop", "resid_pdrop"},
    constants=exported("Phi3ForCausalLM", "phi3"),
    spelled=spelled,
    notices=window_notices,
    recover=recover_longrope,
)


@frozen
class Phi2(LayerNormed):
    """Hyper-parameters; everything has a bias."""

    rope_base: float = key("rope.freq_base", "rope.theta", default=10000.0, implied=True)
    n_rot: int = partial()


def phi2(c: Phi2) -> Graph:
    """Attention and feed-forward in parallel behind one layer norm."""
    mixer = attention(c, rope_of(c, "neox"), bias=True, output_bias=True)
    after = feed_forward(c, gated=False, activation="gelu_tanh", bias=True)
    block = parallel(layer_norm(c, "attn_norm"), mixer, after)
    return decoder(c, lambda _: block, layer_norm(c, "output_norm"), bias=True)


PHI2 = Family(
    name="phi2",
    config=Phi2,
    graph=phi2,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            "attn_output": Named("self_attn.dense"),
            "ffn_up": Named("mlp.fc1"),
            "ffn_down": Named("mlp.fc2"),
            "output_norm": Named("model.final_layernorm"),
        }
    ),
    implemented=MappingProxyType({"hidden_act": ("gelu_new",), "qk_layernorm": (False,)}),
    inert=INERT_KEYS | {"embd_pdrop", "resid_pdrop"},
    constants=exported("PhiForCausalLM", "phi", "gelu_new"),
)
