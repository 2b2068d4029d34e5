"""Latent attention to keys that an indexer chooses: DeepSeek V3.2, GLM 5.

All of an indexer is converted. A run goes as far as it has no choice (``Graph.reach``): there, these are DeepSeek V3.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal

from gguflike.families import mtp
from gguflike.families.config import Via, key
from gguflike.families.decoder import exported
from gguflike.families.deepseek import (
    DEEPSEEK_V3,
    DeepSeekHeaded,
    latent_attention,
    latent_decoder,
    latent_notices,
    normalized,
    rope_of_latent,
)
from gguflike.families.mixture import SIGMOID, gating
from gguflike.families.origins import Named
from gguflike.families.parts import Graph, Norm
from gguflike.families.parts.indexers import Indexer
from gguflike.families.parts.latent import LatentAttention
from gguflike.frozen import frozen, replace

_EPS = 1e-6  # of the norm of an indexer's keys, in both


@frozen
class Sparse(DeepSeekHeaded):
    """Hyper-parameters: each indexer has ``index_heads`` queries and a key of ``index_dim`` values. The blocks of
    multi-token-prediction heads may have one, too."""

    gating: int = gating(SIGMOID)
    index_heads: int = key("attention.indexer.head_count", "index_n_heads")
    index_dim: int = key("attention.indexer.key_length", "index_head_dim")
    index_top_k: int = key("attention.indexer.top_k", "index_topk")
    mtp_indexer: bool = mtp.has("indexer.proj")


_KINDS = {"full": True, "shared": False}


def _kinds(_: Any, value: Any) -> Any:
    if not isinstance(value, list) or any(kind not in _KINDS for kind in value) or not value or value[0] != "full":
        raise ValueError("a list of 'full' and 'shared' for all layers, the first of them 'full'")
    return [_KINDS[kind] for kind in value]


@frozen
class Glm5(Sparse):
    """Hyper-parameters: ``indexed`` says which layers choose by themselves; the others attend to what the last of those
    chose. Where it is not said, GLM 5.2, which is known by its context, does as it was published; older ones choose in
    each layer."""

    indexed: tuple[bool, ...] = key(
        "attention.indexer.types",
        "indexer_types",
        default=lambda c: _schedule(c.n_layer, 4, 3) if c.n_ctx >= 1 << 20 else [True] * c.n_layer,
        array=True,
        via=Via(_kinds, lambda c: ["full" if own else "shared" for own in c.indexed]),
    )


def _schedule(layers: int, every: int, offset: int) -> list[bool]:
    """Which layers choose, where every so many does, from layer ``offset - 1`` on, and all before."""
    return [max(layer - offset + 1, 0) % every == 0 for layer in range(layers)]


def deepseek_v32(c: Sparse) -> Graph:
    """Each layer has an indexer, in whose heads halves turn."""
    return _indexed(c, "neox", (True,) * c.n_layer)


def glm5(c: Glm5) -> Graph:
    """Some layers have an indexer, in whose heads neighbours turn."""
    return _indexed(c, "norm", c.indexed)


def _indexed(c: Sparse, pairs: Literal["norm", "neox"], own: tuple[bool, ...]) -> Graph:
    """The graph of DeepSeek V3 with indexers, their ``own`` in some layers; in those of heads, all or none."""
    plain = latent_attention(c)
    norm = Norm("indexer.k_norm", c.index_dim, _EPS, "layer", bias=True)
    rope = replace(rope_of_latent(c), pairs=pairs)
    indexer = Indexer(c.n_embd, c.q_rank or 0, c.index_heads, c.index_dim, c.index_top_k, rope, norm)
    choosing = replace(plain, indexer=indexer)
    following = replace(plain, indexer=replace(indexer, shared=True))

    def attention(layer: int) -> LatentAttention:
        if layer >= c.n_layer:
            return choosing if c.mtp_indexer else plain
        return choosing if own[layer] else following

    return latent_decoder(c, attention)


def normalized_v32(values: dict[str, Any]) -> dict[str, Any]:
    """As of DeepSeek V3, without the kinds of layers, which are all alike."""
    made = normalized(values)
    if set(made.get("layer_types") or ()) <= {"indexed_attention"}:
        made.pop("layer_types", None)
    return made


def normalized_glm5(values: dict[str, Any]) -> dict[str, Any]:
    """The same with the kind of each layer's indexer, which may be a pattern of letters or a rule."""
    made = normalized_v32(values)
    pattern, every, offset = (
        made.pop(name, None) for name in ("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset")
    )
    if made.get("indexer_types") is not None:
        return made
    if isinstance(pattern, str):
        pattern = [{"F": "full", "S": "shared"}.get(letter, letter) for letter in pattern]
    elif pattern is None and isinstance(layers := made.get("num_hidden_layers"), int):
        own_in = _schedule(layers, 1 if every is None else max(every, 1), 2 if offset is None else offset)
        pattern = ["full" if own else "shared" for own in own_in]
    return {**made, "indexer_types": pattern}


_ORIGINS = MappingProxyType(
    {
        **DEEPSEEK_V3.origins,
        "indexer.attn_q_b": Named("self_attn.indexer.wq_b"),
        "indexer.attn_k": Named("self_attn.indexer.wk"),
        "indexer.k_norm": Named("self_attn.indexer.k_norm"),
        "indexer.proj": Named("self_attn.indexer.weights_proj"),
    }
)

DEEPSEEK_V32 = replace(
    DEEPSEEK_V3,
    name="deepseek32",
    file_variant=None,
    config=Sparse,
    graph=deepseek_v32,
    origins=_ORIGINS,
    normalized=normalized_v32,
    constants=exported("DeepseekV32ForCausalLM", "deepseek_v32"),
    notices=lambda c: latent_notices(c, known=False),
)
GLM5 = replace(
    DEEPSEEK_V32,
    name="glm-dsa",
    config=Glm5,
    graph=glm5,
    normalized=normalized_glm5,
    implemented=MappingProxyType({**DEEPSEEK_V32.implemented, "indexer_rope_interleave": (True,)}),
    constants=exported("GlmMoeDsaForCausalLM", "glm_moe_dsa"),
)
