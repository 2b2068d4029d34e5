"""The ops between matrix products in their general forms: any norm, any activation, sums, scales, soft-caps.

    norms  normalization, scaling and addition of rows
    gates  activations, alone or times another product
    caps   logits, scaled and capped
    args   the argument words of this folder's ops

Rows may have any number of values. What nearly all models need, root-mean-square norms and silu, stands in kernels/ops
with nothing around it.
"""
