"""How much rows of embeddings and output matrices matter, against gradients and shares computed whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguflike import frozen, reference
from gguflike.calibrate.distill import log_softmax
from gguflike.calibrate.fisher import sampled
from gguflike.calibrate.sensitivities import measure
from gguflike.calibrate.tables import EMBEDDING, OUTPUT, Table
from gguflike.families.parts import Graph, Head
from gguflike.reference.gradient.graph import gradients
from tests.walks import DENSE, TEXTS, weights_of


def graph(tied: bool) -> Graph:
    embedding = frozen.replace(DENSE.embedding, scale=3.0)
    assert isinstance(DENSE.head, Head)
    return frozen.replace(DENSE, embedding=embedding, head=frozen.replace(DENSE.head, tied=tied, scale=0.5))


@pytest.mark.parametrize("tied", [False, True])
def test_tables_are_sums_over_tokens(tied: bool, tmp_path: Path) -> None:
    model = graph(tied)
    weights = weights_of(model)
    found = measure(model, weights.__getitem__, TEXTS, tmp_path, threads=2)
    again = measure(model, weights.__getitem__, TEXTS, tmp_path)  # from the folder
    # By the gradient of an embedding of its own: that of one matrix would have what it does as the output matrix, too.
    apart = {**weights, "output.weight": weights["token_embd.weight" if tied else "output.weight"]}
    size, width, tokens = model.embedding.n_vocab, model.embedding.n_embd, sum(map(len, TEXTS))
    by_lookup, inputs = np.zeros((2, width, width))
    shares, counts = np.zeros(size), np.ones(size)
    for i, ids in enumerate(TEXTS):
        labels = np.random.default_rng([0, i])
        logits = reference.logits(model, weights, ids)
        _, by_logits = sampled(logits, labels)
        loss = lambda _, by=by_logits: (0.0, by)  # noqa: E731
        _, by_weights = gradients(graph(False), apart, ids, loss, [EMBEDDING])
        by_lookup += by_weights[EMBEDDING].T @ by_weights[EMBEDDING]
        p = np.exp(log_softmax(logits))
        shares += (p * (1 - p)).sum(axis=0)
        counts += np.bincount(ids, minlength=size)
        x = reference.hidden(model, weights, ids)
        inputs += 0.25 * x.T @ x
    embedding, output = found.table(EMBEDDING), found.table(EMBEDDING if tied else OUTPUT)
    assert embedding is not None
    assert output is not None
    assert np.allclose(embedding.lookups, counts / counts.sum(), rtol=1e-6)
    assert np.allclose(embedding.by_lookup, by_lookup / tokens, rtol=1e-3, atol=1e-6)
    assert np.allclose(output.predictions, shares / tokens, rtol=1e-4)
    assert np.allclose(output.inputs, inputs / tokens, rtol=1e-4, atol=1e-6)
    assert tied == (found.table(OUTPUT) is None)
    assert tied == bool(embedding.predictions.any())
    kept = again.table(EMBEDDING)
    assert kept is not None
    assert all(np.array_equal(*each) for each in zip(kept, embedding, strict=True))


def test_costs_are_of_each_row() -> None:
    rng = np.random.default_rng(0)
    factors = [each @ each.T for each in rng.normal(size=(2, 4, 4)).astype(np.float32)]
    table = Table(np.array([0.5, 0.25, 0.25], "f4"), factors[0], np.array([0.1, 0.2, 0.0], "f4"), factors[1])
    errors = rng.normal(size=(3, 4)).astype(np.float32)
    want = [e @ (a * factors[0] + b * factors[1]) @ e / 2
            for e, a, b in zip(errors, table.lookups, table.predictions, strict=True)]  # fmt: skip
    assert table.cost(errors) == pytest.approx(sum(want), rel=1e-5)
    assert table.cost(errors[1:], 1) == pytest.approx(sum(want[1:]), rel=1e-5)
    assert np.allclose(table.gram, factors[0] + 0.3 * factors[1], rtol=1e-5)
