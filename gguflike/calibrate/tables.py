"""How much the rows of a table with one row for each token matter: of an embedding, of an output matrix, or of the one
matrix that is both."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.calibrate.statistics import Statistics
from gguflike.families.parts import Graph, Head

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
_ROWS = 1 << 16  # whose costs are computed at once

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


class Table(NamedTuple):
    """The Fisher information of a table (n_vocab, k), by rows: an error e of row r costs, in nats for each token of the
    text, ``(lookups[r] * e @ by_lookup @ e + predictions[r] * e @ inputs @ e) / 2``.

    ``lookups`` float32 (n_vocab,): the share of tokens that look a row up, and ``by_lookup`` float32 (k, k): the mean
    of g g^T, with g the loss's gradient by what was looked up. ``predictions`` (n_vocab,): the mean of p (1 - p), with
    p the share that the model gives to a row's token, and ``inputs`` (k, k): the Gram matrix of what an output matrix
    multiplies. Zeros where a table is only one of the two. That logits fall and rise together, which changes nothing,
    is left out, so that it is an upper bound.
    """

    lookups: Floats
    by_lookup: Floats
    predictions: Floats
    inputs: Floats

    @property
    def gram(self) -> Floats:
        """What stands for the Gram matrix of all rows: the sum of both, as often as they count on the whole."""
        both = self.lookups.sum() * self.by_lookup + self.predictions.sum() * self.inputs
        return np.asarray(both, np.float32)

    @property
    def statistics(self) -> Statistics:
        """Those that rows are rounded by."""
        return Statistics(self.gram, None, len(self.lookups))

    def cost(self, errors: Floats, start: int = 0) -> float:
        """What errors of the rows from ``start`` on cost together, in nats for each token."""
        total = 0.0
        for at in range(0, len(errors), _ROWS):
            part = errors[at : at + _ROWS]
            here = slice(start + at, start + at + len(part))
            for weights, factor in ((self.lookups, self.by_lookup), (self.predictions, self.inputs)):
                each = ((part @ factor) * part).sum(axis=1, dtype=np.float64)
                total += 0.5 * float((each * weights[here]).sum(dtype=np.float64))
        return total


def is_told(graph: Graph) -> bool:
    """Whether `TableSums` can tell of a model's tables: nothing but the embedding is looked up by token, and it goes
    into the residual stream as it is."""
    return isinstance(graph.head, Head) and not graph.inputs and graph.embedding.norm is None


class TableSums:
    """The sums that the tables of a model come to, over sequences in a fixed order."""

    def __init__(self, graph: Graph) -> None:
        assert isinstance(graph.head, Head)
        self._graph, self._head, self._tokens = graph, graph.head, 0
        size, k = graph.embedding.n_vocab, graph.embedding.n_embd
        self._counts = np.zeros(size, np.int64)
        self._variances = np.zeros(graph.head.n_vocab, np.float64)
        self._inputs, self._by_lookup = np.zeros((2, k, k), np.float64)

    def predicted(self, inputs: Floats, variances: Array) -> None:
        """Of a sequence: the Gram matrix of what the output matrix multiplied, and the sums of p (1 - p)."""
        self._inputs += inputs
        self._variances += variances

    @property
    def predictions(self) -> dict[str, Array]:
        """What `predicted` was told of, to be set again where a pass goes on."""
        return {"inputs": self._inputs, "variances": self._variances}

    @predictions.setter
    def predictions(self, sums: dict[str, Array]) -> None:
        self._inputs, self._variances = sums["inputs"], sums["variances"]

    def looked_up(self, ids: Array, by_lookup: Floats) -> None:
        """Of a sequence: its ids, and `by_rows` of its gradient."""
        self._tokens += len(ids)
        self._counts += np.bincount(ids, minlength=len(self._counts))
        self._by_lookup += by_lookup

    def results(self) -> dict[str, Table]:
        """The tables, by name."""
        tokens = max(self._tokens, 1)
        counts = self._counts + 1.0  # tokens that did not occur may
        lookups = np.asarray(counts / counts.sum(), np.float32)
        by_lookup = np.asarray(self._by_lookup / tokens * self._graph.embedding.scale**2, np.float32)
        predictions = np.asarray(self._variances / tokens, np.float32)
        inputs = np.asarray(self._inputs / tokens * self._head.scale**2, np.float32)
        if self._head.tied:
            return {EMBEDDING: Table(lookups, by_lookup, predictions, inputs)}
        nothing = np.zeros_like(inputs)
        return {
            EMBEDDING: Table(lookups, by_lookup, np.zeros_like(lookups), nothing),
            OUTPUT: Table(np.zeros_like(predictions), nothing, predictions, inputs),
        }


def variances(gradient: Array) -> Array:
    """The sums over tokens of p (1 - p), from `fisher.sampled`'s gradient: p, or p - 1 for the token that was drawn."""
    size = np.abs(gradient)
    result: Array = (size * (1 - size)).sum(axis=0, dtype=np.float64)
    return result


def by_rows(ids: Array, gradient: Array) -> Floats:
    """The sum over rows of g g^T, g being the gradient by a row, which a sequence may look up several times."""
    _, row = np.unique(ids, return_inverse=True)
    rows = np.zeros((row.max() + 1, gradient.shape[1]), np.float32)
    np.add.at(rows, row, gradient)
    result: Floats = rows.T @ rows
    return result
