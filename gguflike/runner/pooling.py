"""What the hidden states of a text come to: one vector, or a score for each label.

This is so little beside the passes through the model that numpy does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguflike.families.parts import Norm
from gguflike.families.parts.extras import Layer, Pooling
from gguflike.runner.weights import Weights

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

KINDS = ("mean", "cls", "last")


class Values(NamedTuple):
    """The weights of a `Layer`; None where it has none of them."""

    weight: Floats
    bias: Floats | None
    norm_weight: Floats | None
    norm_bias: Floats | None


class Pooler:
    """A pooling with the weights of its layers, as float32 whatever the file's types are. They are read once."""

    def __init__(self, part: Pooling, weights: Weights) -> None:
        self.part = part
        self._values = [_read(layer, weights) for layer in part.layers]

    def pooled(self, hidden: Floats, kind: str) -> Floats:
        """The vector (n,) of a text with ``hidden`` states (tokens, n_embd), pooled as ``kind`` says."""
        if kind == "mean":
            x: Floats = hidden.mean(axis=0, dtype=np.float64).astype(np.float32)
        else:
            x = hidden[0 if kind == "cls" else -1]
        for layer, values in zip(self.part.layers, self._values, strict=True):
            x = _layer(layer, values, x)
        return softmax(x) if self.part.probabilities else x


def unit(vector: Floats) -> Floats:
    """The vector with length 1; one of zeros stays as it is."""
    length = math.sqrt(float(np.square(vector, dtype=np.float64).sum()))
    made: Floats = (vector / length).astype(np.float32) if length else vector
    return made


def softmax(scores: Floats) -> Floats:
    """Probabilities that sum to 1."""
    powers = np.exp(scores.astype(np.float64) - scores.max())
    made: Floats = (powers / powers.sum()).astype(np.float32)
    return made


def _read(layer: Layer, weights: Weights) -> Values:
    norm = layer.norm
    weight = weights.floats(f"{layer.role}.weight")
    assert weight is not None  # checked with the other tensors
    return Values(
        weight.reshape(layer.rows, layer.columns),
        weights.floats(f"{layer.role}.bias"),
        weights.floats(f"{norm.role}.weight") if norm is not None else None,
        weights.floats(f"{norm.role}.bias") if norm is not None else None,
    )


def _layer(layer: Layer, values: Values, x: Floats) -> Floats:
    """``norm(act(weight x + bias))``."""
    y = np.einsum("ij,j->i", values.weight, x, dtype=np.float64)
    if values.bias is not None:
        y = y + values.bias
    if layer.activation is not None:
        y = _ACTIVATIONS[layer.activation](y)
    if layer.norm is not None:
        y = _normalized(layer.norm, values, y)
    made: Floats = y.astype(np.float32)
    return made


def _normalized(norm: Norm, values: Values, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = x - x.mean() if norm.kind == "layer" else x
    x = x / math.sqrt(float(np.square(x).mean()) + norm.eps)
    x = x if values.norm_weight is None else x * values.norm_weight
    return x if values.norm_bias is None else x + values.norm_bias


def _gelu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([0.5 * value * (1 + math.erf(value * 0.5**0.5)) for value in x.tolist()])


_ACTIVATIONS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {"tanh": np.tanh, "gelu": _gelu}
