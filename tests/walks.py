"""Small graphs and sequences for walks through a model, and a walk that keeps what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gguflike.calibrate.statistics import StackStatistics
from gguflike.calibrate.stream import stream
from gguflike.calibrate.sums import Hessians
from gguflike.families.parts import Branch, Graph
from gguflike.families.parts.experts import Experts, Router
from tests import by_hand

TEXTS = [[5, 17, 56, 99, 3, 50, 42], [42, 7, 28, 0, 99, 64, 31, 8, 9, 11, 12], [77]]

DENSE = by_hand.graph(by_hand.branches(), by_hand.branches())

EXPERTS = by_hand.graph(
    (
        Branch(by_hand.rms("attn_norm"), by_hand.attention()),
        Branch(by_hand.rms("ffn_norm"), Experts(by_hand.WIDTH, 32, 6, 2, Router())),
    )
)


def weights_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for name, _, tensor in graph.tensors():
        if tensor.used:
            x = rng.standard_normal(tensor.shape) / (tensor.shape[-1] ** 0.5 if len(tensor.shape) > 1 else 5)
            x = -abs(x) - 0.1 if name.endswith("ssm_a") else x  # rates of decay
            x = 1 + abs(x) if "rope_f" in name else x  # divisors
            made[name] = (x + name.endswith("norm.weight")).astype(np.float32)
    return made


def rounded(x: np.ndarray) -> np.ndarray:
    """A quantization: to steps of 1/8."""
    return (np.round(x * 8) / 8).astype(np.float32)


def walked(graph: Graph, folder: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The statistics of all matrices, and the weights of the quantized model."""
    weights, found = weights_of(graph), {}

    def quantize(name: str, x: np.ndarray, statistics: Any) -> np.ndarray:
        found[name] = list(statistics) if isinstance(statistics, StackStatistics) else statistics
        return rounded(x)

    settings.setdefault("collecting", Hessians(cap=None))
    stream(graph, weights.__getitem__, settings.pop("texts", TEXTS), quantize, folder, **settings)
    return found, {name: rounded(x) if name in found else x for name, x in weights.items()}


TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want. "
