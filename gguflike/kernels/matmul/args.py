"""Argument words of the ops in this folder. Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

# Of matvec and matmul, on quantized and on floating-point weights alike. K columns are a multiple of the block size and
# of 32; for floating-point weights, any number.
MATMUL = Args(
    "matmul",
    weights="address of the repacked weights, or of the file's rows for F32, F16, BF16; 64-byte aligned for speed",
    rows="N, any number",
    columns="K",
    codes="address of the activations: int8 (tokens, K), or float32 (tokens, K) for floating-point weights",
    scales="address of float32 (tokens, K / 32); 0 for floating-point weights",
    sums="address of int32 (tokens, K / 16): sums of 16 codes; 0 for floating-point weights",
    out="address of float32 (tokens, stride)",
    stride="float32 values from one token's output to the next, N or more",
    add="1: add to what out holds (the residual stream); 0: overwrite it",
    bias="address of float32 (N,), or 0",
    factor="address of the float32 that products are multiplied by before the bias is added, or 0: by 1",
)
REFINE = MATMUL.behind(
    "matmul.refine",
    function="address of matvec or matmul, which gets the words from ``weights`` on",
    row_blocks="of an item of that: 1 or 2",
    refined="address of the tokens' lists of refined blocks (vector/refine.py)",
)
EACH = MATMUL.behind(
    "matmul.each:tokens",
    function="address of matvec of floating-point weights, which gets the words from ``weights`` on",
)
REPACK = Args(
    "matmul.repack",
    blocks="address of the file's blocks",
    records="address of the records, zeroed",
    rows="N, any number",
    columns="K, a multiple of the block size",
)
LIMITS = Args(
    "matmul.limits",
    memory="address of what is read or multiplied",
    result="address of 64 bytes for a result, so that nothing is optimized away",
)
