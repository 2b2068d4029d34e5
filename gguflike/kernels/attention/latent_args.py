"""Argument words of the ops of latent.py. Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

KEYS = Args(
    "attention.latent:keys",
    x="address of float32 (tokens, kv_rank + rope_dim): the latent and the key to be rotated",
    kv_rank="values of the latent, a multiple of 16",
    rope_dim="values of the key to be rotated, a multiple of 16",
    weight="address of float32 (kv_rank,), by which the normalized latent is multiplied",
    eps="float bits",
    padded="values of a row of out, a multiple of 16",
    out="address of float32 (tokens, padded)",
)
