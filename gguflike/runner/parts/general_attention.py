"""Attention in all its settings as ops: what attention.py does for most models, for those that ask for more.

Where queries, keys or values are more than rotated, ops of their own prepare them (kernels/attention/heads.py), and the
ops of attention rotate nothing. Where queries see all keys up to their own and nothing else is special, attention is
what it is for other models; else it is its general form (kernels/attention/general.py).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguflike.families.parts import Attention, Norm, Rope, Temperature
from gguflike.kernels.attention.general_args import (
    EVERYWHERE,
    GENERAL,
    GENERAL_EACH,
    GENERAL_MERGE,
    GENERAL_ONE,
    HEADS,
    LAYER,
    NONE,
    OPEN,
    RMS,
)
from gguflike.kernels.attention.sizes import ATTENTION_KEYS
from gguflike.kernels.engine.args import Word, float_bits
from gguflike.runner.matrix import Matrix
from gguflike.runner.parts.attending import (
    Found,
    attend,
    attend_each,
    found_as_floats,
    found_for,
    groups_of_one,
    parts_of_one,
    ready,
    share_spans,
    span_of_several,
    store_kv,
)
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.state import KVCache
from gguflike.runner.weights import LayerWeights

if TYPE_CHECKING:
    import numpy.typing as npt


class General(NamedTuple):
    """Attention's general form for a schedule: the words of STORE_KV, of QUERIES but for ``heads``, and of what differs
    from the usual form. ``most``: keys that a query sees at most, 0 for all. ``stores``: keys and values are new."""

    store: dict[str, Word]
    queries: dict[str, Word]
    changed: dict[str, Word]
    most: int
    stores: bool


class Heads(NamedTuple):
    """Heads as a matrix left them: head h of token t stands at ``address + 4 * (t * stride + h * step)``."""

    address: int
    stride: int
    step: int
    heads: int


class Projected(NamedTuple):
    """What the matrices gave. Keys and values are those of another layer where they are None."""

    q: Heads
    k: Heads | None
    v: Heads | None
    gate: Heads | None


def emit(part: Attention, s: Schedule, weights: LayerWeights, cache: KVCache, source: Source, target: Target) -> None:
    made = _project(part, s, weights, source)
    words = _words(part, s, weights, cache, made)
    out = weights.matrix("attn_output")
    unpadded = cache.head_dim == part.of_values
    if made.gate is None and part.output_norm is None and unpadded:
        found = found_for((out,), s, part.q_size, part.head_dim)
        _attend(part, s, cache, words, found)
        result = ready(found, s, part.q_size)
    else:
        values = s.local("attended", part.heads * cache.head_dim)
        _attend(part, s, cache, words, found_as_floats(values))
        if made.gate is not None or not unpadded:
            values = _opened(part, s, cache, values, made.gate)
        result = s.read(Source(values, part.found_size, part.output_norm, weights), (out,))
    s.linear(out, result, target.address, add=target.add)


def _project(part: Attention, s: Schedule, weights: LayerWeights, source: Source) -> Projected:
    """The products of the matrices with the source."""
    heads, kv_heads, dim, v_dim = part.heads, part.kv_heads, part.head_dim, part.of_values
    products: list[tuple[Matrix, int]] = []

    def product(role: str, name: str, rows: int) -> int:
        products.append((weights.matrix(role), s.temp(name, rows)))
        return products[-1][1]

    k = v = gate = None
    if part.fused:
        stride = part.q_size + part.kv_size + kv_heads * v_dim
        at = product("attn_qkv", "qkv", stride)
        q = Heads(at, stride, dim, heads)
        k = Heads(at + 4 * part.q_size, stride, dim, kv_heads)
        v = Heads(at + 4 * (part.q_size + part.kv_size), stride, v_dim, kv_heads)
    else:
        step = 2 * dim if part.gate == "query" else dim
        q = Heads(product("attn_q", "q", heads * step), heads * step, step, heads)
        if part.gate == "query":
            gate = q._replace(address=q.address + 4 * dim)
        if part.kv_layer is None:
            k = Heads(product("attn_k", "k", part.kv_size), part.kv_size, dim, kv_heads)
            v = k
            if not part.value_is_key:
                v = Heads(product("attn_v", "v", kv_heads * v_dim), kv_heads * v_dim, v_dim, kv_heads)
    if part.gate in ("element", "head"):
        step = v_dim if part.gate == "element" else 1
        gate = Heads(product("attn_gate", "attention gate", heads * step), heads * step, step, heads)
    read = s.read(source, [matrix for matrix, _ in products])
    for index, (matrix, out) in enumerate(products):
        s.linear(matrix, read, out, beside=index > 0)
    return Projected(q, k, v, gate)


def _words(part: Attention, s: Schedule, weights: LayerWeights, cache: KVCache, made: Projected) -> General:
    """Prepare what needs it, and say what attention works on."""
    rope, q, k, v = part.rope, made.q, made.k, made.v
    factors = temperatures(part.temperature, s)
    kept = not factors and _turns_itself(rope) and part.q_norm is None and part.k_norm is None
    kept = kept and all(_stands(part, cache, heads, part.head_dim) for heads in (q, k) if heads is not None)
    q_at: Word = q.address
    k_at: Word = 0 if k is None else k.address
    v_at: Word = 0 if v is None else v.address
    if not kept:
        q_at = _prepared("queries", part, s, weights, cache, q, part.q_norm, rope, factors)
        if k is not None:
            k_at = _prepared("keys", part, s, weights, cache, k, part.k_norm, rope, 0, beside=True)
    if v is not None and not (_stands(part, cache, v, part.of_values) and part.v_norm is None):
        v_at = _prepared("values", part, s, weights, cache, v, part.v_norm, None, 0, beside=not kept)
    store: dict[str, Word] = {
        **_rotation(rope if kept else None, s),
        **cache.addresses(),
        "n_head_kv": part.kv_heads,
        "head_dim": cache.head_dim,
        "context": cache.positions,
        "rows": s.rows,
        "k": k_at,
        "v": v_at,
    }
    scale = part.head_dim**-0.5 if part.scale is None else part.scale
    queries: dict[str, Word] = {**store, "q": q_at, "n_head": part.heads, "scale": float_bits(scale)}
    sinks = weights.vector("attn_sinks") if part.sinks else 0
    changed: dict[str, Word] = {**_seen(part, cache), "cap": float_bits(part.softcap), "sinks": sinks}
    most = part.window if part.causal and not _sees_all(part, cache) else 0
    return General(store, queries, changed, most, stores=k is not None)


def _attend(part: Attention, s: Schedule, cache: KVCache, words: General, found: Found) -> None:
    """In the usual form where that will do."""
    if words.stores and _sees_all(part, cache) and not part.softcap and not part.sinks:
        attend(part, s, cache, words.store, words.queries, found)
    else:
        s.either(_attend_one, _attend_several)(part, s, cache, words, found)


def _attend_one(part: Attention, s: Schedule, cache: KVCache, words: General, found: Found) -> None:
    heads, groups, shape = groups_of_one(part, cache)
    # A window of n keys may touch so many blocks.
    blocks = (words.most - 2) // ATTENTION_KEYS + 2 if words.most else -(-cache.positions // ATTENTION_KEYS)
    shape["parts"] = parts_of_one(part, s, cache, blocks)
    one = GENERAL_ONE.pack(
        **words.queries, **words.changed, heads=heads, parts=shape["parts"], stores=int(words.stores)
    )
    items, per_keys = (groups * blocks, 0) if words.most else (groups, ATTENTION_KEYS)
    s.share(f"attention.general:{cache.type}_{heads}", one, items=items, per_keys=per_keys)
    seen = {name: word for name, word in words.changed.items() if name != "cap"}
    s.prepare("attention.general:merge", GENERAL_MERGE.pack(**shape, **seen, **found.words), items=groups)


def _attend_several(part: Attention, s: Schedule, cache: KVCache, words: General, found: Found) -> None:
    if words.stores:
        store_kv(f"attention.general:store_{cache.type}", s, words.store)
    heads, span = span_of_several(part, cache)
    shared = words.queries | words.changed
    least = attend_each(f"attention.general:each_{cache.type}", GENERAL_EACH, part, s, cache, shared, found)
    many = GENERAL.pack(**shared, heads=heads, span=span, least=least, **found.words)
    share_spans(f"attention.general:{cache.type}", s, many, part.heads // heads, span, beside=least > 1)


def _sees_all(part: Attention, cache: KVCache) -> bool:
    """Whether queries see all keys up to their own that there can be, and no others."""
    return part.causal and (not part.window or part.window >= cache.positions)


def _seen(part: Attention, cache: KVCache) -> dict[str, Word]:
    """The words that say which keys queries see."""
    back = ahead = chunk = EVERYWHERE
    if part.causal:
        ahead = 0
        if not _sees_all(part, cache):
            back, chunk = (back, part.window) if part.chunked else (part.window - 1, chunk)
    elif part.window:
        back = ahead = part.window // 2
    return {"back": back, "ahead": ahead, "chunk": chunk}


def _turns_itself(rope: Rope | None) -> bool:
    """Whether attention's ops rotate as the rope says: they take sixteen dimensions at a time."""
    return rope is None or rope.n_rot % (32 if rope.pairs == "neox" else 16) == 0


def _stands(part: Attention, cache: KVCache, heads: Heads, dim: int) -> bool:
    """Whether heads of ``dim`` values stand as attention's ops read them: side by side, unpadded, not to be clamped."""
    side_by_side = heads.step == dim and heads.stride == heads.heads * dim
    return side_by_side and cache.head_dim == dim and not part.clamp


def _rotation(rope: Rope | None, s: Schedule) -> dict[str, Word]:
    if rope is None:
        return {"cos_sin": 0, "n_rot": 0, "neox": 0}
    cos_sin = int(s.buffers.cos_sin[rope].ctypes.data)
    return {"cos_sin": cos_sin, "n_rot": rope.n_rot, "neox": int(rope.pairs == "neox")}


def _prepared(
    name: str,
    part: Attention,
    s: Schedule,
    weights: LayerWeights,
    cache: KVCache,
    heads: Heads,
    norm: Norm | None,
    rope: Rope | None,
    factors: int,
    *,
    beside: bool = False,
) -> Word:
    """Where queries, keys or values stand when they are what attention works on."""
    out = s.local(name, heads.heads * cache.head_dim)
    dim = part.of_values if name == "values" else part.head_dim
    whole = norm is not None and norm.size == heads.heads * dim and norm.size != dim
    weighted = norm is not None and norm.weight
    words = HEADS.pack(
        rows=s.rows,
        x=heads.address,
        stride=heads.stride,
        step=heads.step,
        heads=heads.heads,
        dim=dim,
        out=out,
        padded=cache.head_dim,
        limit=float_bits(part.clamp or math.inf),
        kind=NONE if norm is None else LAYER if norm.kind == "layer" else RMS,
        whole=int(whole),
        weight=weights.address(norm.weight_role) if norm is not None and weighted else 0,
        bias=weights.bias(norm.role) if norm is not None and weighted else 0,
        weight_step=dim if whole or (norm is not None and norm.groups) else 0,
        eps=float_bits(norm.eps if norm is not None else 0.0),
        turned_first=int(part.norm_after_rope),
        **_rotation(rope, s),
        factors=factors,
    )
    s.each("attention.heads:prepare", words, beside=beside)
    return out


def temperatures(temperature: Temperature | None, s: Schedule) -> int:
    """The address of what the queries of each position are multiplied by; 0 where there is no temperature."""
    if temperature is None:
        return 0
    table = _temperature_table(temperature, s.buffers.positions)
    s.program.keep.append(table)
    return int(table.ctypes.data)


@lru_cache(maxsize=4)
def _temperature_table(temperature: Temperature, positions: int) -> npt.NDArray[np.float32]:
    steps = np.floor((np.arange(positions) + temperature.offset) / temperature.length)
    table: npt.NDArray[np.float32] = (1 + temperature.scale * np.log(steps + 1)).astype(np.float32)
    return table


def _opened(part: Attention, s: Schedule, cache: KVCache, values: Word, gate: Heads | None) -> Word:
    """Where what the heads found stands without padding, times its gate."""
    out = s.local("opened", part.found_size)
    words = OPEN.pack(
        x=values,
        heads=part.heads,
        dim=part.of_values,
        padded=cache.head_dim,
        gate=0 if gate is None else gate.address,
        stride=0 if gate is None else gate.stride,
        step=0 if gate is None else gate.step,
        each=int(part.gate != "head"),
        softplus=int(part.gate_activation == "softplus"),
        out=out,
    )
    s.each("attention.heads:open", words)
    return out
