"""Causal attention over the KV cache: grouped queries, online softmax, float32 arithmetic.

Ops, for each type of cache (kv_f16.py, kv_q8.py):

    attention:<type>            any number of tokens, whose keys and values are in the cache. An item is a group of
                                query heads that share a key head, for SPAN successive tokens.
    attention:<type>_<heads>    one token: writes its key and value into the cache too. An item is a group of heads by
                                a block of keys, so that all threads have work; what it finds is left in PARTS for
    attention:merge             whose items are groups of heads

Keys are taken in blocks of ATTENTION_KEYS from the first on, whose results are merged in order (softmax.py). Of a
block, sixteen keys at a time are expanded to float32 and multiplied by all tiles of queries (attention/tile.py), then
sixteen dimensions of the values by all tiles of weights: what is expanded stays in the first-level cache.

Argument words of the first two:

    0 Q            address of float32 (tokens, n_head, head_dim), not rotated yet
    1 TABLE        2 N_ROT        3 NEOX          rotary position, see rope.py
    4 KEYS         5 KEY_SCALES   6 VALUES        7 VALUE_SCALES   of the layer's cache
    8 N_HEAD       9 N_HEAD_KV   10 HEAD_DIM     11 CONTEXT (positions of the cache)
    12 HEADS       of a group, a divisor of n_head / n_head_kv
    13 SCALE       float bits
    14 K          15 V           float32 (tokens, n_head_kv, head_dim), for one token
    16 SPAN       17 OUT         18 CODES        19 SCALES   20 SUMS   for several tokens
    16 PARTS      for one token

and of ``merge``: PARTS, HEADS, N_HEAD, HEAD_DIM, OUT, CODES, SCALES, SUMS. OUT is float32 (tokens, n_head, head_dim);
where CODES is not 0, the result goes there, SCALES and SUMS instead, as the matmul ops read it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels.attention import kv_f16, kv_q8, softmax
from gguflike.kernels.attention import words as w
from gguflike.kernels.attention.rope import make_store, rotated
from gguflike.kernels.attention.tile import HEIGHT, PANEL, make_scores, make_values, merge_row
from gguflike.kernels.attention.words import ATTENTION_HEADS, attention_part
from gguflike.kernels.attention.words import ATTENTION_KEYS as KEYS
from gguflike.kernels.engine.atomics import load_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.program import POSITION, SCRATCH, TOKENS
from gguflike.kernels.vector.lanes import splat
from gguflike.kernels.vector.memory import float_of, load_f32, load_f32x16, scatter_f32, store_f32x16
from gguflike.kernels.vector.quantize import quantize_block

ZERO, ONE = np.float32(0), np.float32(1)
LOG2 = np.float32(softmax.LOG2_E)


@inner(inline="always")
def _least(a: int, b: int) -> int:
    return a if a < b else b


@inner(inline="always")
def _first_row(key: int, position: int, heads: int) -> int:
    """The first of the rows from ``position`` on, ``heads`` to a position, that sees a key."""
    return (key - position) * heads if key > position else 0


@inner
def _gather(args: int, source: int, factors: int, target: int, stride: int) -> None:
    """One query, rotated and scaled, with ``stride`` bytes between its dimensions."""
    n_rot, neox, dim = load_word(args + w.N_ROT), load_word(args + w.NEOX), load_word(args + w.HEAD_DIM)
    scale = splat(np.float32(float_of(load_word(args + w.SCALE)) * LOG2))
    for i in range(0, dim, 16):
        scatter_f32(target + i * stride, stride, rotated(source, i, factors, n_rot, neox) * scale)


@inner
def _mask(scores: int, valid: int, count: int) -> None:
    """Mask what a row does not see: all but the first ``valid`` of its ``count`` scores."""
    start = valid // 16 * 16 if valid > 0 else 0
    for i in range(start, count, 16):
        keep = valid - i
        softmax.mask_lanes(scores + 4 * i, keep if keep > 0 else 0)


@inner
def _write_row(out: int, total: Any, head_dim: int, target: int, codes: int, scales: int, sums: int, at: int) -> None:
    """Normalize one finished row and hand it on as float32, or quantized where ``codes`` is not 0."""
    inverse = splat(ONE / total)
    if codes == 0:
        for i in range(0, head_dim, 16):
            store_f32x16(target + 4 * (at + i), load_f32x16(out + 4 * i) * inverse)
    else:
        for i in range(0, head_dim, 32):
            block = (at + i) // 32
            a, b = load_f32x16(out + 4 * i) * inverse, load_f32x16(out + 4 * i + 64) * inverse
            quantize_block(a, b, codes + 32 * block, scales + 4 * block, sums + 8 * block)


def _make_attention(cache: Any) -> Any:
    """Attention for several tokens over a cache whose kernels are in the module ``cache``.

    The rows of an item are its heads of its first token, those of the second, ...: HEIGHT of them make a tile.
    """
    score, add_values = make_scores(HEIGHT, 1), make_values(HEIGHT, 1, merged=True)

    @inner
    def gather(args: int, token: int, head: int, position: int, rows: int, tiles: int, queries: int) -> None:
        """The queries of an item, tile by tile; zeros fill up the last."""
        q, table = load_word(args + w.Q), load_word(args + w.TABLE)
        n_rot, n_head = load_word(args + w.N_ROT), load_word(args + w.N_HEAD)
        dim, heads = load_word(args + w.HEAD_DIM), load_word(args + w.HEADS)
        for d in range(0, HEIGHT * dim, 16):
            store_f32x16(queries + 4 * ((tiles - 1) * HEIGHT * dim + d), splat(ZERO))
        for r in range(rows):
            t = token + r // heads
            target = queries + 4 * (r // HEIGHT * HEIGHT * dim + r % HEIGHT)
            source = q + 4 * dim * (t * n_head + head + r % heads)
            _gather(args, source, table + 8 * n_rot * (position + r // heads), target, 4 * HEIGHT)

    @inner
    def score_block(
        args: int, cached: int, first: int, count: int, position: int, tiles: int, panel: int, queries: int, scores: int
    ) -> None:
        keys, key_scales = load_word(args + w.KEYS), load_word(args + w.KEY_SCALES)
        dim, heads = load_word(args + w.HEAD_DIM), load_word(args + w.HEADS)
        for i in range(0, count, 16):
            cache.expand_keys(keys, key_scales, cached, first + i, dim, panel)
            for tile in range(_first_row(first + i, position, heads) // HEIGHT, tiles):
                score(queries + 4 * HEIGHT * dim * tile, panel, dim, scores + softmax.ROW * HEIGHT * tile + 4 * i)

    @inner
    def weigh(scores: int, count: int, row: int, first: int, position: int, heads: int, state: int) -> None:
        """Scores of the tile that begins with ``row``, of ``count`` keys from ``first`` on, to weights."""
        padded = (count + 15) // 16 * 16
        for r in range(HEIGHT):
            valid = position + (row + r) // heads + 1 - first
            if valid < padded:
                _mask(scores + softmax.ROW * r, valid, padded)
        softmax.softmax(scores, HEIGHT, padded, state)
        softmax.merge(state, state)

    def attention(args: int, state: int, start: int, stop: int) -> None:
        values, value_scales = load_word(args + w.VALUES), load_word(args + w.VALUE_SCALES)
        n_head, n_head_kv, dim = load_word(args + w.N_HEAD), load_word(args + w.N_HEAD_KV), load_word(args + w.HEAD_DIM)
        context, heads, span = load_word(args + w.CONTEXT), load_word(args + w.HEADS), load_word(args + w.SPAN)
        target, codes = load_word(args + w.OUT), load_word(args + w.CODES)
        scales, sums = load_word(args + w.SCALES), load_word(args + w.SUMS)
        tokens = load_word(state + TOKENS)
        spans = (tokens + span - 1) // span
        most = (span * heads + HEIGHT - 1) // HEIGHT
        panel = load_word(state + SCRATCH)
        states = panel + PANEL * max(dim, KEYS)
        queries = states + softmax.STATE_BYTES * most
        out = queries + 4 * HEIGHT * dim * most
        scores = out + 4 * HEIGHT * dim * most
        for item in range(start, stop):
            head, turn = item // spans * heads, item % spans
            # The last tokens see the most keys: by turns with the first, so that all threads have as many.
            token = (turn // 2 if turn % 2 else spans - 1 - turn // 2) * span
            count = _least(span, tokens - token)
            rows = count * heads
            tiles = (rows + HEIGHT - 1) // HEIGHT
            position = load_word(state + POSITION) + token
            cached = head * n_head_kv // n_head * context * dim
            gather(args, token, head, position, rows, tiles, queries)
            for tile in range(tiles):
                softmax.start(states + softmax.STATE_BYTES * tile)
            for i in range(0, tiles * HEIGHT * dim, 16):
                store_f32x16(out + 4 * i, splat(ZERO))
            for first in range(0, position + count, KEYS):
                present = _least(KEYS, position + count - first)
                lowest = _first_row(first, position, heads) // HEIGHT
                score_block(args, cached, first, present, position, tiles, panel, queries, scores)
                for tile in range(lowest, tiles):
                    last = _least((tile + 1) * HEIGHT, rows) - 1
                    seen = _least(KEYS, position + last // heads + 1 - first)
                    at = scores + softmax.ROW * HEIGHT * tile
                    weigh(at, seen, tile * HEIGHT, first, position, heads, states + softmax.STATE_BYTES * tile)
                for d in range(0, dim, 16):
                    cache.expand_values(values, value_scales, cached, first, present, dim, d, panel)
                    for tile in range(lowest, tiles):
                        last = _least((tile + 1) * HEIGHT, rows) - 1
                        seen = _least(KEYS, position + last // heads + 1 - first)
                        at = scores + softmax.ROW * HEIGHT * tile
                        place = out + 4 * (HEIGHT * dim * tile + d)
                        add_values(at, panel, PANEL, seen, states + softmax.STATE_BYTES * tile, place, 4 * dim)
            for r in range(rows):
                lane = states + softmax.STATE_BYTES * (r // HEIGHT) + 4 * (r % HEIGHT)
                total = load_f32(lane + softmax.ALL_TOTAL)
                place = ((token + r // heads) * n_head + head + r % heads) * dim
                _write_row(out + 4 * dim * r, total, dim, target, codes, scales, sums, place)

    return attention


_part_bytes = inner(attention_part)


def _make_one(heads: int, cache: Any) -> Any:
    """Attention for one token, ``heads`` query heads at a time."""
    score, add_values, store = cache.make_scores(heads), cache.make_values(heads), make_store(cache)

    def attention(args: int, state: int, start: int, stop: int) -> None:
        q = load_word(args + w.Q)
        values, value_scales = load_word(args + w.VALUES), load_word(args + w.VALUE_SCALES)
        n_head, n_head_kv, dim = load_word(args + w.N_HEAD), load_word(args + w.N_HEAD_KV), load_word(args + w.HEAD_DIM)
        context, position = load_word(args + w.CONTEXT), load_word(state + POSITION)
        factors = load_word(args + w.TABLE) + 8 * load_word(args + w.N_ROT) * position
        panel = load_word(state + SCRATCH)
        queries = panel + PANEL * max(dim, KEYS)
        scores = queries + 4 * heads * dim
        for item in range(start, stop):
            head, first = item % (n_head // heads) * heads, item // (n_head // heads) * KEYS
            part = load_word(args + w.PARTS) + item * _part_bytes(heads, dim)
            kv_head = head * n_head_kv // n_head
            cached = kv_head * context * dim
            count = _least(KEYS, position + 1 - first)
            if first + count > position:
                store(args, 0, kv_head, position, scores)
            for r in range(heads):
                _gather(args, q + 4 * dim * (head + r), factors, queries + 4 * r, 4 * heads)
            padded = (count + 15) // 16 * 16
            score(args, queries, cached, first, padded, dim, panel, scores)
            for r in range(heads):
                _mask(scores + softmax.ROW * r, count, padded)
            softmax.softmax(scores, heads, padded, part)
            out = part + softmax.PART_BYTES
            add_values(scores, values, value_scales, cached, first, count, dim, panel, out)

    return attention


@op("attention.causal:merge")
def _merge(args: int, state: int, start: int, stop: int) -> None:
    parts, heads, n_head, dim = load_word(args), load_word(args + 8), load_word(args + 16), load_word(args + 24)
    target, codes = load_word(args + 32), load_word(args + 40)
    scales, sums = load_word(args + 48), load_word(args + 56)
    blocks, groups = load_word(state + POSITION) // KEYS + 1, n_head // heads
    all_blocks = load_word(state + SCRATCH)
    out = all_blocks + softmax.STATE_BYTES
    for group in range(start, stop):
        softmax.start(all_blocks)
        for i in range(0, heads * dim, 16):
            store_f32x16(out + 4 * i, splat(ZERO))
        for block in range(blocks):
            part = parts + (block * groups + group) * _part_bytes(heads, dim)
            softmax.merge(all_blocks, part)
            for r in range(heads):
                merge_row(out + 4 * dim * r, part + softmax.PART_BYTES + 4 * dim * r, dim, all_blocks, r)
        for r in range(heads):
            total = load_f32(all_blocks + softmax.ALL_TOTAL + 4 * r)
            _write_row(out + 4 * dim * r, total, dim, target, codes, scales, sums, (group * heads + r) * dim)


for _type, _cache in (("f16", kv_f16), ("q8_0", kv_q8)):
    op(f"attention.causal:{_type}")(_make_attention(_cache))
    for _heads in range(1, ATTENTION_HEADS + 1):
        op(f"attention.causal:{_type}_{_heads}")(_make_one(_heads, _cache))
