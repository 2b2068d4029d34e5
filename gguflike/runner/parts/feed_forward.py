"""The gated feed-forward as ops."""

from __future__ import annotations

from gguflike.errors import UnsupportedError
from gguflike.families.parts import FeedForward
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.weights import LayerWeights


def check(part: FeedForward) -> None:
    if part != FeedForward(part.n_embd, part.n_ff, part.bias):
        raise UnsupportedError("a feed-forward of this kind has no ops in this version", got=part)
    multiple("n_ff", part.n_ff, 32)
    multiple("n_embd", part.n_embd, 16)


def emit(part: FeedForward, s: Schedule, weights: LayerWeights, state: None, source: Source, target: Target) -> None:  # noqa: ARG001
    gate, up, down = (weights.matrix(f"ffn_{name}") for name in ("gate", "up", "down"))
    normed = s.read(source, (gate, up))
    s.linear(down, s.gated(gate, up, normed, (down,)), target.address, add=target.add)
