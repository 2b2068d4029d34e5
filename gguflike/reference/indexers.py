"""Which keys queries attend to, by indexers. A choice has no derivative, so all of this is constant to a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflike.families.parts.indexers import BlockIndexer, Indexer
from gguflike.reference.formulas import Array, Context, Weights, linear, normalize, rotate
from gguflike.reference.gradient.tape import Traced, constant


def chosen(part: Indexer, weights: Weights, x: Array, narrow: Array, mask: Array, context: Context) -> Array:
    """bool (queries, keys): which of the keys in ``mask`` the indexer chooses, by the input and by the latent of the
    queries, ``narrow``."""
    tokens, positions = len(x), np.arange(len(x))
    x, narrow, weights = constant(x), constant(narrow), _constants(weights, x)
    q = linear(weights, "indexer.attn_q_b", narrow).reshape(tokens, part.heads, part.head_dim)
    k = normalize(part.k_norm, weights, linear(weights, "indexer.attn_k", x))[:, None, :]
    q, k = (rotate(part.rope, each, positions, weights, context.length) for each in (q, k))
    agreement = np.maximum(np.einsum("thd,sd->ths", q, k[:, 0]), 0)
    scores = np.einsum("th,ths->ts", linear(weights, "indexer.proj", x), agreement)  # whose scale changes no order
    best = np.argsort(np.where(mask, -scores, np.inf), axis=-1, kind="stable")[:, : part.top_k]
    among: Array = np.zeros(mask.shape, bool)
    np.put_along_axis(among, best, True, axis=-1)
    return among & mask


def chosen_blocks(part: BlockIndexer, weights: Weights, x: Array, mask: Array, context: Context) -> Array:
    """bool (heads, queries, keys): which of the keys in ``mask`` are in blocks that the indexer chooses."""
    tokens, positions = len(x), np.arange(len(x))
    x, weights = constant(x), _constants(weights, x)
    q = linear(weights, "indexer.q_proj", x).reshape(tokens, part.heads, part.head_dim)
    k = linear(weights, "indexer.k_proj", x).reshape(tokens, 1, part.head_dim)
    q, k = (normalize(norm, weights, each) for norm, each in ((part.q_norm, q), (part.k_norm, k)))
    q, k = (rotate(part.rope, each, positions, weights, context.length) for each in (q, k))
    scores = np.where(mask, np.einsum("thd,sd->hts", q, k[:, 0]), -np.inf)
    starts = np.arange(0, tokens, part.block)
    best = np.maximum.reduceat(scores, starts, axis=-1)  # (heads, queries, blocks)
    own = positions[:, None] // part.block
    local = (np.arange(len(starts)) > own - part.local) & (np.arange(len(starts)) <= own)
    order = np.argsort(-np.where(local, np.inf, best), axis=-1, kind="stable")[..., : part.top_k]
    among: Array = np.zeros(best.shape, bool)
    np.put_along_axis(among, order, True, axis=-1)
    return among[..., positions // part.block] & mask


def _constants(weights: Weights, x: Any) -> Weights:
    """``weights``, as plain arrays where ``x`` is traced."""
    if not isinstance(x, Traced):
        return weights
    return {role: constant(weights[role]) for role in weights if role.startswith("indexer.")}
