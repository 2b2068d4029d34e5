"""MiniMax M3, its text model: experts behind dense layers, where an indexer chooses the blocks of keys seen.

All of an indexer is converted. A run goes as far as it has no choice (``Graph.reach``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.config import Via, key
from gguflike.families.decoder import (
    DECODER_NAMES,
    INERT_KEYS,
    attention,
    decoder,
    exported,
    feed_forward,
    pre_norm,
    qk_norms,
    rms,
    rope_of,
)
from gguflike.families.family import Family
from gguflike.families.mixture import (
    ROUTER_KEYS,
    SCORINGS,
    SIGMOID,
    Mixture,
    dense_lead,
    experts,
    gating,
    shared,
)
from gguflike.families.origins import Either, Named, Origin, Rows, Stacked
from gguflike.families.parts import Block, Graph
from gguflike.families.parts.experts import Router
from gguflike.families.parts.indexers import BlockIndexer
from gguflike.families.sigmoid_moe import rotary_share
from gguflike.families.transforms import IDENTITY, PlusOne, Share
from gguflike.families.windows import partial
from gguflike.frozen import frozen, replace

_GATE: Any = {"activation": "swiglu_oai", "clamp": 7.0}


def _shared(c: Any, size: Any) -> Any:
    if not isinstance(size, int) or size % c.n_ff_expert:
        raise ValueError(f"a multiple of intermediate_size, {c.n_ff_expert}")
    return size // c.n_ff_expert


@frozen
class MiniMaxM3(Mixture):
    """Hyper-parameters: the first ``n_dense`` layers have a feed-forward and see all keys, the others have experts and
    an indexer, which chooses ``index_top_k`` blocks of ``index_block`` keys."""

    n_ff: int = key("feed_forward_length", "dense_intermediate_size")
    n_ff_expert: int = key("expert_feed_forward_length", "intermediate_size")
    n_rot: int = partial()
    n_shared: int = key(
        "expert_shared_count",
        "shared_intermediate_size",
        default=1,
        zero=True,
        via=Via(read=_shared, write=lambda c: c.n_shared * c.n_ff_expert),
    )
    n_dense: int = dense_lead("mlp_layer_types")
    expert_scale: float = key("expert_weights_scale", "routed_scaling_factor", default=1.0)
    normalize: bool = key("expert_weights_norm", None, default=True)
    gating: int = gating(SIGMOID)
    index_heads: int = key("attention.indexer.head_count", "index_n_heads")
    index_dim: int = key("attention.indexer.key_length", "index_head_dim")
    index_top_k: int = key("attention.indexer.top_k", "index_topk_blocks")
    index_block: int = key("attention.indexer.block_size", "index_block_size")
    index_local: int = key("attention.indexer.local_blocks", "index_local_blocks", zero=True)


def minimax_m3(c: MiniMaxM3) -> Graph:
    """Queries and keys normalized per head; part of a head turns; gates as of gpt-oss."""
    rope = rope_of(c, "neox")
    norms = (rms(c, f"indexer.{name}_norm", c.index_dim) for name in ("q", "k"))
    indexer = BlockIndexer(
        c.n_embd, c.index_heads, c.index_dim, c.index_block, c.index_top_k, c.index_local, rope, *norms
    )
    dense = attention(c, rope, **qk_norms(c))
    sparse = replace(dense, indexer=indexer)
    router = Router(SCORINGS[c.gating], c.normalize, c.expert_scale, choice_bias="exp_probs_b.bias")
    mixture = experts(c, router, shared=shared(c, c.n_ff_expert * c.n_shared, **_GATE), **_GATE)

    def block(layer: int) -> Block:
        if layer < c.n_dense:
            return pre_norm(c, dense, feed_forward(c, **_GATE))
        return pre_norm(c, sparse, mixture)

    return decoder(c, block)


# What the published config.json calls what Transformers has renamed.
_INDEXER = {
    "sparse_num_index_heads": "index_n_heads",
    "sparse_index_dim": "index_head_dim",
    "sparse_block_size": "index_block_size",
    "sparse_topk_blocks": "index_topk_blocks",
    "sparse_local_block": "index_local_blocks",
}
# What an indexer can also be, and of which nothing else is published; lists of layers are checked against others.
_USUAL: dict[str, Any] = {"sparse_score_type": "max", "sparse_init_block": 0, "use_sparse_attention": True}
_SPARSE, _FULL = "minimax_m3_sparse", "full_attention"


def normalized(values: dict[str, Any]) -> dict[str, Any]:
    """config.json in Transformers' words."""
    made = rotary_share(values)
    found = dict(made.pop("sparse_attention_config", None) or {})
    made |= {name: found.pop(published) for published, name in _INDEXER.items() if published in found}
    kinds = _kinds(found.pop("sparse_attention_freq", None), _SPARSE, _FULL) or made.pop("layer_types", None)
    found.pop("sparse_disable_index_value", None)  # of values that indexers give, which no layer here reads
    for name, value in found.items():
        if name not in _USUAL or value != _USUAL[name]:
            raise UnsupportedError(
                "config value",
                field=f"config.json: sparse_attention_config.{name}",
                expected=repr(_USUAL[name]) if name in _USUAL else "no such key",
                got=repr(value)[:80],
            )
    made.pop("layer_types", None)
    mixtures = _kinds(made.pop("moe_layer_freq", None), "sparse", "dense") or made.get("mlp_layer_types")
    made["mlp_layer_types"] = mixtures
    together = [_SPARSE if kind == "sparse" else _FULL for kind in mixtures or ()]
    if kinds is None or kinds != together:
        raise UnsupportedError(
            "layers whose indexers are not those with experts",
            field="config.json: layer_types",
            expected="indexers in the layers that have experts, and only there",
            got=f"{kinds!r:.80} beside {mixtures!r:.80}",
        )
    count, size = made.pop("n_shared_experts", None), made.get("intermediate_size")
    if count is not None and (not isinstance(size, int) or count * size != made.get("shared_intermediate_size")):
        raise UnsupportedError(
            "sizes of shared experts that contradict each other",
            field="config.json: shared_intermediate_size",
            expected="n_shared_experts times intermediate_size",
            got=f"{made.get('shared_intermediate_size')!r:.40}, {count!r:.40} and {size!r:.40}",
        )
    return made


def _kinds(flags: Any, yes: str, no: str) -> list[str] | None:
    return [yes if flag else no for flag in flags] if isinstance(flags, list) else None


def spelled(config: dict[str, Any]) -> dict[str, Any]:
    """An exported config.json: one of a model that sees, without eyes."""
    kinds = [_SPARSE if kind == "sparse" else _FULL for kind in config["mlp_layer_types"]]
    return {**config, "layer_types": kinds}


def _either(ours: Origin, published: Origin) -> Origin:
    """What Transformers' text model saves, and so does an export, or what is published."""
    return Either((ours, published))


def _half(name: str, index: int) -> Rows:
    """Gate or up of a feed-forward, which stand in one matrix."""
    return Rows(name, lambda _, tensor: (index * tensor.shape[0], 2 * tensor.shape[0]))


_MOE = "block_sparse_moe"
_EXPERTS: Mapping[str, Origin] = MappingProxyType(
    {
        "ffn_gate": _either(_half("mlp.gate_up_proj", 0), Named("mlp.gate_proj")),
        "ffn_up": _either(_half("mlp.gate_up_proj", 1), Named("mlp.up_proj")),
        "ffn_gate_shexp": _either(
            _half("mlp.shared_experts.gate_up_proj", 0), Named(f"{_MOE}.shared_experts.gate_proj")
        ),
        "ffn_up_shexp": _either(_half("mlp.shared_experts.gate_up_proj", 1), Named(f"{_MOE}.shared_experts.up_proj")),
        "ffn_down_shexp": _either(Named("mlp.shared_experts.down_proj"), Named(f"{_MOE}.shared_experts.down_proj")),
        "ffn_gate_inp": _either(Named("mlp.gate"), Named(f"{_MOE}.gate")),
        "exp_probs_b": _either(
            Named("mlp.gate.e_score_correction_bias", bare=True), Named(f"{_MOE}.e_score_correction_bias", bare=True)
        ),
        "ffn_gate_exps": _either(
            Named("mlp.experts.gate_up_proj", Share(index=0), bare=True), Stacked(f"{_MOE}.experts.{{e}}.w1")
        ),
        "ffn_up_exps": _either(
            Named("mlp.experts.gate_up_proj", Share(index=1), bare=True), Stacked(f"{_MOE}.experts.{{e}}.w3")
        ),
        "ffn_down_exps": _either(Named("mlp.experts.down_proj", bare=True), Stacked(f"{_MOE}.experts.{{e}}.w2")),
        **{
            f"indexer.{name}": _either(Named(f"self_attn.indexer.{name}", via), Named(f"self_attn.index_{name}", via))
            for name, via in (("q_proj", IDENTITY), ("k_proj", IDENTITY), ("q_norm", PlusOne()), ("k_norm", PlusOne()))
        },
    }
)

MINIMAX_M3 = Family(
    name="minimax-m3",
    config=MiniMaxM3,
    graph=minimax_m3,
    origins=MappingProxyType(
        {
            **DECODER_NAMES,
            **_EXPERTS,
            "attn_norm": Named("input_layernorm", PlusOne()),
            "ffn_norm": Named("post_attention_layernorm", PlusOne()),
            "output_norm": Named("model.norm", PlusOne()),
            "attn_q_norm": Named("self_attn.q_norm", PlusOne()),
            "attn_k_norm": Named("self_attn.k_norm", PlusOne()),
        }
    ),
    left_out=MappingProxyType(
        {
            r"(model\.)?vision_tower\.": "the vision tower",
            r"(model\.)?(multi_modal_projector|patch_merge_mlp)\.": "the projector",
            r"(model\.)?mtp\.": "what predicts further tokens",
        }
    ),
    implemented=MappingProxyType(
        {
            "hidden_act": ("silu", "swigluoai"),
            "swiglu_alpha": (1.702,),
            "swiglu_limit": (7.0,),
            "use_gemma_norm": (True,),
            "use_routing_bias": (True,),
            "use_qk_norm": (True,),
            "qk_norm_type": ("per_head",),
        }
    ),
    inert=INERT_KEYS | ROUTER_KEYS,
    constants=exported("MiniMaxM3VLForCausalLM", "minimax_m3_vl_text", swiglu_alpha=1.702, swiglu_limit=7.0),
    normalized=normalized,
    spelled=spelled,
)
