"""A vector that all tokens are given, as ops: a table of one row, which is looked up for each of them."""

from __future__ import annotations

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.families.parts.extras import Constant
from gguflike.runner.buffers import address
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.parts.stateless import new_state as new_state
from gguflike.runner.schedule import Schedule, Source, Target
from gguflike.runner.weights import LayerWeights
from gguflike.tensor import QuantizedTensor


def check(part: Constant) -> None:
    """Always possible."""


def emit(part: Constant, s: Schedule, weights: LayerWeights, state: None, source: Source, target: Target) -> None:  # noqa: ARG001
    row, numbers = np.asarray(part.values, np.float32), np.zeros(s.buffers.batch, np.int32)
    s.program.keep += [row, numbers]
    table = QuantizedTensor("constant", FORMATS["F32"], (1, row.size), row.view(np.uint8))
    rows = s.temp("constant", row.size)
    s.lookup(table, address(numbers), rows)
    added = target.address if target.add else 0
    s.combine(Source(rows, row.size, None, weights), target.address, added=added)
