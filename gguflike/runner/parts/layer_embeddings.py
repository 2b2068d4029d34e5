"""Vectors for each token and layer as ops, computed once for all blocks."""

from __future__ import annotations

from typing import Any

from gguflike.families.parts.extras import LayerEmbeddings
from gguflike.frozen import replace
from gguflike.runner.buffers import address
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.weights import LayerWeights

VECTORS = "layer_vectors"  # the temporary that layer_input.py reads, float32 (tokens, layers * size)


def check(part: LayerEmbeddings) -> None:
    """Always possible."""


def emit(part: LayerEmbeddings, s: Schedule, weights: LayerWeights, state: Any, source: Source, target: Target) -> None:  # noqa: ARG001
    """Leave the vectors in a temporary; ``target`` stays as it is."""
    columns = part.layers * part.size
    rows, vectors = s.temp("layer_rows", columns), s.temp(VECTORS, columns)
    projection = weights.matrix("per_layer_model_proj")
    s.lookup(weights.weights.table("per_layer_token_embd.weight"), address(s.buffers.ids), rows)
    s.linear(projection, s.read(source, (projection,)), vectors)
    # norm(c * v) with eps is norm(v) with eps / c**2, so the product need not be multiplied by n_embd**-0.5.
    norm, half = replace(part.norm, eps=part.norm.eps * part.n_embd), 0.5**0.5
    s.combine(Source(vectors, part.size, norm, weights), vectors, scale=half, count=part.layers)
    s.combine(Source(rows, columns, None, weights), vectors, added=vectors, scale=half * part.scale)
