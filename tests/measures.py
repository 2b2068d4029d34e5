"""How far values lie from what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gguflike
from gguflike.families import registry
from gguflike.reference import logits


def rmse(x: npt.ArrayLike, y: npt.ArrayLike, importance: Any = None) -> float:
    """Root of the mean squared difference; ``importance`` weighs the columns."""
    squares = (np.asarray(x, np.float64) - np.asarray(y, np.float64)) ** 2
    return float(np.sqrt(np.average(squares.reshape(-1, squares.shape[-1]).mean(axis=0), weights=importance)))


def relative_error(got: npt.ArrayLike, want: npt.ArrayLike) -> float:
    """Euclidean norm of the difference over that of ``want``."""
    difference = np.asarray(got, np.float64) - np.asarray(want, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(want, np.float64)))


def largest_error(got: npt.ArrayLike, want: npt.ArrayLike) -> float:
    """Largest difference over the largest magnitude in ``want``."""
    difference = np.asarray(got, np.float64) - np.asarray(want, np.float64)
    return float(np.abs(difference).max() / np.abs(np.asarray(want, np.float64)).max())


def divergence(path: Path, truth: Path, ids: list[int]) -> float:
    """Mean KL divergence of the tokens behind ``ids`` by the reference, in nats."""

    def log_shares(path: Path) -> np.ndarray:
        with gguflike.open(path) as file:
            family = registry.for_gguf(file.architecture or "")
            graph = family.graph(family.from_file(file.metadata, file.infos))
            x = logits(graph, {name: t.dequantize().astype(np.float64) for name, t in file.tensors.items()}, ids)
        x = x - x.max(axis=-1, keepdims=True)
        return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))

    p, q = log_shares(truth), log_shares(path)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())
