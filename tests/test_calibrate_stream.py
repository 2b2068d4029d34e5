"""The walk through a model layer by layer, against the reference, which sees it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflike import reference
from gguflike.calibrate.statistics import Statistics
from gguflike.calibrate.stream import stream
from gguflike.calibrate.sums import Hessians
from gguflike.families.parts import Graph
from gguflike.reference.parts import normalize
from tests import by_hand

TEXTS = [[5, 17, 256, 99, 3, 250, 42], [42, 7, 128, 0, 299, 64, 31, 8, 9, 11, 12], [77]]
DENSE = by_hand.graph(by_hand.branches(), by_hand.branches())


def weights_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for name, _, tensor in graph.tensors():
        if tensor.used:
            x = rng.standard_normal(tensor.shape) / (tensor.shape[-1] ** 0.5 if len(tensor.shape) > 1 else 5)
            made[name] = (x + name.endswith("norm.weight")).astype(np.float32)
    return made


def halved(x: np.ndarray) -> np.ndarray:
    """A quantization: to steps of 1/8."""
    return (np.round(x * 8) / 8).astype(np.float32)


def walked(
    graph: Graph, weights: dict[str, np.ndarray], folder: Path, **settings: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The statistics of all matrices, and the weights of the quantized model."""
    found: dict[str, Any] = {}
    quantized = dict(weights)

    def quantize(name: str, x: np.ndarray, statistics: Any) -> np.ndarray:
        found[name] = statistics if not isinstance(statistics, list) else list(statistics)
        if statistics is not None:
            quantized[name] = halved(weights[name])
        return halved(x)

    settings.setdefault("collecting", Hessians(cap=None))
    stream(graph, weights.__getitem__, TEXTS, quantize, folder, **settings)
    for name, statistics in found.items():
        quantized[name] = halved(weights[name]) if statistics is None else quantized[name]
    return found, quantized


@pytest.mark.parametrize("threads", [1, 3])
def test_states_are_those_of_the_whole_models(tmp_path: Path, threads: int) -> None:
    weights = weights_of(DENSE)
    found, quantized = walked(DENSE, weights, tmp_path, threads=threads)
    assert {name for name in weights if "norm" not in name} == set(found)
    for kind, model in (("float", weights), ("quantized", quantized)):
        last = np.fromfile(tmp_path / f"{kind}-0.f32", np.float32).reshape(-1, by_hand.WIDTH)
        whole = np.concatenate([reference.hidden(DENSE, model, ids) for ids in TEXTS])
        np.testing.assert_array_equal(normalize(DENSE.norm, model, last), whole)


def test_grams_are_those_of_the_inputs(tmp_path: Path) -> None:
    weights = weights_of(DENSE)
    found, quantized = walked(DENSE, weights, tmp_path)
    x_f, x_q = (np.concatenate([reference.hidden(DENSE, w, ids) for ids in TEXTS]) for w in (weights, quantized))
    last = found["output.weight"]
    assert isinstance(last, Statistics)
    assert last.tokens == len(x_f)
    np.testing.assert_allclose(last.gram, x_q.T @ x_q / len(x_q), rtol=1e-4, atol=1e-5)
    assert last.cross is not None
    np.testing.assert_allclose(last.cross, x_f.T @ x_q / len(x_q), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(last.gram, last.gram.T)
