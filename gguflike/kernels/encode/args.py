"""Argument words of the ops that encode. Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

#: How the values that are encoded are stored.
F32, F16, BF16 = range(3)
#: The ways to encode a type, each with an op: the absmax rule; the search, without importance and with.
WAYS = ("absmax", "search", "weighted")

# Items are batches of sixteen blocks: those from ``start`` to ``stop`` are this thread's alone, and it takes others
# from a counter that threads share.
ENCODE = Args(
    "encode",
    codec="3 times the id of the block type, plus the index in WAYS",
    x="address of the values: float32, float16 or bfloat16 (blocks * block size,)",
    stored="F32, F16 or BF16: how they are stored",
    blocks="number of blocks",
    importance='address of float32 (columns,); 0 but for "weighted"',
    columns="values of a row",
    out="address of the blocks",
    scratch="address of SCRATCH_BYTES, 64-byte aligned; each thread has its own",
    taken="address of the counter: how many batches have been taken so far",
    claim="how many batches a thread takes at a time",
    common="how many batches are to be taken in all",
    limit="float bits: the largest magnitude that may be encoded; only halves are looked at",
    beyond="address of a word, set to 1 where a half is not finite or is beyond the limit",
)
SCRATCH_BYTES = 1 << 17  # what an encoder keeps of a batch: values, importance, symbols
