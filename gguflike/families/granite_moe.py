"""Granite with experts, with one that all tokens share, and with sliding windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from gguflike.families.config import key
from gguflike.families.decoder import attention, decoder, exported, longrope_of
from gguflike.families.family import Family, said
from gguflike.families.granite import GRANITE, Stretched, scaled_block, scales
from gguflike.families.granite_swa import GRANITE_SWA, GraniteSwa, mixer
from gguflike.families.mixture import ROUTER_KEYS, experts, shared
from gguflike.families.origins import Named, Rows
from gguflike.families.parts import Graph
from gguflike.families.parts.experts import Router
from gguflike.families.transforms import Share
from gguflike.frozen import frozen, replace


@frozen
class GraniteMoe(Stretched):
    """Granite's, and the experts'; each has as many hidden values as config.json says of a feed-forward."""

    n_expert: int = key("expert_count", "num_local_experts", default=8)
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=2)
    n_ff_shared: int = key(
        "expert_shared_feed_forward_length", "shared_intermediate_size", default=0, zero=True, implied=True
    )

    @property
    def n_ff_expert(self) -> int:
        return self.n_ff


def granite_moe(c: GraniteMoe) -> Graph:
    """Granite's graph with experts."""
    mixture = experts(c, Router(), shared=shared(c, c.n_ff_shared))
    block = scaled_block(c, attention(c, longrope_of(c, "norm"), scale=c.attention_scale), mixture)
    return decoder(c, lambda _: block, **scales(c))


def _of_file(metadata: Mapping[str, Any], tensors: Collection[str]) -> Family[Any] | None:  # noqa: ARG001
    """The family with a shared expert, where a file has one."""
    return GRANITE_MOE_SHARED if said(metadata, "granitemoe.expert_shared_feed_forward_length") else None


GRANITE_MOE: Family[Any] = replace(
    GRANITE,
    name="granitemoe",
    config=GraniteMoe,
    graph=granite_moe,
    origins=MappingProxyType(
        {
            **GRANITE.origins,
            "ffn_gate_inp": Named("block_sparse_moe.router.layer"),
            "ffn_gate_exps": Named("block_sparse_moe.input_linear", Share(index=0)),
            "ffn_up_exps": Named("block_sparse_moe.input_linear", Share(index=1)),
            "ffn_down_exps": Named("block_sparse_moe.output_linear"),
            "ffn_gate_shexp": Rows("shared_mlp.input_linear", lambda c, _: (0, 2 * c.n_ff_shared)),
            "ffn_up_shexp": Rows("shared_mlp.input_linear", lambda c, _: (c.n_ff_shared, 2 * c.n_ff_shared)),
            "ffn_down_shexp": Named("shared_mlp.output_linear"),
        }
    ),
    inert=GRANITE.inert | ROUTER_KEYS,
    constants=exported("GraniteMoeForCausalLM", "granitemoe"),
    file_variant=_of_file,
)

GRANITE_MOE_SHARED: Family[Any] = replace(
    GRANITE_MOE,
    constants=exported("GraniteMoeSharedForCausalLM", "granitemoeshared"),
    file_variant=None,
)


@frozen
class GraniteMoeSwa(GraniteSwa):
    """Granite's with windows, and the experts'."""

    n_expert: int = GraniteMoe.n_expert
    n_expert_used: int = GraniteMoe.n_expert_used
    n_ff_shared: int = GraniteMoe.n_ff_shared

    @property
    def n_ff_expert(self) -> int:
        return self.n_ff


def granite_moe_swa(c: GraniteMoeSwa) -> Graph:
    """Granite's graph with windows and experts, whose gate and up are one matrix, as in the checkpoint."""
    mixture = experts(c, Router(), fused=True, shared=shared(c, c.n_ff_shared, fused=True))
    return decoder(c, lambda layer: scaled_block(c, mixer(c, layer), mixture), **scales(c))


GRANITE_MOE_SWA: Family[Any] = replace(
    GRANITE_SWA,
    config=GraniteMoeSwa,
    graph=granite_moe_swa,
    origins=MappingProxyType(
        {
            **GRANITE_SWA.origins,
            "ffn_gate_inp": Named("block_sparse_moe.router"),
            "ffn_gate_up_exps": Named("block_sparse_moe.experts.gate_up_proj", bare=True),
            "ffn_down_exps": Named("block_sparse_moe.experts.down_proj", bare=True),
            "ffn_up_shexp": Named("shared_mlp.input_linear"),
            "ffn_down_shexp": Named("shared_mlp.output_linear"),
        }
    ),
    inert=GRANITE_SWA.inert | ROUTER_KEYS,
    constants=exported("GraniteMoeSWAForCausalLM", "granitemoe_swa"),
    file_variant=None,
)
