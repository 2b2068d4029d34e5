"""What multi-token-prediction heads compute: DeepSeek-V3, section 2.2 (arXiv:2412.19437), as llama.cpp runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gguflike.families.parts import Graph
from gguflike.families.parts.mtp import MTPInput
from gguflike.reference import forward
from gguflike.reference.parts import Array, Context, linear, normalize


def hidden(head: Graph, weights: Mapping[str, Array], ids: Sequence[int], before: Array) -> Array:
    """What the last norm of a head gives (tokens, n_embd) for ``ids``, where ``before`` (tokens, n_embd) is what the
    model's last norm, or the head's, gave for the token before each."""
    (part,) = head.inputs
    assert isinstance(part, MTPInput)
    inputs = forward.embed(head, weights, ids), before
    pairs = [normalize(norm, weights, x) for norm, x in zip(part.norms, inputs, strict=True)]
    x = linear(weights, f"{part.prefix}eh_proj", np.concatenate(pairs, axis=-1))
    return normalize(head.norm, weights, forward.blocks(head, weights, x, Context(length=len(ids))))


def logits(graph: Graph, weights: Mapping[str, Array], ids: Sequence[int]) -> Array:
    """What the first head of a model guesses: row i (of len(ids) - 1) is the logits behind the first i + 2 tokens."""
    head = graph.mtp[0]
    before = forward.hidden(graph, weights, ids)[:-1]
    return forward.head(head, weights, hidden(head, weights, ids[1:], before))
