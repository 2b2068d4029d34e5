"""Causal attention over the KV cache: grouped queries, online softmax, float32 arithmetic.

Ops, for each type of cache (kv_float.py, kv_q8.py); args.py has their argument words:

    <type>           any number of tokens, whose keys and values are in the cache (``ATTENTION``). An item is a group of
                     query heads that share a key head, for up to ``span`` successive tokens of a sequence.
    each_<type>_<heads>  tokens that are alone of their sequences in the pass (``ATTENTION_EACH``). An item is a group
                     of heads of a token.
    <type>_<heads>   one token (``ATTENTION_ONE``): stores its key and value in the cache, too. An item is a group of
                     heads by a block of keys, so that all threads have work; what it finds is left in ``parts`` for
    merge            whose items are groups of heads (``MERGE``)

Keys are taken in blocks of ATTENTION_KEYS from the first on, whose results are merged in order (softmax.py). Of a
block, sixteen keys at a time are expanded to float32 and multiplied by all tiles of queries (tile.py), then sixteen
dimensions of the values by all tiles of weights: what is expanded stays in the first-level cache.

The result is float32, or where ``codes`` is not 0, int8 with scales and sums as the matmul ops read it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gguflike.kernels.attention import softmax
from gguflike.kernels.attention.args import ATTENTION, ATTENTION_EACH, ATTENTION_ONE, MERGE, QUERIES
from gguflike.kernels.attention.rope import CACHES, cached_at, make_store, rotated, row_of
from gguflike.kernels.attention.sizes import ATTENTION_HEADS, part_bytes
from gguflike.kernels.attention.sizes import ATTENTION_KEYS as KEYS
from gguflike.kernels.attention.tile import HEIGHT, PANEL, make_scores, make_values, merge_row
from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.vector.lanes import splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, scatter_f32, store_f32x16
from gguflike.kernels.vector.quantize import quantize_block
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import f32_of

Op = Callable[[Address, Address, int, int], None]

ZERO, ONE = np.float32(0), np.float32(1)
LOG2 = np.float32(softmax.LOG2_E)


class Item(NamedTuple):
    """An item of attention for several tokens. Its queries are rows: the heads of its first token, of the second, ...

    HEIGHT rows make a tile.
    """

    head: int  # the first of its query heads
    token: int  # the first of its tokens, in the pass
    tokens: int  # 0: it is none, since items are counted as if every token might begin one
    position: int  # of the first token
    end: int  # behind the last position of the sequence that the pass has
    cached: int  # index of the key head's first element in the layer's keys and values


class Scratch(NamedTuple):
    """Addresses in a thread's scratch memory."""

    panel: Address  # float32 (head_dim or KEYS, 16): keys or values, expanded
    states: Address  # a softmax state for each tile
    queries: Address  # float32 (tiles, head_dim, HEIGHT)
    out: Address  # float32 (tiles, HEIGHT, head_dim)
    scores: Address  # float32 (tiles, HEIGHT, KEYS), then weights


class Result(NamedTuple):
    """Where a result goes: address ``out``, or the other three where ``codes`` is not 0."""

    out: Address
    codes: Address
    scales: Address
    sums: Address


@inner(inline="always")
def least(a: int, b: int) -> int:
    """Return the smaller of two integers."""
    return a if a < b else b


@inner(inline="always")
def _first_row(key: int, position: int, heads: int) -> int:
    """Return the first of the rows from ``position`` on, ``heads`` to a position, that sees a key."""
    return (key - position) * heads if key > position else 0


@inner
def gather(args: Address, query: Address, cos_sin: Address, target: Address, stride: int) -> None:
    """Write one query, rotated and scaled, with ``stride`` bytes between its dimensions."""
    a = load_args(QUERIES, args)
    scale = splat(np.float32(f32_of(a.scale) * LOG2))
    for i in range(0, a.head_dim, 16):
        scatter_f32(target + i * stride, stride, rotated(query, i, cos_sin, a.n_rot, a.neox) * scale)


@inner
def mask(scores: Address, valid: int, count: int) -> None:
    """Mask what a row does not see: all but the first ``valid`` of its ``count`` scores."""
    start = valid // 16 * 16 if valid > 0 else 0
    for i in range(start, count, 16):
        keep = valid - i
        softmax.mask_lanes(scores + 4 * i, keep if keep > 0 else 0)


@inner
def write_row(row: Address, total: np.float32, head_dim: int, result: Result, at: int) -> None:
    """Divide a row of weighted sums by the sum of its weights, and write it to the result from value ``at`` on."""
    inverse = splat(ONE / total)
    if result.codes == 0:
        for i in range(0, head_dim, 16):
            store_f32x16(result.out + 4 * (at + i), load_f32x16(row + 4 * i) * inverse)
    else:
        for i in range(0, head_dim, 32):
            block = (at + i) // 32
            low, high = load_f32x16(row + 4 * i) * inverse, load_f32x16(row + 4 * i + 64) * inverse
            quantize_block(low, high, result.codes + 32 * block, result.scales + 4 * block, result.sums + 8 * block)


# Several tokens


@inner
def scratch_of(base: Address, rows: int, dim: int) -> Scratch:
    """Divide a thread's scratch memory for items of at most ``rows`` queries of ``dim`` dimensions."""
    tiles = (rows + HEIGHT - 1) // HEIGHT
    states = base + PANEL * max(dim, KEYS)
    queries = states + softmax.STATE_BYTES * tiles
    out = queries + 4 * HEIGHT * dim * tiles
    return Scratch(base, states, queries, out, out + 4 * HEIGHT * dim * tiles)


@inner
def item_of(args: Address, state: Address, index: int) -> Item:
    """Return item number ``index`` of the op."""
    a = load_args(ATTENTION, args)
    tokens = load_word(state + STATE.tokens)
    spans = (tokens + a.span - 1) // a.span
    head, order = index // (spans * a.span) * a.heads, index // a.span % spans
    # The last tokens see the most keys: they alternate with the first, so that all threads have as many.
    token = (order // 2 if order % 2 else spans - 1 - order // 2) * a.span + index % a.span
    if token >= tokens:
        return Item(head, token, 0, 0, 0, 0)
    row = row_of(args, token)
    behind = row.run - (token - row.first)  # rows from this one on
    count = 0 if row.run < a.least or (token - row.first) % a.span else least(a.span, behind)
    kv_head = head * a.n_head_kv // a.n_head
    return Item(head, token, count, row.position, row.position + behind, cached_at(args, row.slot, kv_head))


@inner
def start_item(args: Address, item: Item, tiles: int, scratch: Scratch) -> None:
    """Gather the queries of an item, tile by tile, zeros after the last row; start its states and sums."""
    a = load_args(ATTENTION, args)
    dim = a.head_dim
    for i in range(0, HEIGHT * dim, 16):
        store_f32x16(scratch.queries + 4 * ((tiles - 1) * HEIGHT * dim + i), splat(ZERO))
    for r in range(item.tokens * a.heads):
        token, head = r // a.heads, r % a.heads
        query = a.q + 4 * dim * ((item.token + token) * a.n_head + item.head + head)
        target = scratch.queries + 4 * (r // HEIGHT * HEIGHT * dim + r % HEIGHT)
        gather(args, query, a.cos_sin + 8 * a.n_rot * (item.position + token), target, 4 * HEIGHT)
    for tile in range(tiles):
        softmax.start(scratch.states + softmax.STATE_BYTES * tile)
    for i in range(0, tiles * HEIGHT * dim, 16):
        store_f32x16(scratch.out + 4 * i, splat(ZERO))


@inner
def _seen(item: Item, heads: int, tile: int, first: int) -> int:
    """Return how many keys of the block from ``first`` on the last row of a tile sees."""
    last = least((tile + 1) * HEIGHT, item.tokens * heads) - 1
    seen: int = least(KEYS, item.position + last // heads + 1 - first)
    return seen


@inner
def _weigh(item: Item, heads: int, tile: int, first: int, scores: Address, state: Address) -> None:
    """Turn a tile's scores of the keys from ``first`` on into weights, each row's of those that it sees."""
    padded = (_seen(item, heads, tile, first) + 15) // 16 * 16
    for r in range(HEIGHT):
        valid = item.position + (tile * HEIGHT + r) // heads + 1 - first
        if valid < padded:
            mask(scores + softmax.ROW * r, valid, padded)
    softmax.softmax(scores, HEIGHT, padded, state)
    softmax.merge(state, state)


@inner
def finish(args: Address, item: Item, scratch: Scratch) -> None:
    """Write the rows of an item as the result."""
    a = load_args(ATTENTION, args)
    dim = a.head_dim
    for r in range(item.tokens * a.heads):
        lane = scratch.states + softmax.STATE_BYTES * (r // HEIGHT) + 4 * (r % HEIGHT)
        total = load_f32(lane + softmax.ALL_TOTAL)
        at = ((item.token + r // a.heads) * a.n_head + item.head + r % a.heads) * dim
        write_row(scratch.out + 4 * dim * r, total, dim, Result(a.out, a.codes, a.scales, a.sums), at)


def _make_attention(cache: ModuleType) -> Op:
    """Return attention for several tokens over a cache whose kernels are in the module ``cache``."""
    score, add_values = make_scores(HEIGHT, 1), make_values(HEIGHT, 1, merged=True)

    @inner
    def score_block(args: Address, item: Item, first: int, count: int, tiles: int, scratch: Scratch) -> None:
        """Write the scores of ``count`` keys from ``first`` on, for the tiles that see them."""
        dim, heads = load_word(args + ATTENTION.head_dim), load_word(args + ATTENTION.heads)
        for i in range(0, count, 16):
            cache.expand_keys(args, item.cached, first + i, scratch.panel)
            for tile in range(_first_row(first + i, item.position, heads) // HEIGHT, tiles):
                target = scratch.scores + softmax.ROW * HEIGHT * tile + 4 * i
                score(scratch.queries + 4 * HEIGHT * dim * tile, scratch.panel, dim, target)

    def attention(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(ATTENTION, args)
        heads, dim = a.heads, a.head_dim
        scratch = scratch_of(load_word(state + STATE.scratch), a.span * heads, dim)
        for index in range(start, stop):
            item = item_of(args, state, index)
            if not item.tokens:
                continue
            tiles = (item.tokens * heads + HEIGHT - 1) // HEIGHT
            start_item(args, item, tiles, scratch)
            for first in range(0, item.position + item.tokens, KEYS):
                count = least(KEYS, item.position + item.tokens - first)
                lowest = _first_row(first, item.position, heads) // HEIGHT
                score_block(args, item, first, count, tiles, scratch)
                for tile in range(lowest, tiles):
                    scores = scratch.scores + softmax.ROW * HEIGHT * tile
                    _weigh(item, heads, tile, first, scores, scratch.states + softmax.STATE_BYTES * tile)
                for d in range(0, dim, 16):
                    cache.expand_values(args, item.cached, first, count, d, scratch.panel)
                    for tile in range(lowest, tiles):
                        weights = scratch.scores + softmax.ROW * HEIGHT * tile
                        tile_state = scratch.states + softmax.STATE_BYTES * tile
                        target = scratch.out + 4 * (HEIGHT * dim * tile + d)
                        seen = _seen(item, heads, tile, first)
                        add_values(weights, scratch.panel, PANEL, seen, tile_state, target, 4 * dim)
            finish(args, item, scratch)

    return attention


# One token

_part_bytes = inner(part_bytes)


class Narrow(NamedTuple):
    """Addresses in a thread's scratch memory, of an item of one token."""

    panel: Address  # float32 (head_dim or KEYS, 16): keys or values, expanded
    queries: Address  # float32 (head_dim, heads)
    scores: Address  # float32 (heads, KEYS), then weights
    part: Address  # what a block leaves: part_bytes(heads, head_dim)
    all_blocks: Address  # a softmax state, and float32 (heads, head_dim)


@inner
def narrow_scratch(base: Address, heads: int, dim: int) -> Narrow:
    """Divide a thread's scratch memory for items of ``heads`` query heads of a token."""
    queries = base + PANEL * max(dim, KEYS)
    scores = queries + 4 * heads * dim
    part = scores + softmax.ROW * heads
    return Narrow(base, queries, scores, part, part + _part_bytes(heads, dim))


@inner
def gather_heads(args: Address, token: int, head: int, heads: int, position: int, queries: Address) -> None:
    """Gather ``heads`` queries of a token from head number ``head`` on."""
    a = load_args(QUERIES, args)
    for r in range(heads):
        query = a.q + 4 * a.head_dim * (token * a.n_head + head + r)
        gather(args, query, a.cos_sin + 8 * a.n_rot * position, queries + 4 * r, 4 * heads)


def _make_block(heads: int, cache: ModuleType) -> Any:
    """Return a kernel for one block of keys: what ``heads`` queries find in it."""
    score, add_values = cache.make_scores(heads), cache.make_values(heads)

    @inner
    def attend_block(args: Address, cached: int, first: int, count: int, scratch: Narrow, part: Address) -> None:
        padded = (count + 15) // 16 * 16
        score(args, scratch.queries, cached, first, padded, scratch.panel, scratch.scores)
        for r in range(heads):
            mask(scratch.scores + softmax.ROW * r, count, padded)
        softmax.softmax(scratch.scores, heads, padded, part)
        add_values(args, scratch.scores, cached, first, count, scratch.panel, part + softmax.PART_BYTES)

    return attend_block


def _make_attention_one(heads: int, cache: ModuleType) -> Op:
    """Return attention for one token, ``heads`` query heads at a time."""
    attend_block, store = _make_block(heads, cache), make_store(cache)

    def attention(args: Address, state: Address, start: int, stop: int) -> None:
        a, row = load_args(ATTENTION_ONE, args), row_of(args, 0)
        groups, scratch = a.n_head // heads, narrow_scratch(load_word(state + STATE.scratch), heads, a.head_dim)
        for item in range(start, stop):
            head, first = item % groups * heads, item // groups * KEYS
            kv_head = head * a.n_head_kv // a.n_head
            count = least(KEYS, row.position + 1 - first)
            if first + count > row.position:
                store(args, 0, kv_head, scratch.scores)
            gather_heads(args, 0, head, heads, row.position, scratch.queries)
            part = a.parts + item * _part_bytes(heads, a.head_dim)
            attend_block(args, cached_at(args, row.slot, kv_head), first, count, scratch, part)

    return attention


def _make_attention_each(heads: int, cache: ModuleType) -> Op:
    """Return attention for tokens that are alone of their sequences, ``heads`` query heads at a time."""
    attend_block = _make_block(heads, cache)

    def attention(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(ATTENTION_EACH, args)
        groups, scratch = a.n_head // heads, narrow_scratch(load_word(state + STATE.scratch), heads, a.head_dim)
        for item in range(start, stop):
            token, group = item // groups, item % groups
            row = row_of(args, token)
            if row.run > 1:
                continue
            cached = cached_at(args, row.slot, group * heads * a.n_head_kv // a.n_head)
            gather_heads(args, token, group * heads, heads, row.position, scratch.queries)
            start_group(scratch.all_blocks, heads, a.head_dim)
            for first in range(0, row.position + 1, KEYS):
                attend_block(args, cached, first, least(KEYS, row.position + 1 - first), scratch, scratch.part)
                merge_part(scratch.part, heads, a.head_dim, scratch.all_blocks)
            result = Result(a.out, a.codes, a.scales, a.sums)
            write_group(scratch.all_blocks, token * groups + group, heads, a.head_dim, result)

    return attention


@inner(inline="always")
def start_group(all_blocks: Address, heads: int, dim: int) -> None:
    """Begin the merge of a group of heads: a softmax state of nothing at ``all_blocks``, and sums of zero behind it."""
    softmax.start(all_blocks)
    for i in range(0, heads * dim, 16):
        store_f32x16(all_blocks + softmax.STATE_BYTES + 4 * i, splat(ZERO))


@inner
def merge_part(part: Address, heads: int, dim: int, all_blocks: Address) -> None:
    """Merge what a block left."""
    softmax.merge(all_blocks, part)
    for r in range(heads):
        row = 4 * dim * r
        merge_row(all_blocks + softmax.STATE_BYTES + row, part + softmax.PART_BYTES + row, dim, all_blocks, r)


@inner(inline="always")
def merge_blocks(
    parts: Address, blocks: int, group: int, groups: int, heads: int, dim: int, all_blocks: Address
) -> None:
    """Merge what the items of a group left, block by block."""
    for block in range(blocks):
        merge_part(parts + (block * groups + group) * _part_bytes(heads, dim), heads, dim, all_blocks)


@inner(inline="always")
def write_group(all_blocks: Address, group: int, heads: int, dim: int, result: Result) -> None:
    """Write what a group of heads found, by its number among those of all tokens."""
    for r in range(heads):
        total = load_f32(all_blocks + softmax.ALL_TOTAL + 4 * r)
        row = all_blocks + softmax.STATE_BYTES + 4 * dim * r
        write_row(row, total, dim, result, (group * heads + r) * dim)


@op("attention.causal:merge")
def _merge(args: Address, state: Address, start: int, stop: int) -> None:
    """Merge what the items of attention for one token left, block by block. Items are groups of heads."""
    a = load_args(MERGE, args)
    heads, dim = a.heads, a.head_dim
    blocks, groups = load_word(state + STATE.position) // KEYS + 1, a.n_head // heads
    all_blocks = load_word(state + STATE.scratch)  # a softmax state, and the sums of its rows
    for group in range(start, stop):
        start_group(all_blocks, heads, dim)
        merge_blocks(a.parts, blocks, group, groups, heads, dim, all_blocks)
        write_group(all_blocks, group, heads, dim, Result(a.out, a.codes, a.scales, a.sums))


for _type, _cache in CACHES.items():
    op(f"attention.causal:{_type}")(_make_attention(_cache))
    for _heads in range(1, ATTENTION_HEADS + 1):
        op(f"attention.causal:{_type}_{_heads}")(_make_attention_one(_heads, _cache))
        op(f"attention.causal:each_{_type}_{_heads}")(_make_attention_each(_heads, _cache))
