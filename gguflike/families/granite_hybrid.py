"""Granite 4 hybrids and Bamba: Mamba 2 in most layers, attention in the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.config import Via, key
from gguflike.families.decoder import INERT_KEYS, PERMUTED_NAMES, SILU, attention, decoder, exported, rope_of
from gguflike.families.family import Family, said
from gguflike.families.granite import GRANITE, Granite, scaled_block, scales
from gguflike.families.granite_moe import GRANITE_MOE_SHARED
from gguflike.families.hybrid import (
    MAMBA2_IMPLEMENTED,
    MAMBA2_INERT,
    Mamba2Hybrid,
    attending,
    mamba2,
    mamba2_origins,
    with_layer_heads,
    with_layer_types,
)
from gguflike.families.mixture import enough, shared
from gguflike.families.origins import Named, Rows, Run, Runs
from gguflike.families.parts import FeedForward, Graph, Mixer, Tensor
from gguflike.families.parts.experts import Experts, Router
from gguflike.families.transforms import RopePermute, Share
from gguflike.frozen import frozen, replace


@frozen
class GraniteHybrid(Mamba2Hybrid, Granite):
    """Hyper-parameters; ``rotates``: attention turns queries and keys."""

    n_rot: int = key(
        "rope.dimension_count",
        "rope.partial_rotary_factor",
        default=lambda c: c.head_dim,
        via=Via(
            read=lambda c, share: int(c.head_dim * share),
            write=lambda c: None if c.n_rot == c.head_dim else c.n_rot / c.head_dim,
        ),
    )
    rotates: bool = key(
        "rope.scaling.finetuned",
        "position_embedding_type",
        default=True,
        via=Via(read=lambda _, kind: kind == "rope", write=lambda c: "rope" if c.rotates else "nope"),
    )
    n_expert: int | None = key("expert_count", "num_local_experts", zero=True)
    n_expert_used: int | None = key("expert_used_count", "num_experts_per_tok", zero=True)
    n_ff_shared: int = key(
        "expert_shared_feed_forward_length", "shared_intermediate_size", default=0, zero=True, implied=True
    )


@frozen
class Bamba(GraniteHybrid):
    """Hyper-parameters, without multipliers."""

    embedding_scale: float = key("embedding_scale", None, default=1.0, implied=True)
    residual_scale: float = key("residual_scale", None, default=1.0, implied=True)
    logit_scale: float = key("logit_scale", None, default=1.0, implied=True)


def after(c: GraniteHybrid) -> Mixer:
    """What follows the mixer: experts and one that all tokens share, or the latter alone."""
    if not c.n_expert or not c.n_expert_used:
        return FeedForward(c.n_embd, c.n_ff, bias=c.mlp_bias)
    part = Experts(c.n_embd, c.n_ff, c.n_expert, c.n_expert_used, Router(), shared=shared(c, c.n_ff_shared))
    return enough(part)


def granite_hybrid(c: GraniteHybrid) -> Graph:
    """Granite's blocks with either mixer."""
    rope = rope_of(c, "norm") if c.rotates else None
    full = attention(c, rope, kv_heads=c.key_heads or c.n_head, scale=c.attention_scale)
    mixers, second = (mamba2(c), full), after(c)
    return decoder(c, lambda layer: scaled_block(c, mixers[c.n_head_kv[layer] > 0], second), **scales(c))


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with a number of key heads for each layer and the feed-forward's size."""
    made = with_layer_heads(values, attending(values) or [False] * (values.get("num_hidden_layers") or 0))
    made.pop("layer_types", None)
    if not made.get("num_local_experts"):
        made["intermediate_size"] = made.get("shared_intermediate_size")
        made["num_experts_per_tok"] = 0  # of none, whatever config.json says
    if made.get("position_embedding_type") != "rope":
        made["position_embedding_type"] = "nope"
        made["max_position_embeddings"] = 2**20  # as llama.cpp's converter says: nothing in these models ends
    return made


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite."""
    made = with_layer_types(values, "attention", "mamba")
    if made["position_embedding_type"] == "nope":
        made["position_embedding_type"] = None
    if not made.get("num_local_experts"):
        made |= {"num_local_experts": 0, "num_experts_per_tok": 0}
        made["shared_intermediate_size"] = made["intermediate_size"]
    return made


def _attends_only(values: Mapping[str, Any]) -> Family[Any] | None:
    """The family of a configuration without recurrent layers."""
    if not all(attending(values)) or not values.get("layer_types"):
        return None
    return ATTENTION_MOE if values.get("num_local_experts", 8) else ATTENTION


def _made_of_bamba(metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any] | None:  # noqa: ARG001
    """The family of Bamba for a file whose heads turn in part."""
    heads, width, turned = (
        said(metadata, f"granitehybrid.{name}") or 0
        for name in ("attention.head_count", "embedding_length", "rope.dimension_count")
    )
    head_dim = said(metadata, "granitehybrid.attention.key_length") or width // max(heads, 1)
    rotates = metadata.get("granitehybrid.rope.scaling.finetuned", True) is not False
    return BAMBA if rotates and 0 < turned < head_dim else None


GRANITE_HYBRID: Family[Any] = Family(
    name="granitehybrid",
    config=GraniteHybrid,
    graph=granite_hybrid,
    origins=MappingProxyType(
        {
            **PERMUTED_NAMES,
            **mamba2_origins("mamba"),
            "ffn_gate": Rows("shared_mlp.input_linear", lambda _, tensor: (0, 2 * tensor.shape[0])),
            "ffn_up": Rows("shared_mlp.input_linear", lambda _, tensor: (tensor.shape[0], 2 * tensor.shape[0])),
            "ffn_down": Named("shared_mlp.output_linear"),
            "ffn_gate_shexp": Rows("shared_mlp.input_linear", lambda _, tensor: (0, 2 * tensor.shape[0])),
            "ffn_up_shexp": Rows("shared_mlp.input_linear", lambda _, tensor: (tensor.shape[0], 2 * tensor.shape[0])),
            "ffn_down_shexp": Named("shared_mlp.output_linear"),
            "ffn_gate_inp": Named("block_sparse_moe.router.layer"),
            "ffn_gate_exps": Named("block_sparse_moe.input_linear", Share(index=0)),
            "ffn_up_exps": Named("block_sparse_moe.input_linear", Share(index=1)),
            "ffn_down_exps": Named("block_sparse_moe.output_linear"),
        }
    ),
    implemented=MappingProxyType({**SILU, **MAMBA2_IMPLEMENTED}),
    inert=INERT_KEYS | MAMBA2_INERT | {"init_method", "output_router_logits", "router_aux_loss_coef"},
    constants=exported("GraniteMoeHybridForCausalLM", "granitemoehybrid"),
    normalized=normalized,
    spelled=spelled,
    variant=_attends_only,
    file_variant=_made_of_bamba,
)


# Models of this class of which every layer attends, small Granite 4 among them, are Granite's in GGUF.

_UNUSED = frozenset({"layer_types", "num_experts_per_tok", "num_local_experts", "position_embedding_type"})


def _rotating(values: dict[str, Any]) -> dict[str, Any]:
    """config.json of a model that attends only. UnsupportedError where nothing turns, which GGUF cannot say of it."""
    if values.get("position_embedding_type") != "rope":
        raise UnsupportedError(
            "attention without positions in every layer",
            field="position_embedding_type",
            expected="'rope'",
            got=values.get("position_embedding_type"),
        )
    dense = not values.get("num_local_experts", 8)
    made = {name: value for name, value in values.items() if not (dense and name in _UNUSED)}
    for name in ("layer_types", "position_embedding_type"):
        made.pop(name, None)
    if dense:
        made["intermediate_size"] = made.pop("shared_intermediate_size", None)
    return {name: value for name, value in made.items() if not name.startswith("mamba_")}


ATTENTION: Family[Any] = replace(
    GRANITE,
    origins=MappingProxyType(
        {**GRANITE.origins, **{role: GRANITE_HYBRID.origins[role] for role in ("ffn_gate", "ffn_up", "ffn_down")}}
    ),
    implemented=GRANITE_HYBRID.implemented,
    inert=GRANITE_HYBRID.inert,
    normalized=_rotating,
)
ATTENTION_MOE: Family[Any] = replace(
    GRANITE_MOE_SHARED,
    implemented=GRANITE_HYBRID.implemented,
    inert=GRANITE_HYBRID.inert,
    normalized=_rotating,
)


def _turned(c: GraniteHybrid, tensor: Tensor) -> tuple[list[Run], int]:
    """Rows of heads of which only the first dimensions turn. (llama.cpp's converter moves all of them.)"""
    via = RopePermute(group=tensor.shape[0] // tensor.heads, turned=c.n_rot)
    return [Run(0, tensor.shape[0], via)], tensor.shape[0]


def _bamba_normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json of Bamba as if it were Granite's."""
    made = dict(values)
    indices, layers = made.pop("attn_layer_indices", None) or [], range(made.get("num_hidden_layers") or 0)
    made = {**with_layer_heads(made, [layer in indices for layer in layers]), "position_embedding_type": "rope"}
    made["partial_rotary_factor"] = 0.5
    return made


def _bamba_spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The opposite."""
    heads = values["num_key_value_heads"]
    made = {name: value for name, value in values.items() if name not in _BAMBA_LACKS}
    attends = [layer for layer, number in enumerate(heads) if number]
    return {**made, "num_key_value_heads": max(heads), "attn_layer_indices": attends}


# Keys of Granite, and the share that turns, which Transformers fixes for Bamba.
_BAMBA_LACKS = frozenset(
    {
        "attention_multiplier",
        "num_experts_per_tok",
        "num_local_experts",
        "partial_rotary_factor",
        "position_embedding_type",
        "shared_intermediate_size",
    }
)

BAMBA: Family[Any] = replace(
    GRANITE_HYBRID,
    config=Bamba,
    constants=exported("BambaForCausalLM", "bamba"),
    origins=MappingProxyType(
        {
            **PERMUTED_NAMES,
            **mamba2_origins("mamba"),
            "attn_q": Runs("self_attn.q_proj", _turned),
            "attn_k": Runs("self_attn.k_proj", _turned),
            "ffn_norm": Named("pre_ff_layernorm"),
            "ffn_gate": Named("feed_forward.gate_proj"),
            "ffn_up": Named("feed_forward.up_proj"),
            "ffn_down": Named("feed_forward.down_proj"),
            "output_norm": Named("model.final_layernorm"),
        }
    ),
    inert=INERT_KEYS | MAMBA2_INERT | {"attn_rotary_emb", "z_loss_coefficient"},
    normalized=_bamba_normalized,
    spelled=_bamba_spelled,
    variant=None,
    file_variant=None,
)
