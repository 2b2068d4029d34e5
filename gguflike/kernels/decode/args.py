"""Argument words of the ops that decode. Imports no numba."""

from __future__ import annotations

from gguflike.kernels.engine.args import Args

DECODE = Args("decode", source="address of the blocks", target="address of float32 (blocks * block size,)")
