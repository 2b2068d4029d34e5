"""The forward pass of a graph, in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from gguflike.families.parts import Branch, Graph, Head, role_of
from gguflike.reference.formulas import Array, Context, Weights, normalize
from gguflike.reference.parts import mix


@singledispatch
def step(part: Any, weights: Weights, x: Array, context: Context) -> Array:
    """The residual stream ``x`` (tokens, n_embd) after a step of a block."""
    raise NotImplementedError(type(part).__name__)


@step.register
def branch(part: Branch, weights: Weights, x: Array, context: Context) -> Array:
    """``x + scale * after(mixer(norm(x)))``, or ``after(x + mixer(norm(x)))``."""
    mixed = mix(part.mixer, weights, normalize(part.norm, weights, x), context)
    if part.post:
        return normalize(part.after, weights, x + mixed)
    result: Array = x + np.asarray(part.scale, x.dtype) * normalize(part.after, weights, mixed)
    return result


def embed(graph: Graph, weights: Mapping[str, Array], ids: Sequence[int], second: int | None = None) -> Array:
    """The residual stream (tokens, n_embd) before the first block. Ids from the place ``second`` on are those of the
    second of two texts."""
    part = graph.embedding
    x = weights[f"{part.role}.weight"][list(ids)]
    x = x * np.asarray(part.scale, x.dtype)
    if part.positions:
        x = x + weights["position_embd.weight"][: len(ids)]
    if part.types:
        split = len(ids) if second is None else second
        x = x + weights["token_types.weight"][[int(place >= split) for place in range(len(ids))]]
    return normalize(part.norm, weights, x)


def hidden(
    graph: Graph, weights: Mapping[str, Array], ids: Sequence[int], length: int = 0, second: int | None = None
) -> Array:
    """What the last norm gives (tokens, n_embd) for ``ids``, the first at position 0, in a model that runs with a
    context of ``length`` positions (0: as many as there are ids). ``second`` as of `embed`."""
    x = embed(graph, weights, ids, second)
    context = Context(length=length or len(ids))
    for part in graph.inputs:
        context.inputs[type(part)] = mix(part, {**weights, "ids": np.asarray(ids)}, x, context)
    return normalize(graph.norm, weights, blocks(graph, weights, x, context))


def blocks(graph: Graph, weights: Mapping[str, Array], x: Array, context: Context) -> Array:
    """The residual stream ``x`` (tokens, n_embd) after all blocks."""
    for layer, (block, here) in enumerate(zip(graph.blocks, by_layer(graph, weights), strict=True)):
        context.layer = layer
        for each in block:
            x = step(each, here, x, context)
    return x


def logits(graph: Graph, weights: Mapping[str, Array], ids: Sequence[int], length: int = 0) -> Array:
    """Logits (tokens, n_vocab) after each of ``ids``, as of `hidden`. ``weights`` are by GGUF name."""
    return head(graph, weights, hidden(graph, weights, ids, length))


def head(graph: Graph, weights: Mapping[str, Array], x: Array) -> Array:
    """Logits of what the last norm gave."""
    part = graph.head
    assert isinstance(part, Head), "a graph that pools has no logits"
    matrix = weights["token_embd.weight" if part.tied else f"{part.role}.weight"]
    result: Array = x @ matrix.T
    if part.bias:
        result = result + weights[f"{part.role}.bias"]
    result = result * np.asarray(part.scale, result.dtype)
    return np.tanh(result / part.softcap) * part.softcap if part.softcap else result


def by_layer(graph: Graph, weights: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Of each layer of the graph, its tensors by role, and those that all layers share."""
    shared = {name: value for name, value in weights.items() if role_of(name)[1] is None}
    layers = [dict(shared) for _ in graph.blocks]
    for name, value in weights.items():
        layer = role_of(name)[1]
        if layer is not None and graph.first <= layer < graph.first + len(layers):
            layers[layer - graph.first][name.split(".", 2)[2]] = value
    return layers
