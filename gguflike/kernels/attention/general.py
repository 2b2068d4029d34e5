"""Attention in its general form: windows, keys ahead, soft-capped scores, sinks, a cache that is a ring.

Ops as in causal.py, for each type of cache; general_args.py has their argument words:

    <type>           any number of tokens, whose keys and values are in the cache (``GENERAL``)
    each_<type>_<heads>  tokens that are alone of their sequences in the pass (``GENERAL_EACH``)
    <type>_<heads>   one token (``GENERAL_ONE``); its items are groups of heads by blocks of the keys that it sees
    merge            whose items are groups of heads (``GENERAL_MERGE``)
    store_<type>     the way of prepared keys and values to the cache: a token's go to its position modulo the cache's
                     length (``STORE_KV``)

A query sees a stretch of keys that its position tells. Blocks of keys end at the multiples of ATTENTION_KEYS, as in
causal.py; what no query of an item sees is not read, and a block that a query does not see weighs nothing in its
result, to the last bit. A sink is where a query's softmax starts from: a maximum, and a sum of 1.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.kernels.attention import kv_f16, kv_f32, kv_q8, softmax
from gguflike.kernels.attention.causal import (
    LOG2,
    ONE,
    Item,
    Narrow,
    Op,
    Result,
    Scratch,
    finish,
    gather_heads,
    item_of,
    least,
    mask,
    merge_blocks,
    merge_part,
    narrow_scratch,
    scratch_of,
    start_group,
    start_item,
    write_group,
)
from gguflike.kernels.attention.general_args import GENERAL, GENERAL_EACH, GENERAL_MERGE, GENERAL_ONE
from gguflike.kernels.attention.rope import cached_at, make_store, make_store_op, row_of
from gguflike.kernels.attention.sizes import ATTENTION_HEADS, part_bytes
from gguflike.kernels.attention.sizes import ATTENTION_KEYS as KEYS
from gguflike.kernels.attention.tile import HEIGHT, PANEL, make_scores, make_values
from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.vector.activations import tanh
from gguflike.kernels.vector.lanes import splat
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32, store_f32x16
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import f32_of

if TYPE_CHECKING:
    from gguflike.kernels.engine.args import Args


class Sight(NamedTuple):
    """What queries of a sequence see: see general_args.py. ``end`` is behind the last key that there is."""

    back: int
    ahead: int
    chunk: int
    end: int


class Block(NamedTuple):
    """Keys ``first`` to ``first + keys``, which stand in the cache from ``slot`` on."""

    first: int
    keys: int
    slot: int


class Tiles(NamedTuple):
    """Some of an item's tiles, which follow each other."""

    first: int
    behind: int


@inner(inline="always")
def _lowest(sight: Sight, position: int) -> int:
    """Return the first key that a query sees."""
    return max(0, position - sight.back, position // sight.chunk * sight.chunk)


@inner(inline="always")
def _highest(sight: Sight, position: int) -> int:
    """Return the last key that a query sees."""
    highest: int = least(position + sight.ahead, sight.end - 1)
    return highest


@inner
def _cap(scores: Address, count: int, cap: np.float32) -> None:
    """Soft-cap ``count`` scores of a row, a multiple of 16; they are in units of log2 e."""
    most = splat(np.float32(cap * LOG2))
    for i in range(0, count, 16):
        store_f32x16(scores + 4 * i, tanh(load_f32x16(scores + 4 * i) / most) * most)


@inner
def _hide(scores: Address, count: int, most: int) -> None:
    """Mask the first ``count`` of a row's ``most`` scores."""
    for i in range(0, least(count, most), 16):
        softmax.hide_lanes(scores + 4 * i, count - i)


@inner
def _start_at_sink(state: Address, row: int, sink: np.float32) -> None:
    """Let a row of a softmax state begin with a sink."""
    store_f32(state + softmax.ALL_TOP + 4 * row, np.float32(sink * LOG2))
    store_f32(state + softmax.ALL_TOTAL + 4 * row, ONE)


# Several tokens


@inner
def _start_at_sinks(args: Address, item: Item, scratch: Scratch) -> None:
    """Let the rows of an item begin with their heads' sinks."""
    a = load_args(GENERAL, args)
    for r in range(item.tokens * a.heads):
        state = scratch.states + softmax.STATE_BYTES * (r // HEIGHT)
        _start_at_sink(state, r % HEIGHT, load_f32(a.sinks + 4 * (item.head + r % a.heads)))


@inner
def _tiles(args: Address, sight: Sight, item: Item, block: Block) -> Tiles:
    """Return the tiles of which some row sees a key of a block. What rows see moves on from each to the next."""
    heads = load_word(args + GENERAL.heads)
    rows = item.tokens * heads
    first, behind = 0, (rows + HEIGHT - 1) // HEIGHT
    while first < behind:
        last_row = least((first + 1) * HEIGHT, rows) - 1
        if _highest(sight, item.position + last_row // heads) >= block.first:
            break
        first += 1
    while first < behind:
        if _lowest(sight, item.position + (behind - 1) * HEIGHT // heads) < block.first + block.keys:
            break
        behind -= 1
    return Tiles(first, behind)


@inner
def _weigh(args: Address, sight: Sight, item: Item, tile: int, block: Block, scores: Address, state: Address) -> None:
    """Turn a tile's scores of a block into weights: 0 for what a row does not see."""
    a = load_args(GENERAL, args)
    padded = (block.keys + 15) // 16 * 16
    for r in range(HEIGHT):
        position, row = item.position + (tile * HEIGHT + r) // a.heads, scores + softmax.ROW * r
        if a.cap:
            _cap(row, padded, f32_of(a.cap))
        valid, hidden = _highest(sight, position) + 1 - block.first, _lowest(sight, position) - block.first
        if valid < padded:
            mask(row, valid, padded)
        if hidden > 0:
            _hide(row, hidden, padded)
    softmax.softmax(scores, HEIGHT, padded, state)
    softmax.merge(state, state)


def _make_attention(cache: ModuleType) -> Op:
    """Return attention for several tokens over a cache whose kernels are in the module ``cache``."""
    score, add_values = make_scores(HEIGHT, 1), make_values(HEIGHT, 1, merged=True)

    @inner
    def score_block(args: Address, sight: Sight, item: Item, block: Block, scratch: Scratch) -> None:
        """Write the scores of a block, sixteen keys at a time, for the tiles that see them."""
        dim = load_word(args + GENERAL.head_dim)
        for i in range(0, block.keys, 16):
            cache.expand_keys(args, item.cached, block.slot + i, scratch.panel)
            tiles = _tiles(args, sight, item, Block(block.first + i, 16, block.slot + i))
            for tile in range(tiles.first, tiles.behind):
                target = scratch.scores + softmax.ROW * HEIGHT * tile + 4 * i
                score(scratch.queries + 4 * HEIGHT * dim * tile, scratch.panel, dim, target)

    @inner
    def add_block(args: Address, sight: Sight, item: Item, block: Block, scratch: Scratch) -> None:
        """Turn the scores of a block into weights, and add its values by them."""
        dim, tiles = load_word(args + GENERAL.head_dim), _tiles(args, sight, item, block)
        for tile in range(tiles.first, tiles.behind):
            scores = scratch.scores + softmax.ROW * HEIGHT * tile
            _weigh(args, sight, item, tile, block, scores, scratch.states + softmax.STATE_BYTES * tile)
        for d in range(0, dim, 16):
            cache.expand_values(args, item.cached, block.slot, block.keys, d, scratch.panel)
            for tile in range(tiles.first, tiles.behind):
                weights = scratch.scores + softmax.ROW * HEIGHT * tile
                state = scratch.states + softmax.STATE_BYTES * tile
                target = scratch.out + 4 * (HEIGHT * dim * tile + d)
                add_values(weights, scratch.panel, PANEL, block.keys, state, target, 4 * dim)

    def attention(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(GENERAL, args)
        scratch = scratch_of(load_word(state + STATE.scratch), a.span * a.heads, a.head_dim)
        for index in range(start, stop):
            item = item_of(args, state, index)
            if not item.tokens:
                continue
            sight = Sight(a.back, a.ahead, a.chunk, item.end)
            tiles = (item.tokens * a.heads + HEIGHT - 1) // HEIGHT
            start_item(args, item, tiles, scratch)
            if a.sinks:
                _start_at_sinks(args, item, scratch)
            first = _lowest(sight, item.position) // 16 * 16
            behind = _highest(sight, item.position + item.tokens - 1) + 1
            while first < behind:
                block = Block(first, least((first // KEYS + 1) * KEYS, behind) - first, first % a.context)
                score_block(args, sight, item, block, scratch)
                add_block(args, sight, item, block, scratch)
                first += block.keys
            finish(args, item, scratch)

    return attention


# One token

_part_bytes = inner(part_bytes)
STEP = 32  # keys that the scores of one token take at a time (tile.columns)


def _make_block(words: Args, heads: int, cache: ModuleType) -> Any:
    """Return a kernel for one block of keys: what ``heads`` queries find in it. ``words`` are those of the op."""
    score, add_values = cache.make_scores(heads), cache.make_values(heads)

    @inner
    def attend_block(
        args: Address, cached: int, lowest: int, first: int, count: int, scratch: Narrow, part: Address
    ) -> None:
        a = load_args(words, args)
        padded, slot = (count + 15) // 16 * 16, first % a.context
        score(args, scratch.queries, cached, slot, padded, scratch.panel, scratch.scores)
        for r in range(heads):
            if a.cap:
                _cap(scratch.scores + softmax.ROW * r, padded, f32_of(a.cap))
            mask(scratch.scores + softmax.ROW * r, count, padded)
            if lowest > first:
                _hide(scratch.scores + softmax.ROW * r, lowest - first, padded)
        softmax.softmax(scratch.scores, heads, padded, part)
        add_values(args, scratch.scores, cached, slot, count, scratch.panel, part + softmax.PART_BYTES)

    return attend_block


def _make_attention_one(heads: int, cache: ModuleType) -> Op:
    """Return attention for one token, ``heads`` query heads at a time."""
    attend_block, store = _make_block(GENERAL_ONE, heads, cache), make_store(cache, ring=True)

    def attention(args: Address, state: Address, start: int, stop: int) -> None:
        a, row = load_args(GENERAL_ONE, args), row_of(args, 0)
        position, groups = row.position, a.n_head // heads
        lowest = _lowest(Sight(a.back, a.ahead, a.chunk, position + 1), position)
        scratch = narrow_scratch(load_word(state + STATE.scratch), heads, a.head_dim)
        for item in range(start, stop):
            head, begin = item % groups * heads, (lowest // KEYS + item // groups) * KEYS
            first = max(begin, lowest // STEP * STEP)
            count = least(begin + KEYS, position + 1) - first
            if count <= 0:
                continue  # there are items for as many blocks as a window may touch
            kv_head = head * a.n_head_kv // a.n_head
            if a.stores and first + count > position:
                store(args, 0, kv_head, scratch.scores)
            gather_heads(args, 0, head, heads, position, scratch.queries)
            part = a.parts + item * _part_bytes(heads, a.head_dim)
            attend_block(args, cached_at(args, row.slot, kv_head), lowest, first, count, scratch, part)

    return attention


def _make_attention_each(heads: int, cache: ModuleType) -> Op:
    """Return attention for tokens that are alone of their sequences, ``heads`` query heads at a time."""
    attend_block = _make_block(GENERAL_EACH, heads, cache)

    def attention(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(GENERAL_EACH, args)
        groups, scratch = a.n_head // heads, narrow_scratch(load_word(state + STATE.scratch), heads, a.head_dim)
        for item in range(start, stop):
            token, group = item // groups, item % groups
            row = row_of(args, token)
            if row.run > 1:
                continue
            lowest = _lowest(Sight(a.back, a.ahead, a.chunk, row.position + 1), row.position)
            cached = cached_at(args, row.slot, group * heads * a.n_head_kv // a.n_head)
            gather_heads(args, token, group * heads, heads, row.position, scratch.queries)
            start_group(scratch.all_blocks, heads, a.head_dim)
            if a.sinks:
                for r in range(heads):
                    _start_at_sink(scratch.all_blocks, r, load_f32(a.sinks + 4 * (group * heads + r)))
            first = lowest // STEP * STEP
            while first <= row.position:
                count = least((first // KEYS + 1) * KEYS, row.position + 1) - first
                attend_block(args, cached, lowest, first, count, scratch, scratch.part)
                merge_part(scratch.part, heads, a.head_dim, scratch.all_blocks)
                first += count
            result = Result(a.out, a.codes, a.scales, a.sums)
            write_group(scratch.all_blocks, token * groups + group, heads, a.head_dim, result)

    return attention


@op("attention.general:merge")
def _merge(args: Address, state: Address, start: int, stop: int) -> None:
    """Merge what the items of attention for one token left, block by block. Items are groups of heads."""
    a = load_args(GENERAL_MERGE, args)
    heads, dim, groups, position = a.heads, a.head_dim, a.n_head // a.heads, load_word(state + STATE.position)
    lowest = _lowest(Sight(a.back, a.ahead, a.chunk, position + 1), position)
    blocks = position // KEYS + 1 - lowest // KEYS
    all_blocks = load_word(state + STATE.scratch)  # a softmax state, and the sums of its rows
    for group in range(start, stop):
        start_group(all_blocks, heads, dim)
        if a.sinks:
            for r in range(heads):
                _start_at_sink(all_blocks, r, load_f32(a.sinks + 4 * (group * heads + r)))
        merge_blocks(a.parts, blocks, group, groups, heads, dim, all_blocks)
        write_group(all_blocks, group, heads, dim, Result(a.out, a.codes, a.scales, a.sums))


for _type, _cache in (("f16", kv_f16), ("f32", kv_f32), ("q8_0", kv_q8)):
    op(f"attention.general:store_{_type}")(make_store_op(_cache, ring=True))
    op(f"attention.general:{_type}")(_make_attention(_cache))
    for _heads in range(1, ATTENTION_HEADS + 1):
        op(f"attention.general:{_type}_{_heads}")(_make_attention_one(_heads, _cache))
        op(f"attention.general:each_{_type}_{_heads}")(_make_attention_each(_heads, _cache))
