"""A layer's vector of each token, let in by a gate, as ops."""

from __future__ import annotations

from gguflike.families.parts.extras import LayerInput
from gguflike.runner import rows
from gguflike.runner.parts.layer_embeddings import VECTORS
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.weights import LayerWeights


def check(part: LayerInput) -> None:
    """Always possible."""


def emit(part: LayerInput, s: Schedule, weights: LayerWeights, state: None, source: Source, target: Target) -> None:  # noqa: ARG001
    gate, out = weights.matrix("inp_gate"), weights.matrix("proj")
    result, int8 = s.buffers.shared("hidden", part.size), s.fused((out,))
    here, columns = s.temp("gate", part.size), part.layers * part.size
    vectors = s.temp(VECTORS, columns) + 4 * part.layer * part.size
    op = rows.gate(part.activation, part.size, (here, part.size), (vectors, columns), result, int8)
    s.activate([(gate, here)], s.read(source, (gate,)), op, part.size)
    read = result if int8 else s.handed(result.floats, part.size, (out,))
    s.linear(out, read, target.address, add=target.add)
