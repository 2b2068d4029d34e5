"""Attention as ops: queries, keys and values, the cache, the output matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Attention
from gguflike.kernels.attention.args import ATTENTION, ATTENTION_EACH, ATTENTION_ONE, MERGE, STORE_KV
from gguflike.kernels.attention.sizes import ATTENTION_HEADS, ATTENTION_KEYS, attention_rows, part_bytes
from gguflike.kernels.engine.args import Args, Word, float_bits
from gguflike.runner.buffers import Activations
from gguflike.runner.schedule import Schedule, Source, Target, grain, reads_int8
from gguflike.runner.state import SCALED, KVCache, kv_bytes_per_position

if TYPE_CHECKING:
    from gguflike.runner.matrix import Matrix
    from gguflike.runner.weights import LayerWeights

LANES = 16  # dimensions that ops take at a time
ROPE_GRAIN = 16  # tokens; keys of one block are then written by one thread


class Found:
    """Where what the heads found stands: for matrices, as words of its ops; ``readers``: those that read int8, which it
    is not yet."""

    __slots__ = ("activations", "readers", "words")

    def __init__(self, activations: Activations, words: dict[str, Word], readers: Sequence[Matrix] = ()) -> None:
        self.activations, self.words, self.readers = activations, words, readers


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


def found_for(readers: Sequence[Matrix], s: Schedule, size: int, head_dim: int) -> Found:
    """Where attention leaves ``size`` values of heads for the matrices that read them."""
    result = s.result("attended", size)
    quantized = reads_int8(readers)
    fused = s.fused(readers) and head_dim % 32 == 0
    codes: dict[str, Word] = result.quantized if fused else dict.fromkeys(("codes", "scales", "sums"), 0)
    return Found(result, {"out": result.floats, **codes}, readers if quantized and not fused else ())


def found_as_floats(values: Word) -> Found:
    """Float32 at an address, for what is not a matrix."""
    return Found(Activations(values, 0, 0, 0), {"out": values, **dict.fromkeys(("codes", "scales", "sums"), 0)})


def ready(found: Found, s: Schedule, size: int) -> Activations:
    """What attention left, quantized where it has not done that itself."""
    return s.quantized(found.activations, size, found.readers) if found.readers else found.activations


def attend(
    part: Attention, s: Schedule, cache: KVCache, store: dict[str, Word], queries: dict[str, Word], found: Found
) -> None:
    """Attention to all keys up to a query's own, with the words of STORE_KV, and of QUERIES but for ``heads``."""
    s.either(_attend_one, _attend_several)(part, s, cache, store, queries, found)


def _attend_one(
    part: Attention,
    s: Schedule,
    cache: KVCache,
    store: dict[str, Word],  # noqa: ARG001 - the op stores the key and value of its one token itself
    queries: dict[str, Word],
    found: Found,
) -> None:
    heads, groups, shape = groups_of_one(part, cache)
    shape["parts"] = parts_of_one(part, s, cache, -(-cache.positions // ATTENTION_KEYS))
    words = ATTENTION_ONE.pack(**queries, heads=heads, parts=shape["parts"])
    s.share(f"attention.causal:{cache.type}_{heads}", words, items=groups, per_keys=ATTENTION_KEYS)
    s.prepare("attention.causal:merge", MERGE.pack(**shape, **found.words), items=groups)


def _attend_several(
    part: Attention, s: Schedule, cache: KVCache, store: dict[str, Word], queries: dict[str, Word], found: Found
) -> None:
    store_kv(f"attention.rope:store_{cache.type}", s, store)
    heads, span = span_of_several(part, cache)
    least = attend_each(f"attention.causal:each_{cache.type}", ATTENTION_EACH, part, s, cache, queries, found)
    words = ATTENTION.pack(**queries, heads=heads, span=span, least=least, **found.words)
    share_spans(f"attention.causal:{cache.type}", s, words, part.heads // heads, span, beside=least > 1)


def attend_each(
    name: str, words: Args, part: Attention, s: Schedule, cache: KVCache, queries: dict[str, Word], found: Found
) -> int:
    """Attention for tokens that are alone of their sequences in the pass, where passes may have several sequences, by
    the op of that name and the heads. Returns how many rows of a sequence the op for several tokens begins with."""
    if s.buffers.slots == 1:
        return 1
    heads, groups, _ = groups_of_one(part, cache)
    s.share(f"{name}_{heads}", words.pack(**queries, heads=heads, **found.words), items=groups, per_tokens=1)
    return 2


def share_spans(name: str, s: Schedule, words: tuple[Word, ...], groups: int, span: int, *, beside: bool) -> None:
    """The op for several tokens. Any of them may begin a span, so there is an item for each, by groups of heads."""
    items = groups * span
    pieces = grain(items * -(-s.buffers.batch // span), 1)
    s.share(name, words, items=items, per_tokens=span, grain=pieces, beside=beside)


def groups_of_one(part: Attention, cache: KVCache) -> tuple[int, int, dict[str, Word]]:
    """For one token: query heads of an item, how many such groups there are, and the words of merge that say so."""
    heads = heads_together(part.heads // part.kv_heads, ATTENTION_HEADS)
    return heads, part.heads // heads, {"heads": heads, "n_head": part.heads, "head_dim": cache.head_dim}


def parts_of_one(part: Attention, s: Schedule, cache: KVCache, blocks: int) -> int:
    """The address of what the items for so many blocks of keys leave."""
    return s.buffers.scratch("parts", blocks * part.heads * part_bytes(1, cache.head_dim))


def span_of_several(part: Attention, cache: KVCache) -> tuple[int, int]:
    """For several tokens: query heads of an item, and its tokens."""
    most = attention_rows(cache.head_dim)
    heads = heads_together(part.heads // part.kv_heads, most)
    return heads, most // heads


def store_kv(name: str, s: Schedule, words: dict[str, Word]) -> None:
    """Store the keys and values of several tokens."""
    s.program.add(name, STORE_KV.pack(**words), items=1, per_tokens=1, grain=ROPE_GRAIN)


def heads_together(group: int, most: int) -> int:
    """How many of the ``group`` query heads of a key head an item of attention takes."""
    return max(heads for heads in range(1, most + 1) if group % heads == 0)
