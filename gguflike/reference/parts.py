"""One function per part, forward. ``x`` is (tokens, n_embd), ``weights`` a layer's tensors by role ("attn_q.weight").

Everything is computed in the dtype of its inputs: float32 as models run, float64 for a truth to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.families.parts import Attention, FeedForward, Norm, Rope
from gguflike.families.rope import frequencies

Array = npt.NDArray[Any]
Weights = Mapping[str, Array]


def normalize(norm: Norm, weights: Weights, x: Array) -> Array:
    """``x / sqrt(mean(x**2) + eps) * weight`` over the last axis."""
    rms = np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.asarray(norm.eps, x.dtype))
    result: Array = x / rms * weights[f"{norm.role}.weight"]
    return result


def linear(weights: Weights, role: str, x: Array) -> Array:
    """``x @ weight.T + bias``, where there is one."""
    product: Array = x @ weights[f"{role}.weight"].T
    if f"{role}.bias" in weights:
        product += weights[f"{role}.bias"]
    return product


def rotate(rope: Rope, x: Array, positions: Array, factors: Array | None = None) -> Array:
    """Turn the pairs of the first ``n_rot`` dimensions of ``x`` (tokens, heads, head_dim) by position times frequency.

    ``factors`` (n_rot / 2,) divide the frequencies where ``rope.divided``.
    """
    omega, magnitude = frequencies(rope, factors)
    angles = positions.astype(np.float64)[:, None] * omega
    cos, sin = ((f(angles) * magnitude).astype(x.dtype)[:, None, :] for f in (np.cos, np.sin))
    j = np.arange(rope.n_rot // 2)
    first, second = (2 * j, 2 * j + 1) if rope.pairs == "norm" else (j, j + rope.n_rot // 2)
    out: Array = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


@singledispatch
def mix(part: Any, weights: Weights, x: Array) -> Array:
    """What the mixer adds to its residual stream, given its normalized input ``x`` (tokens, n_embd) from position 0."""
    raise NotImplementedError(type(part).__name__)


@mix.register
def _attention(part: Attention, weights: Weights, x: Array) -> Array:
    """softmax(q k^T / sqrt(head_dim)) v over the tokens up to one's own, by heads that share keys in groups."""
    tokens, dim, positions = len(x), part.head_dim, np.arange(len(x))
    q = linear(weights, "attn_q", x).reshape(tokens, part.heads, dim)
    k = linear(weights, "attn_k", x).reshape(tokens, part.kv_heads, dim)
    v = linear(weights, "attn_v", x).reshape(tokens, part.kv_heads, dim)
    factors = weights.get("rope_freqs.weight")
    q, k = (rotate(part.rope, each, positions, factors) for each in (q, k))
    k, v = (np.repeat(each, part.heads // part.kv_heads, axis=1) for each in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) * np.asarray(dim**-0.5, x.dtype)
    scores = np.where(positions[:, None] >= positions, scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return linear(weights, "attn_output", np.einsum("hts,shd->thd", shares, v).reshape(tokens, part.q_size))


@mix.register
def _feed_forward(part: FeedForward, weights: Weights, x: Array) -> Array:  # noqa: ARG001 - the sizes are the weights'
    """``down(silu(gate(x)) * up(x))`` with silu(x) = x / (1 + exp(-x))."""
    gate = linear(weights, "ffn_gate", x)
    return linear(weights, "ffn_down", gate / (1 + np.exp(-gate)) * linear(weights, "ffn_up", x))
