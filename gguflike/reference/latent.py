"""Multi-head latent attention, forward."""

from __future__ import annotations

import numpy as np

from gguflike.families.parts.latent import LatentAttention
from gguflike.reference.parts import Array, Context, Weights, attend, linear, mix, normalize, rotate, tempered


@mix.register
def _latent_attention(part: LatentAttention, weights: Weights, x: Array, context: Context) -> Array:
    """Attention of all heads to one row per token: its normalized latent and its rotated key."""
    tokens, positions = len(x), np.arange(len(x))
    if part.q_rank:
        q = linear(weights, "attn_q_b", normalize(part.q_norm, weights, linear(weights, "attn_q_a", x)))
    else:
        q = linear(weights, "attn_q", x)
    q = q.reshape(tokens, part.heads, part.nope_dim + part.rope_dim)
    latent, k = np.split(linear(weights, "attn_kv_a_mqa", x), [part.kv_rank], axis=-1)
    latent = normalize(part.kv_norm, weights, latent)
    absorbed = np.einsum("thn,hrn->thr", q[..., : part.nope_dim], weights["attn_k_b.weight"])
    turned = rotate(part.rope, q[..., part.nope_dim :], positions, weights, context.length)
    key = rotate(part.rope, k[:, None, :], positions, weights, context.length)
    query = tempered(part.temperature, np.concatenate([absorbed, turned], axis=-1), positions)
    keys = np.concatenate([latent[:, None, :], key], axis=-1)
    found = attend(query, keys, latent[:, None, :], positions[:, None] >= positions, part.scale)
    values = np.einsum("thr,hvr->thv", found, weights["attn_v_b.weight"])
    return linear(weights, "attn_output", values.reshape(tokens, -1))
