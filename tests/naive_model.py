"""A Llama forward pass in plain numpy float64, token by token from the definition: the oracle of the runner's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rotate(x: np.ndarray, angles: np.ndarray, kind: str) -> np.ndarray:
    """x (tokens, heads, head_dim), angles (tokens, n_rot / 2)."""
    n_rot = 2 * angles.shape[-1]
    out = x.copy()
    first = np.arange(n_rot // 2) * 2 if kind == "norm" else np.arange(n_rot // 2)
    second = first + (1 if kind == "norm" else n_rot // 2)
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    out[..., first] = x[..., first] * c - x[..., second] * s
    out[..., second] = x[..., first] * s + x[..., second] * c
    return out


def forward(
    weights: Mapping[str, np.ndarray],
    h: Mapping[str, Any],
    ids: list[int],
    *,
    rope: str = "norm",
    frequencies: np.ndarray | None = None,
    linear: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x, w: x @ w.T,
    cached: Callable[[np.ndarray], np.ndarray] = lambda x: x.astype(np.float16).astype(np.float64),
) -> np.ndarray:
    """Logits (tokens, vocab). ``weights`` by GGUF name; ``linear`` may imitate quantized activations; ``cached``
    is what the cache makes of keys and values, (tokens, heads, head_dim)."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    heads, kv_heads, dim = h["n_head"], h["n_head_kv"], h["head_dim"]
    n_rot = h.get("n_rot", dim)
    if frequencies is None:
        frequencies = h.get("rope_base", 10000.0) ** (-np.arange(0, n_rot, 2) / n_rot)
    tokens = len(ids)
    angles = np.arange(tokens)[:, None] * frequencies
    visible = np.tril(np.ones((tokens, tokens), bool))
    x = w["token_embd.weight"][ids]
    for layer in range(h["n_layer"]):

        def project(x: np.ndarray, name: str, layer: int = layer) -> np.ndarray:
            return linear(x, w[f"blk.{layer}.{name}.weight"]) + w.get(f"blk.{layer}.{name}.bias", 0.0)

        normed = rms_norm(x, w[f"blk.{layer}.attn_norm.weight"], h["norm_eps"])
        q = rotate(project(normed, "attn_q").reshape(tokens, heads, dim), angles, rope)
        k = rotate(project(normed, "attn_k").reshape(tokens, kv_heads, dim), angles, rope)
        v = project(normed, "attn_v").reshape(tokens, kv_heads, dim)
        k, v = (np.repeat(cached(each), heads // kv_heads, axis=1) for each in (k, v))
        scores = np.where(visible, np.einsum("thd,shd->hts", q, k) / np.sqrt(dim), -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + project(np.einsum("hts,shd->thd", p, v).reshape(tokens, heads * dim), "attn_output")
        normed = rms_norm(x, w[f"blk.{layer}.ffn_norm.weight"], h["norm_eps"])
        gate = project(normed, "ffn_gate")
        x = x + project(gate / (1 + np.exp(-gate)) * project(normed, "ffn_up"), "ffn_down")
    x = rms_norm(x, w["output_norm.weight"], h["norm_eps"])
    return linear(x, w.get("output.weight", w["token_embd.weight"]))
