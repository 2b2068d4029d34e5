"""Attention as ops: queries, keys and values, the cache, the output matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Attention
from gguflike.kernels.attention.sizes import attention_rows
from gguflike.kernels.engine.args import Word, float_bits
from gguflike.kernels.vector.sizes import LANES
from gguflike.runner.buffers import Activations
from gguflike.runner.parts.attending import attend, found_for, ready
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.state import SCALED, KVCache, kv_bytes_per_position

if TYPE_CHECKING:
    from gguflike.runner.matrix import Matrix
    from gguflike.runner.weights import LayerWeights


def check(part: Attention) -> None:
    n_rot = 0 if part.rope is None else part.rope.n_rot
    if (
        part.heads % part.kv_heads
        or n_rot > part.head_dim
        or n_rot % 2
        or part.of_values > part.head_dim
        or attention_rows(padded_dim(part.head_dim, "q8_0")) <= 0
    ):
        raise UnsupportedError(
            "attention shape",
            expected="n_head a multiple of n_head_kv, n_rot even, it and value_dim at most head_dim, heads of a few "
            "thousand at most",
            got={
                "n_head": part.heads,
                "n_head_kv": part.kv_heads,
                "n_rot": n_rot,
                "head_dim": part.head_dim,
                "value_dim": part.of_values,
            },
        )


def new_state(part: Attention, context: int, cache_type: str) -> KVCache:
    sees = part.window if part.causal else 0
    dim = padded_dim(part.head_dim, cache_type)
    return KVCache(part.kv_heads, dim, context, cache_type, sees=sees, once=not part.causal)


def bytes_per_position(part: Attention, cache_type: str) -> int:
    """As of the cache; 0 for that of a window, which does not grow with the context, and for keys of another layer."""
    if part.kv_layer is not None or (part.causal and part.window):
        return 0
    return kv_bytes_per_position(part.kv_heads, padded_dim(part.head_dim, cache_type), cache_type)


def padded_dim(head_dim: int, cache_type: str) -> int:
    """Dimensions of a head in the cache."""
    step = SCALED if cache_type == "q8_0" else LANES
    return -(-head_dim // step) * step


@lru_cache(maxsize=64)
def _is_usual(part: Attention) -> bool:
    """Whether there is nothing but matrices, biases and a rotation, of sizes that ops take as they are."""
    rope = part.rope
    if rope is None or rope.n_rot % (2 * LANES if rope.pairs == "neox" else LANES):
        return False
    usual = Attention(
        part.n_embd, part.heads, part.kv_heads, part.head_dim, rope, part.bias, part.output_bias, part.fused
    )
    return part == usual


def _inputs(part: Attention, weights: LayerWeights) -> tuple[Matrix, ...]:
    """The matrices of queries, keys and values; the one that holds all three where it cannot be cut."""
    if not part.fused:
        return tuple(weights.matrix(f"attn_{name}") for name in ("q", "k", "v"))
    whole, q, kv = weights.matrix("attn_qkv"), part.q_size, part.kv_size
    if whole.plan.repack is not None and (q % 32 or kv % 32):
        return (whole,)
    return whole.part(0, q), whole.part(q, kv), whole.part(q + kv, kv)


def emit(part: Attention, s: Schedule, weights: LayerWeights, state: KVCache, source: Source, target: Target) -> None:
    inputs = _inputs(part, weights) if _is_usual(part) and state.head_dim == part.head_dim else ()
    if len(inputs) < 3:
        from gguflike.runner.parts import general_attention  # most models do without

        general_attention.emit(part, s, weights, state, source, target)
        return
    (q, k, v), out = inputs, weights.matrix("attn_output")
    normed = s.read(source, inputs)
    s.linear(q, normed, s.temp("q", part.q_size))
    s.linear(k, normed, s.temp("k", part.kv_size), beside=True)
    s.linear(v, normed, s.temp("v", part.kv_size), beside=True)
    s.linear(out, attended(part, s, state, (out,)), target.address, add=target.add)


def attended(part: Attention, s: Schedule, cache: KVCache, readers: Sequence[Matrix]) -> Activations:
    """Rotate the queries and keys in the temporaries "q", "k" and "v", store the keys and values, and attend."""
    assert part.rope is not None  # of what is usual
    found = found_for(readers, s, part.q_size, part.head_dim)
    store: dict[str, Word] = {
        "cos_sin": int(s.buffers.cos_sin[part.rope].ctypes.data),
        "n_rot": part.rope.n_rot,
        "neox": int(part.rope.pairs == "neox"),
        **cache.addresses(),
        "n_head_kv": part.kv_heads,
        "head_dim": part.head_dim,
        "context": cache.positions,
        "rows": s.rows,
        "k": s.temp("k", part.kv_size),
        "v": s.temp("v", part.kv_size),
    }
    queries: dict[str, Word] = {
        **store,
        "q": s.temp("q", part.q_size),
        "n_head": part.heads,
        "scale": float_bits(part.head_dim**-0.5),
    }
    attend(part, s, cache, store, queries, found)
    return ready(found, s, part.q_size)
