"""Argument words of the ops that stand in this folder itself (ops.py, embed.py). Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

RMS_NORM = Args(
    "ops:rms_norm",
    x="address of float32 (tokens, columns)",
    columns="values of a row",
    weight="address of float32 (columns,)",
    eps="float bits",
    out="address of float32 (tokens, columns)",
)
RMS_NORM_Q8 = Args(
    "ops:rms_norm_q8",
    x="address of float32 (tokens, columns)",
    columns="values of a row, a multiple of 32",
    weight="address of float32 (columns,)",
    eps="float bits",
    codes="address of int8 (tokens, columns)",
    scales="address of float32 (tokens, columns / 32)",
    sums="address of int32 (tokens, columns / 16)",
)
SILU_MUL = Args(
    "ops:silu_mul",
    gate="address of float32 (n,)",
    up="address of float32 (n,)",
    out="address of float32 (n,)",
)
SILU_MUL_Q8 = Args(
    "ops:silu_mul_q8",
    gate="address of float32 (n,)",
    up="address of float32 (n,)",
    codes="address of int8 (n,)",
    scales="address of float32 (n / 32,)",
    sums="address of int32 (n / 16,)",
)
EMBED = Args(
    "embed",
    ids="address of int32 (tokens,)",
    rows="address of the matrix's rows as the file has them",
    row_bytes="bytes of a row",
    blocks="blocks of a row",
    out="address of float32 (tokens, columns)",
    columns="values of a row",
)
