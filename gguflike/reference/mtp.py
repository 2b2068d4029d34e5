"""What multi-token-prediction heads compute: DeepSeek-V3, section 2.2 (arXiv:2412.19437), as llama.cpp runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gguflike.families.parts import Graph
from gguflike.families.parts.mtp import MTPInput
from gguflike.reference import forward
from gguflike.reference.formulas import Array, Context, linear, normalize


def made(head: Graph, weights: Mapping[str, Array], ids: Sequence[int], before: Array) -> Array:
    """What the block of a head gives (tokens, n_embd) for ``ids``, where ``before`` (tokens, n_embd) is what the model,
    or another head, made of the token that each is read with."""
    part = _input(head)
    inputs = forward.embed(head, weights, ids), before
    pairs = [normalize(norm, weights, x) for norm, x in zip(part.norms, inputs, strict=True)]
    x = linear(weights, f"{part.prefix}eh_proj", np.concatenate(pairs, axis=-1))
    return forward.blocks(head, weights, x, Context(length=len(ids)))


def logits(graph: Graph, weights: Mapping[str, Array], ids: Sequence[int], number: int = 0) -> Array:
    """What head number ``number`` of a model guesses: row i (of len(ids) - 1 - number) is the logits behind the first
    i + 2 + number tokens. Each head is given what the one before it made."""
    x = forward.blocks(graph, weights, forward.embed(graph, weights, ids), Context(length=len(ids)))
    normed = normalize(graph.norm, weights, x)
    for ahead, head in enumerate(graph.mtp[: number + 1], 1):
        before = normed if _input(head).normed else x
        x = made(head, weights, ids[ahead:], before[:-1])
        normed = normalize(head.norm, weights, x)
    return forward.head(graph.mtp[number], weights, normed)


def _input(head: Graph) -> MTPInput:
    (part,) = head.inputs
    assert isinstance(part, MTPInput)
    return part
