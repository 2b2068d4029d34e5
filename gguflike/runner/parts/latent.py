"""Multi-head latent attention as ops: all heads attend to one row per token, [rotated key | latent].

What a head asks for is turned into a latent, and what it finds turned back, by matrices of its own: a product for each
head. Attention itself is what it is for other models, with one key head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gguflike.families.parts import Attention
from gguflike.families.parts.latent import LatentAttention
from gguflike.kernels.attention.general_args import HEADS, NONE
from gguflike.kernels.attention.latent_args import KEYS
from gguflike.kernels.engine.args import Own, Word, float_bits
from gguflike.runner.buffers import Activations
from gguflike.runner.matrix import Matrix, Stack
from gguflike.runner.parts import attending, attention
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.general_attention import temperatures
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.state import KVCache
from gguflike.runner.weights import LayerWeights


def check(part: LatentAttention) -> None:
    multiple("kv_lora_rank", part.kv_rank, 16)
    multiple("qk_rope_head_dim", part.rope_dim, 32 if part.rope is not None and part.rope.pairs == "neox" else 16)
    multiple("qk_nope_head_dim", part.nope_dim, 32 if part.together else 16)
    if part.together:  # where a matrix can be cut
        multiple("v_head_dim", part.value_dim, 32)
    attention.check(_usual(part))


def new_state(part: LatentAttention, context: int, cache_type: str) -> KVCache:
    return KVCache(1, attention.padded_dim(part.cached, cache_type), context, cache_type, shared=True)


def bytes_per_position(part: LatentAttention, cache_type: str) -> int:
    return attention.bytes_per_position(_usual(part), cache_type) // 2  # a row is key and value alike


def _usual(part: LatentAttention) -> Attention:
    """Attention of the heads to the cached rows."""
    return Attention(part.n_embd, part.heads, 1, part.cached, part.rope, scale=part.scale)


class _Rows(NamedTuple):
    """Rows of values for each head: that of head h of token t stands at ``address + 4 * (t * stride + h * step)``."""

    address: Word
    stride: int
    step: int
    columns: int


def emit(
    part: LatentAttention, s: Schedule, weights: LayerWeights, state: KVCache, source: Source, target: Target
) -> None:
    q, latent = _project(part, s, weights, source)
    queries, keys = s.temp("latent queries", part.heads * state.head_dim), s.temp("latent keys", state.head_dim)
    factors = temperatures(part.temperature, s)
    step = part.nope_dim + part.rope_dim
    turned = _Rows(q + 4 * part.nope_dim, part.q_size, step, part.rope_dim)
    s.share(
        "attention.heads:prepare",
        _copied(s, turned, part.heads, queries, state.head_dim, factors),
        items=1,
        per_tokens=1,
    )
    words = KEYS.pack(
        x=latent,
        kv_rank=part.kv_rank,
        rope_dim=part.rope_dim,
        weight=weights.address(part.kv_norm.weight_role),
        eps=float_bits(part.kv_norm.eps),
        padded=state.head_dim,
        out=keys,
    )
    s.share("attention.latent:keys", words, items=1, per_tokens=1, beside=True)
    asked = _Rows(q, part.q_size, step, part.nope_dim)
    absorbed = queries + 4 * part.rope_dim
    _by_head(s, _of_keys(part, weights), asked, absorbed, state.head_dim, factors)
    values = _attend(part, s, state, queries, keys)
    found = _Rows(_shifted(values, 4 * part.rope_dim), part.heads * state.head_dim, state.head_dim, part.kv_rank)
    size = part.heads * part.value_dim
    result, out = s.temp("latent values", size), weights.matrix("attn_output")
    _by_head(s, _of_values(part, weights), found, result, part.value_dim, 0)
    s.linear(out, s.read(Source(result, size, None, weights), (out,)), target.address, add=target.add)


def _of_keys(part: LatentAttention, weights: LayerWeights) -> Stack:
    """The matrices that turn queries into latents. Where a file has them as rows, nothing reads them as it stores them:
    they are made anew, as float32, which holds all values."""
    return weights.turned("attn_kv_b", part.heads, part.nope_dim) if part.together else weights.stack("attn_k_b")


def _of_values(part: LatentAttention, weights: LayerWeights) -> Stack:
    """The matrices that turn latents into values."""
    if not part.together:
        return weights.stack("attn_v_b")
    return weights.matrix("attn_kv_b").stacked(part.heads, part.nope_dim, part.value_dim)


def _project(part: LatentAttention, s: Schedule, weights: LayerWeights, source: Source) -> tuple[int, int]:
    """Where the queries of all heads stand, and the latent with the key."""
    first, down = weights.matrix("attn_q_a" if part.q_rank else "attn_q"), weights.matrix("attn_kv_a_mqa")
    q, latent = s.temp("q", part.q_size), s.temp("latent", part.cached)
    narrow = s.temp("narrow queries", part.q_rank) if part.q_rank else q
    read = s.read(source, (first, down))
    s.linear(first, read, narrow)
    s.linear(down, read, latent, beside=True)
    if part.q_rank:
        up = weights.matrix("attn_q_b")
        s.linear(up, s.read(Source(narrow, part.q_rank, part.q_norm, weights), (up,)), q)
    return q, latent


def _attend(part: LatentAttention, s: Schedule, cache: KVCache, queries: int, keys: int) -> Word:
    """Where what the heads found stands: float32 (tokens, heads, the cache's dimensions)."""
    rope, usual = part.rope, _usual(part)
    cos_sin = int(s.buffers.cos_sin[rope].ctypes.data) if rope is not None else 0
    store: dict[str, Word] = {
        "cos_sin": cos_sin,
        "n_rot": rope.n_rot if rope is not None else 0,
        "neox": int(rope is not None and rope.pairs == "neox"),
        **cache.addresses(),
        "n_head_kv": 1,
        "head_dim": cache.head_dim,
        "context": cache.positions,
        "rows": s.rows,
        "k": keys,
        "v": keys,
    }
    asked: dict[str, Word] = {**store, "q": queries, "n_head": part.heads, "scale": float_bits(part.scale)}
    values = s.local("attended", part.heads * cache.head_dim)
    attending.attend(usual, s, cache, store, asked, attending.found_as_floats(values))
    return values


def _by_head(s: Schedule, stack: Stack, rows: _Rows, out: int, step: int, factors: int) -> None:
    """Multiply the rows of each head by its matrix: head h's results of token t stand at ``out + 4 * (t * heads + h) *
    step``."""
    s.either(_by_head_one, _by_head_several)(s, stack, rows, out, step, factors)


def _by_head_one(s: Schedule, stack: Stack, rows: _Rows, out: int, step: int, factors: int) -> None:
    heads, columns = stack.size, rows.columns
    copied = s.local("rows of heads", heads * columns)
    s.each("attention.heads:prepare", _copied(s, rows, heads, copied, columns, factors))
    read = s.buffers.own._replace(floats=copied)
    if stack.matrix.plan.activations == "int8":
        s.prepare("vector.quantize:rows", read.quantize(heads * columns))
    for head in range(heads):
        s.linear(_of_head(stack, head), _of_columns(read, head * columns), out + 4 * head * step, beside=head > 0)


def _by_head_several(s: Schedule, stack: Stack, rows: _Rows, out: int, step: int, factors: int) -> None:
    """Each head's rows are copied to stand behind each other, since products read them so."""
    heads, columns, batch = stack.size, rows.columns, s.buffers.batch
    size = batch * columns
    all_rows = s.buffers.apart("rows of heads", heads * columns)
    reads = [_of_columns(all_rows, head * size) for head in range(heads)]
    for head, read in enumerate(reads):
        one = rows._replace(address=_shifted(rows.address, 4 * head * rows.step))
        s.each("attention.heads:prepare", _copied(s, one, 1, read.floats, columns, factors), beside=head > 0)
    if stack.matrix.plan.activations == "int8":
        for head, read in enumerate(reads):
            s.share("vector.quantize:rows", read.quantize(columns), items=1, per_tokens=1, beside=head > 0)
    for head, read in enumerate(reads):
        matrix = _of_head(stack, head)
        s.linear(matrix, read, out + 4 * head * step, beside=head > 0, stride=heads * step)


def _copied(s: Schedule, rows: _Rows, heads: int, out: Word, padded: int, factors: int) -> tuple[Word, ...]:
    """The words of the op that copies rows of heads side by side, with zeros behind them, times their position's
    factor."""
    return HEADS.pack(
        rows=s.rows,
        x=rows.address,
        stride=rows.stride,
        step=rows.step,
        heads=heads,
        dim=rows.columns,
        out=out,
        padded=padded,
        limit=float_bits(math.inf),
        kind=NONE,
        whole=0,
        weight=0,
        bias=0,
        weight_step=0,
        eps=0,
        turned_first=0,
        cos_sin=0,
        n_rot=0,
        neox=0,
        factors=factors,
    )


def _of_head(stack: Stack, head: int) -> Matrix:
    return stack.matrix._replace(address=stack.matrix.address + head * stack.stride)


def _of_columns(rows: Activations, first: int) -> Activations:
    """Activations from value ``first`` on, a multiple of 32 where they are int8."""
    floats, codes, scales, sums, _ = rows
    return Activations(
        _shifted(floats, 4 * first), _shifted(codes, first), _shifted(scales, first // 8), _shifted(sums, first // 4)
    )


def _shifted(word: Word, count: int) -> Word:
    """An address so many bytes further on."""
    return Own(word.address + count, word.stride) if isinstance(word, Own) else word + count
