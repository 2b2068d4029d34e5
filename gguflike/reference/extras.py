"""What the parts of families/parts/extras.py compute."""

from __future__ import annotations

from functools import reduce

import numpy as np

from gguflike.families.parts.extras import Constant, Layer, LayerEmbeddings, LayerInput, Pooling, Rescale, Sum
from gguflike.reference.formulas import ACTIVATIONS, Array, Context, Weights, linear, normalize, softmax
from gguflike.reference.forward import step
from gguflike.reference.parts import mix


@mix.register
def _sum(part: Sum, weights: Weights, x: Array, context: Context) -> Array:
    """The sum over paths of ``after(mixer(norm(x)))``."""
    results = [
        normalize(path.after, weights, mix(path.mixer, weights, normalize(path.norm, weights, x), context))
        for path in part.paths
    ]
    return reduce(np.add, results)


@mix.register
def _constant(part: Constant, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """The same for each token."""
    return np.broadcast_to(np.asarray(part.values, x.dtype), x.shape)


@step.register
def _rescale(part: Rescale, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """``x`` times the layer's number."""
    result: Array = x * weights["layer_output_scale.weight"]
    return result


@mix.register
def _layer_embeddings(part: LayerEmbeddings, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """The vectors (tokens, layers, size) of each token, whose number is in ``weights["ids"]``."""
    shape = (len(x), part.layers, part.size)
    rows = weights["per_layer_token_embd.weight"][weights["ids"]].reshape(shape) * np.asarray(part.scale, x.dtype)
    projected = linear(weights, "per_layer_model_proj", x) * np.asarray(part.n_embd**-0.5, x.dtype)
    result: Array = (rows + normalize(part.norm, weights, projected.reshape(shape))) * np.asarray(0.5**0.5, x.dtype)
    return result


@mix.register
def _layer_input(part: LayerInput, weights: Weights, x: Array, context: Context) -> Array:
    """``proj(act(inp_gate(x)) * v)``."""
    vectors = context.inputs[LayerEmbeddings][:, part.layer]
    return linear(weights, "proj", ACTIVATIONS[part.activation](linear(weights, "inp_gate", x)) * vectors)


def pooled(part: Pooling, weights: Weights, x: Array) -> Array:
    """What a text comes to, given what the last norm made of its tokens: (n,), or (tokens, n) where nothing is pooled.

    It is not normalized to length 1.
    """
    if part.kind == "mean":
        x = x.mean(axis=0)
    elif part.kind in ("cls", "last"):
        x = x[0 if part.kind == "cls" else -1]
    for layer in part.layers:
        x = _layer(layer, weights, x)
    return softmax(x) if part.probabilities else x


def _layer(layer: Layer, weights: Weights, x: Array) -> Array:
    """``norm(act(weight x + bias))``."""
    x = linear(weights, layer.role, x)
    if layer.activation is not None:
        x = np.tanh(x) if layer.activation == "tanh" else ACTIVATIONS[layer.activation](x)
    return normalize(layer.norm, weights, x)
