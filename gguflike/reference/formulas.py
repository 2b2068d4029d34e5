"""What parts are made of: norms, products, activations, rotations, each its formula; shapes as in parts.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gguflike.families.parts import Norm, Rope, Temperature
from gguflike.families.rope import divisor, frequencies
from gguflike.reference.watched import Array as Array
from gguflike.reference.watched import Weights as Weights
from gguflike.reference.watched import product


class Context:
    """What a layer computes with beside its weights and input: the other layers' keys and values, what stands beside
    the residual stream.

    ``length`` is the context that the model runs with, which chooses between rotations for short and long ones.
    ``cached`` are the keys and values of layers that others read, ``chosen`` says which keys the last indexer chose for
    each query (bool (queries, keys)), ``inputs`` are the results of ``Graph.inputs``.
    """

    def __init__(self, layer: int = 0, length: int = 0) -> None:
        self.layer, self.length = layer, length
        self.cached: dict[int, tuple[Array, Array]] = {}
        self.chosen: Array | None = None
        self.inputs: dict[type, Array] = {}


def normalize(norm: Norm | None, weights: Weights, x: Array) -> Array:
    """What the `Norm` says, over the last axis; ``x`` itself without one."""
    if norm is None:
        return x
    centred = x - x.mean(axis=-1, keepdims=True) if norm.kind == "layer" else x
    mean_square = np.mean(np.square(centred), axis=-1, keepdims=True)
    result: Array = centred / np.sqrt(mean_square + np.asarray(norm.eps, x.dtype))
    if norm.weight:
        result = result * weights[norm.weight_role]
    if norm.bias:
        result = result + weights[f"{norm.role}.bias"]
    return result


def linear(weights: Weights, role: str, x: Array) -> Array:
    """``x @ weight.T + bias``, where there is one."""
    result = product(weights, f"{role}.weight", x)
    return result + weights[f"{role}.bias"] if f"{role}.bias" in weights else result


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, without overflow."""
    e = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, e) / (1 + e)
    return result


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = e / e.sum(axis=-1, keepdims=True)
    return result


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``, without overflow."""
    e = np.exp(np.minimum(-x, 80))
    e += 1
    result: Array = x / e
    return result


def softplus(x: Array) -> Array:
    """``log(1 + exp(x))``, without overflow."""
    result: Array = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return result


erf: Any = np.frompyfunc(math.erf, 1, 1)  # whose results are objects

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": silu,
    "gelu": lambda x: (0.5 * x * (1 + erf(x / math.sqrt(2)).astype(np.float64))).astype(x.dtype),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": sigmoid,
    "softplus": softplus,
}


def xielu(x: Array, alpha_n: float, alpha_p: float, beta: float, eps: float) -> Array:
    """Huang and Schlag 2024 (arXiv:2411.13010): a square where x > 0, an expm1 below."""
    below = (np.expm1(np.minimum(x, eps)) - x) * alpha_n + beta * x
    result: Array = np.where(x > 0, alpha_p * x * x + beta * x, below)
    return result.astype(x.dtype)


def rotate(rope: Rope | None, x: Array, positions: Array, weights: Weights, length: int = 0) -> Array:
    """Turn the pairs of the first ``n_rot`` dimensions of ``x`` (tokens, heads, head_dim) by position times frequency.

    Tensors that divide frequencies are among the ``weights``; of two, ``length`` chooses.
    """
    if rope is None:
        return x
    name = divisor(rope, length)
    omega, magnitude = frequencies(rope, None if name is None else weights.get(name))
    angles = positions.astype(np.float64)[:, None] * omega
    cos, sin = ((f(angles) * magnitude).astype(x.dtype)[:, None, :] for f in (np.cos, np.sin))
    half, end = rope.n_rot // 2, rope.n_rot // 2 * 2
    first, second = (slice(0, end, 2), slice(1, end, 2)) if rope.pairs == "norm" else (slice(half), slice(half, end))
    out: Array = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def tempered(temperature: Temperature | None, q: Array, positions: Array) -> Array:
    """Queries times the `Temperature` of their positions."""
    if temperature is None:
        return q
    steps = np.floor((positions + temperature.offset) / temperature.length)
    result: Array = q * (1 + temperature.scale * np.log(steps + 1)).astype(q.dtype)[:, None, None]
    return result
