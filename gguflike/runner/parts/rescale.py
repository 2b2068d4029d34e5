"""What multiplies the residual stream, as an op."""

from __future__ import annotations

from typing import Any

from gguflike.families.parts.extras import Rescale
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.weights import LayerWeights


def check(part: Rescale) -> None:
    """Always possible."""


def emit(part: Rescale, s: Schedule, weights: LayerWeights, state: Any, source: Source, target: Target) -> None:  # noqa: ARG001
    """Overwrite ``target`` with ``source`` times the layer's number."""
    s.combine(source, target.address, scale=float(weights.floats("layer_output_scale.weight")[0]))
