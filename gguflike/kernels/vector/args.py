"""Argument words of the ops in this folder. Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

QUANTIZE_ROWS = Args(
    "vector.quantize:rows",
    x="address of float32 (tokens, columns)",
    columns="values of a row, a multiple of 32",
    codes="address of int8 (tokens, columns)",
    scales="address of float32 (tokens, columns / 32)",
    sums="address of int32 (tokens, columns / 16)",
)
FIXED_ROWS = QUANTIZE_ROWS.extended(
    "vector.fixed:rows",
    step="float bits, the last 13 of them 0: what a code is worth",
    massive="float bits: the largest magnitude in a row that is quantized by the step",
)
REFINE_ROWS = QUANTIZE_ROWS.extended(
    "vector.refine:rows",
    rows="address of what the tokens are: ROW_TYPE (tokens,)",
    refined="address of a list for each token (refine.py), sizes.refined_bytes(columns) apart",
    crest="float bits: the largest magnitude of a block that is not refined, over the root mean square of its row",
)
