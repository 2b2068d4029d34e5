"""Causal attention over the KV cache: grouped queries, online softmax, float32 arithmetic (kv_f16.py, kv_q8.py).

One item is a tile of ``rows`` queries that share a key head: ``heads`` of its query heads for each of some successive
tokens. Keys are stored sixteen to a block with the head's dimension running slower than the key (cache.py), so that a
lane is a key and scores need no sum across lanes; values are stored row by row, so that a lane is a dimension of the
output. Keys are taken ``ATTENTION_KEYS`` at a time; the running maximum and sum of each row rescale what was added
before (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels import kv_f16, kv_q8
from gguflike.kernels._jit import inner, op
from gguflike.kernels.address import (
    exp_lanes,
    float_of,
    load_f32,
    load_lanes,
    max_lanes,
    maximum,
    quantize_lanes,
    spread,
    store_f32,
    store_lanes,
    sum_lanes,
)
from gguflike.kernels.atomics import load_word
from gguflike.kernels.program import ATTENTION_KEYS as KEYS
from gguflike.kernels.program import ATTENTION_ROWS, POSITION, SCRATCH, TOKENS

MASKED = np.float32(-1e30)
ZERO, ONE = np.float32(0), np.float32(1)


@inner(inline="always")
def _least(a: int, b: int) -> int:
    return a if a < b else b


@inner
def _softmax_row(scores: int, valid: int, count: int, row: int, out: int, head_dim: int) -> None:
    """Turn one row of scores into weights, and rescale the row's sum and output for the new maximum.

    ``scores`` holds ``count`` scores (a multiple of 32), the first ``valid`` of which are seen; the row's maximum and
    sum stand at ``row``.
    """
    for i in range(valid if valid > 0 else 0, count):
        store_f32(scores + 4 * i, MASKED)
    largest = load_lanes(scores)
    for i in range(16, count, 16):
        largest = maximum(largest, load_lanes(scores + 4 * i))
    before, now = load_f32(row), max_lanes(largest)
    now = now if now > before else before
    total = spread(ZERO)
    for i in range(0, count, 16):
        weight = exp_lanes(load_lanes(scores + 4 * i) - spread(now))
        store_lanes(scores + 4 * i, weight)
        total = total + weight
    if now > before:
        shrink = exp_lanes(spread(before - now))
        for i in range(0, head_dim, 16):
            store_lanes(out + 4 * i, load_lanes(out + 4 * i) * shrink)
        store_f32(row, now)
        store_f32(row + 4, load_f32(row + 4) * np.float32(max_lanes(shrink)))
    store_f32(row + 4, load_f32(row + 4) + sum_lanes(total))


@inner
def _write_row(out: int, total: Any, head_dim: int, target: int, codes: int, scales: int, sums: int, at: int) -> None:
    """Normalize one finished row and hand it on as float32, or quantized where ``codes`` is not 0."""
    inverse = spread(ONE / total)
    if codes == 0:
        for i in range(0, head_dim, 16):
            store_lanes(target + 4 * (at + i), load_lanes(out + 4 * i) * inverse)
    else:
        for i in range(0, head_dim, 32):
            block = (at + i) // 32
            a, b = load_lanes(out + 4 * i) * inverse, load_lanes(out + 4 * i + 64) * inverse
            quantize_lanes(a, b, codes + 32 * block, scales + 4 * block, sums + 8 * block)


def _make_attention(rows: int, cache: Any) -> Any:
    """Attention for tiles of ``rows`` queries over a cache whose kernels are in the module ``cache``.

    Words: Q (tokens, n_head, head_dim) float32; KEYS, KEY_SCALES, VALUES, VALUE_SCALES of the layer's cache; N_HEAD,
    N_HEAD_KV, HEAD_DIM, CONTEXT; HEADS (query heads of a tile, a divisor of n_head / n_head_kv and of ``rows``); SCALE
    (float bits); OUT (tokens, n_head, head_dim) float32; CODES (0: write OUT, else write these), SCALES, SUMS.
    Items: n_head / heads times the number of groups of rows / heads tokens, heads running slower.
    """
    scores_of, add_values = cache.make_scores(rows), cache.make_sums(rows)

    def attention(args: int, state: int, start: int, stop: int) -> None:
        q, keys, key_scales = load_word(args), load_word(args + 8), load_word(args + 16)
        values, value_scales = load_word(args + 24), load_word(args + 32)
        n_head, n_head_kv, head_dim = load_word(args + 40), load_word(args + 48), load_word(args + 56)
        context, heads = load_word(args + 64), load_word(args + 72)
        scale = spread(float_of(load_word(args + 80)))
        target, codes = load_word(args + 88), load_word(args + 96)
        scales, sums = load_word(args + 104), load_word(args + 112)
        tokens, position = load_word(state + TOKENS), load_word(state + POSITION)
        scores = load_word(state + SCRATCH)
        out = scores + 4 * KEYS * rows
        queries = out + 4 * head_dim * rows
        running = queries + 4 * head_dim * rows  # (rows, 2): maximum and sum
        span = rows // heads
        tiles = (tokens + span - 1) // span
        for item in range(start, stop):
            head = item // tiles * heads
            # The last tokens see the most keys: they come first, so that no thread is left with one at the end.
            token = (tiles - 1 - item % tiles) * span
            cached = head * n_head_kv // n_head * context * head_dim
            for r in range(rows):
                source = q + 4 * head_dim * (_least(token + r // heads, tokens - 1) * n_head + head + r % heads)
                for d in range(0, head_dim, 16):
                    store_lanes(queries + 4 * (r * head_dim + d), load_lanes(source + 4 * d) * scale)
                    store_lanes(out + 4 * (r * head_dim + d), spread(ZERO))
                store_f32(running + 8 * r, MASKED)
                store_f32(running + 8 * r + 4, ZERO)
            seen = position + _least(token + span, tokens)
            for first in range(0, seen, KEYS):
                count = _least(KEYS, seen - first)
                padded = (count + 31) // 32 * 32
                scores_of(queries, keys, key_scales, cached, first, padded, head_dim, scores)
                for r in range(rows):
                    valid = position + token + r // heads + 1 - first
                    row_out = out + 4 * head_dim * r
                    _softmax_row(scores + 4 * KEYS * r, valid, padded, running + 8 * r, row_out, head_dim)
                add_values(scores, values, value_scales, cached, first, count, head_dim, out)
            for r in range(rows):
                place = ((token + r // heads) * n_head + head + r % heads) * head_dim
                if token + r // heads < tokens:
                    total = load_f32(running + 8 * r + 4)
                    _write_row(out + 4 * head_dim * r, total, head_dim, target, codes, scales, sums, place)

    return attention


for _rows in ATTENTION_ROWS:
    op(f"attention:f16_{_rows}")(_make_attention(_rows, kv_f16))
    op(f"attention:q8_0_{_rows}")(_make_attention(_rows, kv_q8))
