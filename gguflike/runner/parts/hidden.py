"""The hidden values of feed-forwards beyond silu(gate) * up: other activations, limits, a norm behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gguflike.runner import rows
from gguflike.runner.schedule import Source

if TYPE_CHECKING:
    from gguflike.families.parts import FeedForward
    from gguflike.runner.buffers import Activations
    from gguflike.runner.matrix import Matrix
    from gguflike.runner.schedule import Schedule
    from gguflike.runner.weights import LayerWeights


def emit(
    part: FeedForward,
    s: Schedule,
    weights: LayerWeights,
    gate: Matrix | None,
    up: Matrix,
    source: Activations,
    readers: Sequence[Matrix],
) -> Activations:
    """``down_norm(act(gate) * up)`` for the matrices that read it. Without ``gate``, ``up`` alone is activated, or it
    holds both."""
    n_ff = part.n_ff
    result, int8 = s.buffers.shared("hidden", n_ff), part.down_norm is None and s.fused(readers)
    first = s.temp("up", up.rows)
    products = [(up, first)]
    places = (first, up.rows), (0, 0)
    if gate is not None:
        places = (s.temp("gate", n_ff), n_ff), (first, n_ff)
        products.insert(0, (gate, places[0][0]))
    elif part.fused:
        places = (first, up.rows), (first + 4 * n_ff, up.rows)
    op = rows.gate(part.activation, n_ff, *places, result, int8, part.clamp, part.xielu)
    s.activate(products, source, op, n_ff)
    if not int8:
        return s.read(Source(s.temp("hidden", n_ff), n_ff, part.down_norm, weights), readers)
    return result
