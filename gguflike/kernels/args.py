"""Argument words of the ops that stand in this folder itself (ops.py, embed.py, shares.py). Imports no numba."""

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

SHARE_COLUMNS, SHARE_BUCKETS, SHARE_SUMS = 1024, 1024, 4  # sizes that shares.py and its callers agree on
WEIGH = Args(
    "shares:weigh",
    logits="address of float32 (n,)",
    n="values",
    most="float bits: the greatest of the logits",
    weights="address of float32 (n,)",
    sums="address of float32 (2, SHARE_COLUMNS), to which weights are added, and their products with logit - most",
)
DIVIDE = Args(
    "shares:divide",
    logits="address of float32 (n,)",
    n="values",
    most="float bits: the greatest of the logits",
    centre="float bits: what distances are measured from",
    scale="float bits: buckets in a unit of distance",
    buckets="address of int16 (n,), with room for whole vectors",
    sums="address of float64 (SHARE_SUMS, SHARE_BUCKETS), to which weights are added",
)
MASK = Args(
    "shares:mask",
    logits="address of float32 (n,)",
    flags="address of uint8 (n,), 0 or 1",
    n="values",
    out="address of float32 (n,)",
)
LIST_FLAGGED = Args(
    "shares:list_flagged",
    flags="address of uint8 (n,), 0 or 1",
    n="flags",
    places="address of int64 (flags that are 1, and one more)",
)
#: The ops of sampling, none of which a greedy text needs.
SHARE_OPS = ("shares:weigh", "shares:divide", "shares:mask", "shares:list_flagged")
