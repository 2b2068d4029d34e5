"""The forward pass of a graph, in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gguflike.families.parts import Branch, Graph, role_of
from gguflike.reference.parts import Array, Weights, mix, normalize


def branch(part: Branch, weights: Weights, x: Array) -> Array:
    """``x + mixer(norm(x))`` for ``x`` (tokens, n_embd)."""
    result: Array = x + mix(part.mixer, weights, normalize(part.norm, weights, x))
    return result


def logits(graph: Graph, weights: Mapping[str, Array], ids: Sequence[int]) -> Array:
    """Logits (tokens, n_vocab) after each of ``ids``, the first at position 0. ``weights`` are by GGUF name."""
    x = weights["token_embd.weight"][list(ids)]
    layers = _by_layer(graph, weights)
    for block, here in zip(graph.blocks, layers, strict=True):
        for part in block:
            x = branch(part, here, x)
    head = weights["token_embd.weight" if graph.head.tied else "output.weight"]
    result: Array = normalize(graph.norm, weights, x) @ head.T
    return result


def _by_layer(graph: Graph, weights: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Of each layer, its tensors by role, and those that all layers share."""
    shared = {name: value for name, value in weights.items() if role_of(name)[1] is None}
    layers = [dict(shared) for _ in graph.blocks]
    for name, value in weights.items():
        layer = role_of(name)[1]
        if layer is not None:
            layers[layer][name.split(".", 2)[2]] = value
    return layers
