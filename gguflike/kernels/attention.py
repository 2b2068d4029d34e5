"""Causal attention over the KV cache: grouped queries, online softmax, float32 arithmetic (kv_f16.py, kv_q8.py).

One item is a tile of ``rows`` queries that share a key head: ``heads`` of its query heads for each of some successive
tokens. Keys are stored sixteen to a block with the head's dimension running slower than the key (cache.py), so that a
lane is a key and scores need no sum across lanes; values are stored row by row, so that a lane is a dimension of the
output. Keys are taken ``ATTENTION_KEYS`` at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.kernels import kv_f16, kv_q8
from gguflike.kernels._jit import inner, op
from gguflike.kernels.address import (
    float_of,
    load_f32,
    load_lanes,
    quantize_lanes,
    spread,
    store_f32,
    store_lanes,
)
from gguflike.kernels.atomics import load_word
from gguflike.kernels.program import ATTENTION_KEYS as KEYS
from gguflike.kernels.program import ATTENTION_ROWS, POSITION, SCRATCH, TOKENS
from gguflike.kernels.softmax import LOG2_E, MASKED, make_softmax, mask_lanes

ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(MASKED)
LOG2 = np.float32(LOG2_E)


@inner(inline="always")
def _least(a: int, b: int) -> int:
    return a if a < b else b


@inner
def _mask(scores: int, valid: int, count: int) -> None:
    """Mask what a row does not see: all but the first ``valid`` of its ``count`` scores."""
    start = valid // 16 * 16 if valid > 0 else 0
    for i in range(start, count, 16):
        keep = valid - i
        mask_lanes(scores + 4 * i, keep if keep > 0 else 0)


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
    scores_of, add_values, softmax = cache.make_scores(rows), cache.make_sums(rows), make_softmax(rows)

    def attention(args: int, state: int, start: int, stop: int) -> None:
        q, keys, key_scales = load_word(args), load_word(args + 8), load_word(args + 16)
        values, value_scales = load_word(args + 24), load_word(args + 32)
        n_head, n_head_kv, head_dim = load_word(args + 40), load_word(args + 48), load_word(args + 56)
        context, heads = load_word(args + 64), load_word(args + 72)
        scale = spread(np.float32(float_of(load_word(args + 80)) * LOG2))
        target, codes = load_word(args + 88), load_word(args + 96)
        scales, sums = load_word(args + 104), load_word(args + 112)
        tokens, position = load_word(state + TOKENS), load_word(state + POSITION)
        scores = load_word(state + SCRATCH)
        out = scores + 4 * KEYS * rows
        queries = out + 4 * head_dim * rows
        running = queries + 4 * head_dim * rows  # (2, rows): maxima and sums
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
                store_f32(running + 4 * r, LOWEST)
                store_f32(running + 4 * (rows + r), ZERO)
            seen = position + _least(token + span, tokens)
            for first in range(0, seen, KEYS):
                count = _least(KEYS, seen - first)
                padded = (count + 31) // 32 * 32
                scores_of(queries, keys, key_scales, cached, first, padded, head_dim, scores)
                for r in range(rows):
                    valid = position + token + r // heads + 1 - first
                    if valid < padded:
                        _mask(scores + 4 * KEYS * r, valid, padded)
                softmax(scores, padded, running, out, head_dim)
                add_values(scores, values, value_scales, cached, first, count, head_dim, out)
            for r in range(rows):
                place = ((token + r // heads) * n_head + head + r % heads) * head_dim
                if token + r // heads < tokens:
                    total = load_f32(running + 4 * (rows + r))
                    _write_row(out + 4 * head_dim * r, total, head_dim, target, codes, scales, sums, place)

    return attention


for _rows in ATTENTION_ROWS:
    op(f"attention:f16_{_rows}")(_make_attention(_rows, kv_f16))
    op(f"attention:q8_0_{_rows}")(_make_attention(_rows, kv_q8))
