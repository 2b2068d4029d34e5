"""The feed-forward as ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike.families.parts import FeedForward
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target

if TYPE_CHECKING:
    from gguflike.runner.matrix import Matrix
    from gguflike.runner.weights import LayerWeights


def check(part: FeedForward) -> None:
    """Every feed-forward can be computed."""


def emit(part: FeedForward, s: Schedule, weights: LayerWeights, state: None, source: Source, target: Target) -> None:  # noqa: ARG001
    gate, up = _inputs(part, weights)
    down = weights.matrix(f"ffn_down{part.suffix}")
    normed = s.read(source, (up,) if gate is None else (gate, up))
    plain = part.activation == "silu" and not part.clamp and part.down_norm is None
    if plain and gate is not None and part.n_ff % 32 == 0:
        hidden = s.gated(gate, up, normed, (down,))
    else:
        from gguflike.runner.parts import hidden as general  # most models do without

        hidden = general.emit(part, s, weights, gate, up, normed, (down,))
    s.linear(down, hidden, target.address, add=target.add)


def _inputs(part: FeedForward, weights: LayerWeights) -> tuple[Matrix | None, Matrix]:
    """Gate and up, in two where one matrix holds both and can be cut; no gate where there is none or it cannot."""
    up = weights.matrix(f"ffn_up{part.suffix}")
    if part.fused:
        divisible = up.plan.repack is None or part.n_ff % 32 == 0
        return (up.part(0, part.n_ff), up.part(part.n_ff, part.n_ff)) if divisible else (None, up)
    return (weights.matrix(f"ffn_gate{part.suffix}") if part.gated else None), up
