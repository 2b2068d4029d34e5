"""Sums of mixers as ops: several that read the same, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gguflike.families.parts.extras import Sum
from gguflike.runner.parts import ops
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.weights import LayerWeights


def check(part: Sum) -> None:
    """Nothing beside what its mixers ask, which are checked like others."""


def emit(part: Sum, s: Schedule, weights: LayerWeights, state: Sequence[Any], source: Source, target: Target) -> None:
    """As of other parts; ``state`` are those of the mixers.

    The sum is collected apart, since all mixers read what it is added to.
    """
    size, total = source.size, s.temp("sum", source.size)
    base = source
    if source.norm is not None and any(path.norm is not None for path in part.paths):
        summed = s.temp("summed", size)
        s.combine(source, summed)
        base = Source(summed, size, None, weights)
    for index, (path, own) in enumerate(zip(part.paths, state, strict=True)):
        read = base if path.norm is None else Source(base.address, size, path.norm, weights)
        place = total if path.after is None else s.temp("path", size)
        adds = path.after is None and index > 0
        ops(path.mixer).emit(path.mixer, s, weights, own, read, Target(place, add=adds))
        if path.after is not None:
            s.combine(Source(place, size, path.after, weights), total, added=total if index else 0)
    s.combine(Source(total, size, None, weights), target.address, added=target.address if target.add else 0)
