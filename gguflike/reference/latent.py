"""Multi-head latent attention, forward."""

from __future__ import annotations

import numpy as np

from gguflike.families.parts.latent import LatentAttention
from gguflike.reference.formulas import Array, Context, Weights, linear, normalize, rotate, tempered
from gguflike.reference.indexers import chosen
from gguflike.reference.parts import attend, mix
from gguflike.reference.watched import tell


@mix.register
def _latent_attention(part: LatentAttention, weights: Weights, x: Array, context: Context) -> Array:
    """Attention of all heads to one row per token: its normalized latent and its rotated key."""
    tokens, positions = len(x), np.arange(len(x))
    narrow = normalize(part.q_norm, weights, linear(weights, "attn_q_a", x)) if part.q_rank else x
    q = linear(weights, "attn_q_b" if part.q_rank else "attn_q", narrow)
    q = q.reshape(tokens, part.heads, part.nope_dim + part.rope_dim)
    latent, k = np.split(linear(weights, "attn_kv_a_mqa", x), [part.kv_rank], axis=-1)
    latent = normalize(part.kv_norm, weights, latent)
    plain, heads = q[..., : part.nope_dim], np.tile(np.arange(part.heads), tokens)
    if part.together:
        tell(weights, "attn_kv_b.weight", latent)  # as what it is a matrix for: keys and values of latents
        both = weights["attn_kv_b.weight"].reshape(part.heads, -1, part.kv_rank)
        of_keys, of_values = both[:, : part.nope_dim].transpose(0, 2, 1), both[:, part.nope_dim :]
    else:
        tell(weights, "attn_k_b.weight", plain.reshape(-1, part.nope_dim), heads)
        of_keys, of_values = weights["attn_k_b.weight"], weights["attn_v_b.weight"]
    absorbed = np.einsum("thn,hrn->thr", plain, of_keys)
    turned = rotate(part.rope, q[..., part.nope_dim :], positions, weights, context.length)
    key = rotate(part.rope, k[:, None, :], positions, weights, context.length)
    query = tempered(part.temperature, np.concatenate([absorbed, turned], axis=-1), positions)
    keys = np.concatenate([latent[:, None, :], key], axis=-1)
    mask = positions[:, None] >= positions
    if part.indexer is not None:
        if not part.indexer.shared:
            context.chosen = chosen(part.indexer, weights, x, narrow, mask, context)
        assert context.chosen is not None, "the first layer has an indexer of its own"
        mask = context.chosen
    found = attend(query, keys, latent[:, None, :], mask, part.scale)
    if not part.together:
        tell(weights, "attn_v_b.weight", found.reshape(-1, part.kv_rank), heads)
    values = np.einsum("thr,hvr->thv", found, of_values)
    return linear(weights, "attn_output", values.reshape(tokens, -1))
