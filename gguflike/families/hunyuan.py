"""Hunyuan, dense."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gguflike.errors import CheckpointError
from gguflike.families.config import key
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
    qk_norms,
    rope_of,
    unscaled,
)
from gguflike.families.family import Family
from gguflike.families.origins import Named
from gguflike.families.parts import Graph
from gguflike.frozen import frozen


@frozen
class Hunyuan(Decoder):
    """Hyper-parameters."""

    rope_scaling: str | None = unscaled()
    rope_factor: float | None = key("rope.scaling.factor", "rope.scaling.factor", default=1.0)
    norm_eps: float = key("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5)


def hunyuan(c: Hunyuan) -> Graph:
    """Queries and keys are normalized per head after they turn."""
    mixer = attention(c, rope_of(c, "neox"), **qk_norms(c), norm_after_rope=True)
    block = pre_norm(c, mixer, feed_forward(c))
    return decoder(c, lambda _: block)


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with the base of the rotation that the factor ``alpha`` of "dynamic" scaling stands for."""
    from gguflike.families.rope_settings import number  # a run reads no config.json

    made = dict(values)
    for name in ("rope_parameters", "rope_scaling"):
        rope = made.get(name)
        if not isinstance(rope, dict) or not rope.get("alpha"):
            continue
        size = made.get("head_dim") or made.get("hidden_size", 0) // made.get("num_attention_heads", 1)
        if size <= 2:
            raise CheckpointError("heads too small", field="config.json: head_dim", expected="more than 2", got=size)
        base = number("rope_theta", rope.get("rope_theta") or made.get("rope_theta") or 10000.0)
        stretch = number("alpha", rope["alpha"]) ** (size / (size - 2))
        made.pop("rope_theta", None)
        made[name] = {"rope_type": "default", "rope_theta": base * stretch}
    return made


HUNYUAN_NAMES = MappingProxyType(
    {
        **DECODER_NAMES,
        "attn_q_norm": Named("self_attn.query_layernorm"),
        "attn_k_norm": Named("self_attn.key_layernorm"),
    }
)
# What config.json has of the trainer, of tokens, and of layers that share keys, which no published model uses.
HUNYUAN_INERT = INERT_KEYS | {
    "attention_head_dim",
    "cla_share_factor",
    "class_num",
    "dense_list",
    "eod_token_id",
    "im_end_id",
    "im_newline_id",
    "im_start_id",
    "mask_init_id",
    "org_vocab_size",
    "pool_type",
    "text_end_id",
    "text_start_id",
}
HUNYUAN_IMPLEMENTED = MappingProxyType(
    {
        **SILU,
        "add_classification_head": (False,),
        "norm_type": ("rms",),
        "position_embedding_xdrope": (False,),
        "use_cla": (False,),
        "use_qk_norm": (True,),
        "use_rotary_pos_emb": (True,),
    }
)

HUNYUAN = Family(
    name="hunyuan-dense",
    config=Hunyuan,
    graph=hunyuan,
    origins=HUNYUAN_NAMES,
    implemented=HUNYUAN_IMPLEMENTED,
    inert=HUNYUAN_INERT,
    constants=exported("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense"),
    normalized=normalized,
)
