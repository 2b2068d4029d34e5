"""One function per part, forward. ``x`` is (tokens, n_embd), ``weights`` a layer's tensors by role ("attn_q.weight").

Everything is computed in the dtype of its inputs: float32 as models run, float64 for a truth to compare with. Here are
the parts of families/parts/layers.py; those of its other modules have theirs beside this one.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from gguflike.families.parts import Attention, FeedForward, Norm
from gguflike.reference.formulas import (
    ACTIVATIONS,
    Array,
    Context,
    Weights,
    linear,
    normalize,
    rotate,
    sigmoid,
    tempered,
    xielu,
)

QUERIES = 64
"""Of a head that are computed together: what they score stays in a core's cache."""


def gated(part: Any, gate: Array | None, up: Array) -> Array:
    """The hidden values of a feed-forward: ``act(gate) * up``, or ``act(up)`` without a gate.

    "swiglu_oai" (gpt-oss): with gate at most ``clamp`` and up at most that in magnitude, gate * sigmoid(1.702 * gate) *
    (up + 1).
    """
    if part.activation == "swiglu_oai":
        assert gate is not None, "swiglu_oai is of gated feed-forwards"
        gate, up = np.minimum(gate, part.clamp), np.clip(up, -part.clamp, part.clamp)
        result: Array = gate * sigmoid(1.702 * gate) * (up + 1)
        return result
    if part.activation == "xielu":
        return xielu(up, *part.xielu)
    act = ACTIVATIONS[part.activation]
    if gate is None:
        return act(up)
    hidden = act(gate)
    if part.clamp:
        hidden, up = np.minimum(hidden, part.clamp), np.clip(up, -part.clamp, part.clamp)
    return hidden * up


def seen(part: Attention, tokens: int) -> Array:
    """bool (queries, keys): which keys each query sees."""
    query, key = np.arange(tokens)[:, None], np.arange(tokens)
    if not part.causal:
        return abs(query - key) <= part.window // 2 if part.window else np.ones((tokens, tokens), bool)
    mask: Array = key <= query
    if part.chunked:
        mask &= key >= query // part.window * part.window
    elif part.window:
        mask &= key > query - part.window
    return mask


def attend(
    q: Array, k: Array, v: Array, mask: Array, scale: float, softcap: float = 0.0, sinks: Array | None = None
) -> Array:
    """softmax(q k^T * scale) v for q (tokens, heads, dim), k (tokens, kv_heads, dim), v (tokens, kv_heads, v_dim).

    ``mask``, bool (tokens, keys) or (heads, tokens, keys), says which keys count. `QUERIES` are computed at a time, and
    for them no keys but those from the first to the last that any of them sees.
    """
    tokens, heads, groups = len(q), q.shape[1], k.shape[1]
    each = heads // groups  # that share keys and values
    q = (q * np.asarray(scale, q.dtype)).reshape(tokens, groups, each, -1).transpose(1, 0, 2, 3)
    k, v = k.transpose(1, 2, 0), v.transpose(1, 0, 2)
    mask = mask.reshape(-1, each if mask.ndim == 3 else 1, *mask.shape[-2:]).swapaxes(1, 2)
    found = []
    for first in range(0, tokens, QUERIES):
        some, visible = q[:, first : first + QUERIES], mask[:, first : first + QUERIES]
        keys = np.flatnonzero(visible.any(axis=(0, 1, 2)))
        near = slice(keys[0], keys[-1] + 1) if len(keys) else slice(None)
        visible = visible[..., near]
        scores = (some.reshape(groups, -1, some.shape[-1]) @ k[:, :, near]).reshape(*some.shape[:-1], -1)
        if softcap:
            scores = np.tanh(scores / softcap) * softcap
        if not visible.all():
            scores = np.where(visible, scores, -np.inf)
        most = scores.max(axis=-1, keepdims=True)
        if sinks is not None:
            sink = sinks.reshape(groups, 1, each, 1)
            most = np.maximum(most, sink)
        scores -= most
        shares = np.exp(scores)
        total = shares.sum(axis=-1, keepdims=True)
        if sinks is not None:
            total = total + np.exp(sink - most)
        values = (shares.reshape(groups, -1, shares.shape[-1]) @ v[:, near]).reshape(*some.shape[:-1], -1)
        found.append((values / total).transpose(1, 0, 2, 3))
    result: Array = np.concatenate(found).reshape(tokens, heads, -1)
    return result


@singledispatch
def mix(part: Any, weights: Weights, x: Array, context: Context) -> Array:
    """What the mixer adds to its residual stream, given its normalized input ``x`` (tokens, n_embd) from position 0."""
    raise NotImplementedError(type(part).__name__)


@mix.register
def _attention(part: Attention, weights: Weights, x: Array, context: Context) -> Array:
    """softmax(q k^T * scale) v over the keys that each query sees, by heads that share keys in groups."""
    tokens, dim, positions = len(x), part.head_dim, np.arange(len(x))
    if part.fused:
        q, k, v = np.split(linear(weights, "attn_qkv", x), [part.q_size, part.q_size + part.kv_size], axis=-1)
    else:
        q = linear(weights, "attn_q", x)
        k = v = np.empty(0)
        if part.kv_layer is None:
            k = linear(weights, "attn_k", x)
            v = k if part.value_is_key else linear(weights, "attn_v", x)
    gate = None
    if part.gate == "query":
        q, gate = np.split(q.reshape(tokens, part.heads, 2 * dim), 2, axis=-1)
        q, gate = q.reshape(tokens, -1), gate.reshape(tokens, -1)
    elif part.gate is not None:
        gate = linear(weights, "attn_gate", x)
    q = _turned(part, part.q_norm, q, part.heads, weights, context)
    q = tempered(part.temperature, q, positions)
    if part.kv_layer is None:
        k = _turned(part, part.k_norm, k, part.kv_heads, weights, context)
        v = normalize(part.v_norm, weights, _limited(part, v).reshape(tokens, part.kv_heads, part.of_values))
        context.cached[context.layer] = k, v
    else:
        k, v = context.cached[part.kv_layer]
    scale = dim**-0.5 if part.scale is None else part.scale
    sinks = weights["attn_sinks.weight"] if part.sinks else None
    mask = seen(part, tokens)
    if part.indexer is not None:
        from gguflike.reference.indexers import chosen_blocks  # which few models have

        chosen = chosen_blocks(part.indexer, weights, x, mask, context)
        mask = np.repeat(chosen, part.heads // part.indexer.heads, axis=0)
    out = attend(q, k, v, mask, scale, part.softcap, sinks)
    if gate is not None:
        opened = ACTIVATIONS[part.gate_activation](gate)
        out = out * opened.reshape(tokens, part.heads, -1)
    return linear(weights, "attn_output", normalize(part.output_norm, weights, out.reshape(tokens, part.found_size)))


def _limited(part: Attention, values: Array) -> Array:
    return np.clip(values, -part.clamp, part.clamp) if part.clamp else values


def _turned(part: Attention, norm: Norm | None, x: Array, heads: int, weights: Weights, context: Context) -> Array:
    """Queries or keys (tokens, heads, head_dim), normalized and rotated."""
    whole = norm is not None and norm.size == heads * part.head_dim and norm.size != part.head_dim
    x = _limited(part, x)
    split = (len(x), heads, part.head_dim)

    def normed(values: Array) -> Array:
        return normalize(norm, weights, values.reshape(len(x), -1) if whole else values).reshape(split)

    def turned(values: Array) -> Array:
        return rotate(part.rope, values, np.arange(len(x)), weights, context.length)

    x = x.reshape(split)
    return normed(turned(x)) if part.norm_after_rope else turned(normed(x))


@mix.register
def _feed_forward(part: FeedForward, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """``down(act(gate(x)) * up(x))``."""
    up, gate = linear(weights, f"ffn_up{part.suffix}", x), None
    if part.fused:
        gate, up = np.split(up, 2, axis=-1)
    elif part.gated:
        gate = linear(weights, f"ffn_gate{part.suffix}", x)
    return linear(weights, f"ffn_down{part.suffix}", normalize(part.down_norm, weights, gated(part, gate, up)))
