"""The ops that let queries attend to a cache: storing keys and values, one token or several, where the result goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.families.parts import Attention
from gguflike.kernels.attention.args import ATTENTION, ATTENTION_EACH, ATTENTION_ONE, MERGE, STORE_KV
from gguflike.kernels.attention.sizes import ATTENTION_HEADS, ATTENTION_KEYS, attention_rows, part_bytes
from gguflike.kernels.engine.args import Args, Word
from gguflike.runner.buffers import Activations
from gguflike.runner.schedule import Schedule, grain, reads_int8
from gguflike.runner.state import KVCache

if TYPE_CHECKING:
    from gguflike.runner.matrix import Matrix

ROPE_GRAIN = 16  # tokens; keys of one block are then written by one thread


class Found:
    """Where what the heads found stands: for matrices, as words of its ops; ``readers``: those that read int8, which it
    is not yet."""

    __slots__ = ("activations", "readers", "words")

    def __init__(self, activations: Activations, words: dict[str, Word], readers: Sequence[Matrix] = ()) -> None:
        self.activations, self.words, self.readers = activations, words, readers


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
