"""Falcon-H1: attention and Mamba 2 side by side in each layer.

Its many multipliers are of weights, so that a GGUF file holds their products; an export says that all are 1.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from gguflike.errors import counted
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    SILU,
    attention,
    decoder,
    exported,
    feed_forward,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.hybrid import MAMBA2_IMPLEMENTED, MAMBA2_INERT, Mamba2Hybrid, mamba2, mamba2_origins
from gguflike.families.origins import Either, Named, Run, Runs
from gguflike.families.parts import Branch, Graph, Tensor
from gguflike.families.parts.extras import Path, Sum
from gguflike.families.transforms import Scaled
from gguflike.frozen import frozen, replace


def _list_of(count: int) -> Callable[[Any, Any], Any]:
    def read(_: Any, value: Any) -> Any:
        if not isinstance(value, list) or len(value) != count:
            raise ValueError(f"a list of {counted(count, 'number')}")
        return value

    return read


@frozen
class FalconH1(Mamba2Hybrid):
    """Hyper-parameters, and the multipliers that weights are multiplied by."""

    n_head_kv: tuple[int, ...] = key(  # alike in all layers
        "attention.head_count_kv", "num_key_value_heads"
    )
    inner: int = key("ssm.inner_size", "mamba_d_ssm")
    normed: bool = key(None, "mamba_rms_norm", default=False, tensor="blk.0.ssm_norm.weight")
    embedding: float = key(None, "embedding_multiplier", default=1.0)
    head: float = key(None, "lm_head_multiplier", default=1.0)
    attention_in: float = key(None, "attention_in_multiplier", default=1.0)
    attention_out: float = key(None, "attention_out_multiplier", default=1.0)
    keys: float = key(None, "key_multiplier", default=1.0)
    ssm_in: float = key(None, "ssm_in_multiplier", default=1.0)
    ssm_out: float = key(None, "ssm_out_multiplier", default=1.0)
    ssm: tuple[float, ...] = key(
        None, "ssm_multipliers", default=(1.0,) * 5, listed=True, via=Via(_list_of(5), lambda c: list(c.ssm))
    )
    mlp: tuple[float, ...] = key(
        None, "mlp_multipliers", default=(1.0, 1.0), listed=True, via=Via(_list_of(2), lambda c: list(c.mlp))
    )


def falcon_h1(c: FalconH1) -> Graph:
    """Blocks of a sum and a feed-forward."""
    scan = mamba2(c)
    if not c.normed:
        scan = replace(scan, norm=None)
    paths = (Path(None, attention(c, rope_of(c, "neox"), kv_heads=c.key_heads)), Path(None, scan))
    # llama.cpp calls this norm's weight by the norm's name alone.
    norm = rms(c, "ffn_norm", bare=True)
    block = (Branch(rms(c, "attn_norm"), Sum(paths)), Branch(norm, feed_forward(c)))
    return decoder(c, lambda _: block)


def _scaled(name: str, *factors: Callable[[FalconH1], float]) -> Runs:
    """A tensor times multipliers."""

    def order(c: FalconH1, tensor: Tensor) -> tuple[list[Run], int]:
        return [Run(0, tensor.shape[0], Scaled(factors=tuple(factor(c) for factor in factors)))], tensor.shape[0]

    return Runs(name, order)


def _into(c: FalconH1, tensor: Tensor) -> tuple[list[Run], int]:
    """Rows of z, x, B, C and dt, each times a multiplier of its own."""
    state, runs, start = c.groups * c.d_state, [], 0
    for rows, factor in zip((c.inner, c.inner, state, state, c.heads), c.ssm, strict=True):
        runs.append(Run(start, rows, Scaled(factors=(c.ssm_in, factor))))
        start += rows
    return runs, tensor.shape[0]


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with both matrices of tied embeddings, which multipliers make different."""
    made = {**values, "tie_word_embeddings": False}
    if made.get("mamba_d_ssm") is None and isinstance(made.get("hidden_size"), int):
        made["mamba_d_ssm"] = made.get("mamba_expand", 2) * made["hidden_size"]
    if not made.get("mamba_rms_norm"):
        made.pop("mamba_norm_before_gate", None)
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """One number of key heads."""
    return {**values, "num_key_value_heads": max(values["num_key_value_heads"])}


FALCON_H1 = Family(
    name="falcon-h1",
    config=FalconH1,
    graph=falcon_h1,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **mamba2_origins("mamba"),
            "token_embd": _scaled("model.embed_tokens", lambda c: c.embedding),
            "output": Either((_scaled("lm_head", lambda c: c.head), _scaled("model.embed_tokens", lambda c: c.head))),
            "output_norm": Named("model.final_layernorm"),
            "attn_q": _scaled("self_attn.q_proj", lambda c: c.attention_in),
            "attn_k": _scaled("self_attn.k_proj", lambda c: c.keys, lambda c: c.attention_in),
            "attn_v": _scaled("self_attn.v_proj", lambda c: c.attention_in),
            "attn_output": _scaled("self_attn.o_proj", lambda c: c.attention_out),
            "ssm_in": Runs("mamba.in_proj", _into),
            "ssm_out": _scaled("mamba.out_proj", lambda c: c.ssm_out),
            "ffn_norm": Named("pre_ff_layernorm"),
            "ffn_gate": _scaled("feed_forward.gate_proj", lambda c: c.mlp[0]),
            "ffn_up": Named("feed_forward.up_proj"),
            "ffn_down": _scaled("feed_forward.down_proj", lambda c: c.mlp[1]),
        }
    ),
    implemented=MappingProxyType(
        {
            **SILU,
            **MAMBA2_IMPLEMENTED,
            "attention_bias": (False,),
            "mamba_norm_before_gate": (False,),
            "mlp_bias": (False,),
            "projectors_bias": (False,),
        }
    ),
    inert=INERT_KEYS | MAMBA2_INERT | {"mamba_expand", "mamba_use_mlp"},
    constants=exported("FalconH1ForCausalLM", "falcon_h1", mamba_norm_before_gate=False),
    normalized=normalized,
    spelled=spelled,
)
