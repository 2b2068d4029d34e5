"""What the block of a multi-token-prediction head begins with, as an op."""

from __future__ import annotations

from typing import Any

from gguflike.errors import UnsupportedError
from gguflike.families.parts.mtp import MTPInput
from gguflike.runner.buffers import address
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.weights import LayerWeights


def check(part: MTPInput) -> None:
    """UnsupportedError for rows that cannot be quantized."""
    if part.n_embd % 32:
        raise UnsupportedError("size of an MTP head", expected="a multiple of 32", got=part.n_embd)


def emit(part: MTPInput, s: Schedule, weights: LayerWeights, state: Any, source: Source, target: Target) -> None:  # noqa: ARG001
    """Multiply what `runner.mtp` has left in ``Buffers.pairs``, in place of the embedding that ``target`` has."""
    matrix = weights.matrix(f"{part.prefix}eh_proj")
    s.linear(matrix, s.handed(address(s.buffers.pairs), matrix.columns, (matrix,)), target.address)
