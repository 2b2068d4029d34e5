"""Attention as ops: queries, keys and values, the cache, the output matrix."""

from __future__ import annotations

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Attention
from gguflike.runner.parts.checks import multiple
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.state import KVCache, kv_bytes_per_position
from gguflike.runner.weights import LayerWeights


def check(part: Attention) -> None:
    if part.rope is None or part != Attention(
        part.n_embd, part.heads, part.kv_heads, part.head_dim, part.rope, part.bias, part.output_bias
    ):
        raise UnsupportedError("attention of this kind has no ops in this version", got=part)
    multiple("head_dim", part.head_dim, 16)
    multiple("n_rot", part.rope.n_rot, 32 if part.rope.pairs == "neox" else 16)
    if part.heads % part.kv_heads or part.rope.n_rot > part.head_dim:
        raise UnsupportedError(
            "attention shape",
            expected="n_head a multiple of n_head_kv, n_rot at most head_dim",
            got={
                "n_head": part.heads,
                "n_head_kv": part.kv_heads,
                "n_rot": part.rope.n_rot,
                "head_dim": part.head_dim,
            },
        )


def new_state(part: Attention, context: int, cache_type: str) -> KVCache:
    return KVCache(part.kv_heads, part.head_dim, context, cache_type)


def bytes_per_position(part: Attention, cache_type: str) -> int:
    return kv_bytes_per_position(part.kv_heads, part.head_dim, cache_type)


def emit(part: Attention, s: Schedule, weights: LayerWeights, state: KVCache, source: Source, target: Target) -> None:
    q, k, v, out = (weights.matrix(f"attn_{name}") for name in ("q", "k", "v", "output"))
    normed = s.read(source, (q, k, v))
    s.linear(q, normed, s.temp("q", part.q_size))
    s.linear(k, normed, s.temp("k", part.kv_size), beside=True)
    s.linear(v, normed, s.temp("v", part.kv_size), beside=True)
    s.linear(out, s.attend(part, state, (out,)), target.address, add=target.add)
