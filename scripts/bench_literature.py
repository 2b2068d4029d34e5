#!/usr/bin/env python3
"""The quantization methods that the literature names, as block types: bits, error, and what each idea costs or gains.

Prints the table of spec/literature.md. Error is the RMSE relative to the RMS of the input, on a Gaussian and on the
weight matrices of the bundled checkpoint (real weights have heavier tails, which is what blocks are for).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import gguflike
from gguflike import checkpoint
from gguflike.blocks import format_by_name
from gguflike.tensor import Method

CHECKPOINT = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"
Rows = np.ndarray


def gaussian() -> Rows:
    return np.random.default_rng(0).standard_normal((256, 4096)).astype(np.float32)


def trained() -> Rows:
    """The feed-forward and attention matrices of the bundled checkpoint, as rows of 256 weights."""
    tensors = checkpoint.open(CHECKPOINT).tensors
    matrices = [t.read_f32() for name, t in tensors.items() if "layers" in name and len(t.shape) == 2]
    return np.concatenate([matrix.reshape(-1, 256) for matrix in matrices])


def fixed_point(bits: int) -> Callable[[Rows], Rows]:
    """One power-of-two step for the whole tensor, the smallest that does not clip (no block type does this)."""

    def apply(x: Rows) -> Rows:
        top = 2 ** (bits - 1) - 1
        step = 2.0 ** np.ceil(np.log2(np.abs(x).max() / top))
        return np.round(x / step).clip(-top - 1, top) * step

    return apply


def tensor_absmax(bits: int) -> Callable[[Rows], Rows]:
    """One real-valued scale for the whole tensor: AbsMax without blocks."""

    def apply(x: Rows) -> Rows:
        top = 2 ** (bits - 1) - 1
        step = np.abs(x).max() / top
        return np.round(x / step) * step

    return apply


def block_type(name: str, method: Method) -> Callable[[Rows], Rows]:
    return lambda x: gguflike.quantize(x, name, method=method).dequantize()


ROWS: list[tuple[str, str, str, Method | None]] = [
    ("Fixed-point, one step per tensor", "4", "fixed", None),
    ("AbsMax, one scale per tensor", "4", "absmax", None),
    ("AbsMax in blocks of 32", "", "Q4_0", "absmax"),
    ("AbsMax in blocks of 32, 8 bits", "", "Q8_0", "absmax"),
    ("the same bytes, least squares", "", "Q4_0", "search"),
    ("Zero-point (asymmetric)", "", "Q4_1", "absmax"),
    ("the same bytes, least squares", "", "Q4_1", "search"),
    ("Logarithmic scale (power of two, E8M0)", "", "MXFP4", "absmax"),
    ("the same bytes, best exponent", "", "MXFP4", "search"),
    ("Small-float scale (UE4M3)", "", "NVFP4", "search"),
    ("Non-uniform levels", "", "IQ4_NL", "search"),
    ("Grouped: super-blocks, zero-point", "", "Q4_K", "search"),
    ("Grouped: super-blocks, zero-point", "", "Q2_K", "search"),
    ("Grouped: super-blocks, non-uniform levels", "", "IQ4_XS", "search"),
    ("Vector quantization (8 weights, 256 points)", "", "IQ2_XXS", "search"),
    ("Vector quantization (8 weights, 1024 points)", "", "IQ2_S", "search"),
    ("Product: sign x magnitude of 4", "", "IQ3_S", "search"),
    ("Ternary, largest weight as the scale", "", "TQ2_0", "absmax"),
    ("Ternary, least squares", "", "TQ2_0", "search"),
    ("Ternary vectors", "", "IQ1_S", "search"),
    ("Binary", "", "Q1_0", "search"),
]
BASELINES = {"fixed": fixed_point(4), "absmax": tensor_absmax(4)}


def main() -> None:
    data = [gaussian(), trained()]
    print("| method | type | rule | bits per weight | Gaussian | trained |\n|---|---|---|---|---|---|")
    for label, bits, name, method in ROWS:
        apply = block_type(name, method) if method else BASELINES[name]
        errors = [float(np.sqrt(np.mean((apply(x) - x) ** 2) / np.mean(x**2))) for x in data]
        width = f"{format_by_name(name).bits_per_weight:.4g}" if method else bits
        print(
            f"| {label} | {name if method else '-'} | {method or '-'} | {width} | {errors[0]:.4f} | {errors[1]:.4f} |"
        )


if __name__ == "__main__":
    main()
