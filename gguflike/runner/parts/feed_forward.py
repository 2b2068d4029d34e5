"""The gated feed-forward as ops."""

from __future__ import annotations

from gguflike.families.parts import FeedForward, Norm
from gguflike.runner.parts.emit import check, emit, multiple
from gguflike.runner.schedule import Schedule
from gguflike.runner.weights import LayerWeights


@check.register
def _check(part: FeedForward) -> None:
    multiple("n_ff", part.n_ff, 32)
    multiple("n_embd", part.n_embd, 16)


@emit.register
def _emit(part: FeedForward, s: Schedule, weights: LayerWeights, state: None, norm: Norm, x: int) -> None:  # noqa: ARG001
    gate, up, down = (weights.matrix(f"ffn_{name}") for name in ("gate", "up", "down"))
    normed = s.norm(norm, weights.vector(norm.role), x, (gate, up))
    s.linear(down, s.gated(gate, up, normed, (down,)), x, add=True)
