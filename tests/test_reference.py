"""The reference, part by part, against a forward pass written from the definition, and the runner against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import reference
from gguflike.families import config as configs
from gguflike.families import registry
from gguflike.families.parts import Graph
from gguflike.runner.rope import rotation
from tests import naive_model, tiny_gguf
from tests.measures import relative_error

IDS = [5, 17, 256, 99, 3, 250, 42, 42, 7, 128, 0, 299]
SCALED: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"extra": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
    "yarn": {"extra": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}},
}


def graph_of(path: Path) -> Graph:
    with gguflike.open(path) as file:
        assert file.architecture
        family = registry.for_gguf(file.architecture)
        graph: Graph = family.graph(configs.from_gguf(family.config, family.name, file.metadata, file.infos.keys()))
        return graph


@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize("tied", [False, True])
def test_the_reference_is_the_definition(tmp_path: Path, scaling: str, tied: bool) -> None:
    h, weights = tiny_gguf.write(tmp_path / "m.gguf", tied=tied, bias=True, **SCALED[scaling])
    graph = graph_of(tmp_path / "m.gguf")
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    [rope] = graph.ropes()
    turned = rotation(rope, None)
    # The magnitude of YaRN multiplies queries and keys alike, which is to multiply their weights.
    for name in exact:
        if "attn_q" in name or "attn_k" in name:
            exact[name] = exact[name] * turned.magnitude
    want = naive_model.forward(exact, h, IDS, frequencies=turned.frequencies, cached=lambda x: x)
    got = reference.logits(graph, {name: value.astype(np.float64) for name, value in weights.items()}, IDS)
    assert relative_error(got, want) < 1e-10  # the file holds eps in float32


def test_the_runner_computes_the_reference(tmp_path: Path) -> None:
    _, weights = tiny_gguf.write(tmp_path / "m.gguf", n_vocab=300)
    with gguflike.load(tmp_path / "m.gguf") as model:
        want = reference.logits(model.graph, weights, IDS)
        assert relative_error(model.logits(IDS), want) < 5e-4  # the cache holds keys and values in float16


def test_factors_divide_frequencies(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 16, dtype=np.float32)
    _, weights = tiny_gguf.write(tmp_path / "m.gguf", tensors={"rope_freqs.weight": factors})
    graph = graph_of(tmp_path / "m.gguf")
    got = reference.logits(graph, weights, IDS)
    without = reference.logits(graph, {**weights, "rope_freqs.weight": np.ones(16, np.float32)}, IDS)
    assert relative_error(got, without) > 1e-3
    with pytest.raises(ValueError, match="rope_freqs"):
        reference.logits(graph, {name: w for name, w in weights.items() if name != "rope_freqs.weight"}, IDS)
