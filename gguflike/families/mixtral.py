"""Mixtral: Llama with experts in place of feed-forwards."""

from __future__ import annotations

from types import MappingProxyType

from gguflike.families.config import key
from gguflike.families.decoder import attention, decoder, exported, pre_norm, rope_of
from gguflike.families.llama import LLAMA, Llama
from gguflike.families.mixture import ROUTER_KEYS, expert_names, experts
from gguflike.families.parts import Graph
from gguflike.families.parts.experts import Router
from gguflike.frozen import frozen, replace


@frozen
class Mixtral(Llama):
    """Llama's, and the experts'; each has as many hidden values as Llama's feed-forward."""

    n_expert: int = key("expert_count", "num_local_experts", default=8)
    n_expert_used: int = key("expert_used_count", "num_experts_per_tok", default=2)

    @property
    def n_ff_expert(self) -> int:
        return self.n_ff


def mixtral(c: Mixtral) -> Graph:
    """Pre-norm blocks of attention and experts."""
    window = c.window if c.window < c.n_ctx else 0
    block = pre_norm(c, attention(c, rope_of(c, "norm"), window=window), experts(c, Router()))
    return decoder(c, lambda _: block)


MIXTRAL = replace(
    LLAMA,
    config=Mixtral,
    graph=mixtral,
    origins=MappingProxyType({**LLAMA.origins, **expert_names("block_sparse_moe", names=("w1", "w3", "w2"))}),
    inert=LLAMA.inert | ROUTER_KEYS,
    unread=frozenset(),
    constants=exported("MixtralForCausalLM", "mixtral"),
    file_variant=None,
)
