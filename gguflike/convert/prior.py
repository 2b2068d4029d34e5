"""What an error of a matrix costs where no backward pass has told: how far its outputs are off, by a prior.

The relative error of the outputs, tr(E H E^T) / tr(W H W^T), is what a matrix adds as noise to what its layer says; of
unknown inputs H is taken as the diagonal of an importance matrix, or as the identity. How much the divergence grows for
that depends on what the matrix is for: `PRIOR` is what it was in a model for which it was measured, in nats per token,
of all matrices of a kind together, where they have a relative error of 1; those of a layer have their share of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguflike.convert.facts import category
from gguflike.convert.slabs import read_slab, slabs
from gguflike.convert.sources import Source
from gguflike.tensor import quantize

if TYPE_CHECKING:
    from gguflike.blocks import BlockFormat
    from gguflike.convert.planned import PlannedTensor
    from gguflike.convert.sources import Floats

PRIOR = {
    "token_embd": 0.7,
    "output": 1.3,
    "attn_q": 0.08,
    "attn_k": 0.11,
    "attn_v": 0.17,
    "attn_output": 0.15,
    "ffn_gate": 0.5,
    "ffn_up": 0.26,
    "ffn_down": 0.62,
    "other": 0.3,
}
"""Sums over the layers of the bundled model of what Q3_K and Q4_K cost there by second order, over the relative error;
of kinds that it has not, what lies in between."""
PIECE, PIECES = 1 << 17, 8  # bytes of the rows that are encoded of a tensor at a time, and how often


class Prior:
    """The cost of relative errors in a model that has matrices of these ``names``."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._tied = "output.weight" not in names
        self._counts = Counter(map(category, names))

    def cost(self, name: str, error: float, size: float) -> float:
        """What a matrix costs, in nats for each token: ``error`` and ``size`` are squared norms of what its outputs are
        off, and of what they are."""
        kind = category(name)
        both = name == "token_embd.weight" and self._tied  # the output matrix, too
        weight = PRIOR[kind] / self._counts[kind] + (PRIOR["output"] if both else 0)
        return weight * (error / size if size > 0 else 0.0)


def relative_errors(
    tensor: PlannedTensor, ladder: Sequence[BlockFormat], threads: int | None
) -> dict[BlockFormat, tuple[float, float]]:
    """Of a tensor in each type: the squared norms of what the encoder is off and of the weights, of columns that matter
    as its importance says. A few pieces from all over the tensor stand for the whole."""
    totals = dict.fromkeys(ladder, (0.0, 0.0))
    for rows, importance in _pieces(tensor.source, tensor.importance):
        matter = np.ones(rows.shape[1], np.float32) if importance is None else importance
        for fmt in ladder:
            errors = rows - quantize(rows, fmt, importance=importance, threads=threads).dequantize(threads)
            error, size = (float((np.square(each) @ matter).sum(dtype=np.float64)) for each in (errors, rows))
            totals[fmt] = totals[fmt][0] + error, totals[fmt][1] + size
    return totals


def _pieces(source: Source, importance: Floats | None) -> Iterable[tuple[Floats, Floats | None]]:
    """Rows from all over a tensor, and what their columns matter."""
    all_ = slabs(source, PIECE)
    chosen = sorted({round(at) for at in np.linspace(0, len(all_) - 1, PIECES)})
    for slab in (all_[number] for number in chosen):
        rows = read_slab(source, slab, float(np.finfo(np.float32).max), compiled=True)
        if importance is not None and len(importance) > 1:
            yield from ((rows[i], importance[slab.start + i]) for i in range(len(rows)))
        else:
            yield rows.reshape(-1, rows.shape[-1]), None if importance is None else importance[0]
