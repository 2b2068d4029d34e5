"""Memory that a model takes where it runs, beside its weights, from its graph alone."""

from __future__ import annotations

import os

from gguflike.families.parts import Graph
from gguflike.kernels.engine.memory import SCRATCH_BYTES
from gguflike.runner.buffers import BATCH, HEAD_TOKENS
from gguflike.runner.graph import new_states

PROCESS = 128 << 20
"""Bytes of Python, numpy, a tokenizer and compiled ops."""
ROWS = 8
"""Rows as wide as the widest that a token has while a layer is computed, with what is quantized of them."""


def beside_weights(graph: Graph, context: int, cache_type: str = "f16", threads: int | None = None) -> int:
    """Bytes that a model takes with a ``context`` of so many tokens beside its weights, which are in memory once: what
    its mixers keep from token to token, what a pass writes, and the process itself."""
    threads = threads or os.cpu_count() or 1
    width, vocabulary = graph.embedding.n_embd, graph.embedding.n_vocab
    widest = max([width, *(mixer.widest for mixer in graph.mixers())])
    batch = BATCH if all(attention.causal for attention in graph.attentions()) else context
    rotations = sum(4 * context * 2 * rope.n_rot for rope in graph.ropes())
    passes = 4 * batch * (width + ROWS * widest) + 4 * HEAD_TOKENS * (width + vocabulary)
    own = threads * (6 * widest + SCRATCH_BYTES)
    kept = sum(states.nbytes for states in new_states(graph, context, cache_type))
    return kept + rotations + passes + own + PROCESS
