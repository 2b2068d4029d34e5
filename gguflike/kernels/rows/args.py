"""Argument words of the ops in this folder. Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

PLAIN, RMS, LAYER = 0, 1, 2  # kinds of normalization: none, by the root mean square, by mean and variance

_INT8 = {
    "codes": "address of int8 (rows, columns)",
    "scales": "address of float32 (rows, columns / 32)",
    "sums": "address of int32 (rows, columns / 16)",
}
_NORM = {
    "x": "address of float32 (rows, columns)",
    "columns": "values of a row; for int8 a multiple of 32",
    "kind": "PLAIN, RMS or LAYER",
    "weight": "address of float32 (groups, columns), or 0",
    "bias": "address of float32 (columns,), or 0",
    "groups": "rows of the weight, which the rows of x take in turns",
    "eps": "float bits",
    "scale": "float bits: what the normalized row is multiplied by",
    "added": "address of float32 (rows, columns) that is added, or 0",
}
NORM = Args("rows.norms:norm", **_NORM, out="address of float32 (rows, columns); that of x or added will do")
NORM_Q8 = Args("rows.norms:norm_q8", **_NORM, **_INT8)

_GATE = {
    "gate": "address of float32 (tokens, columns), the activation's argument",
    "gate_stride": "values from one token's to the next",
    "up": "address of float32 (tokens, columns), what the activation is multiplied by; 0 without",
    "up_stride": "values from one token's to the next",
    "columns": "values of a token; for int8 a multiple of 32",
    "limit": "float bits: the largest activation and magnitude of up, infinity for no limit",
    "alpha_n": "float bits: as the others below a constant of xielu, 0 for others",
    "alpha_p": "float bits",
    "beta": "float bits",
    "eps": "float bits",
}
GATE = Args("rows.gates", **_GATE, out="address of float32 (tokens, columns)")
GATE_Q8 = Args("rows.gates (q8)", **_GATE, **_INT8)

CAP = Args(
    "rows.caps:cap",
    x="address of float32 (tokens, columns), changed in place",
    columns="values of a token",
    scale="float bits: what values are multiplied by",
    cap="float bits: the magnitude that they approach then, 0 for none",
)
CAPPED = 512  # values of one item of CAP
