"""From a model's graph to programs of ops.

One token goes from its id to its logits in one pass (``one``, of ``matvec`` ops). Several take two: the *body*, up to
``BATCH`` tokens from ids to the last layer's output (``matmul``), and the *head*, up to ``HEAD_TOKENS`` of them to
logits.
"""

from __future__ import annotations

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Attention, Branch, Embedding, Graph, Head, Norm
from gguflike.kernels.args import EMBED
from gguflike.kernels.dispatch import embed_op
from gguflike.kernels.engine.program import Program
from gguflike.runner.buffers import Buffers, address
from gguflike.runner.parts import ops
from gguflike.runner.schedule import OneToken, Schedule, Source, Target, Tokens
from gguflike.runner.state import State, States
from gguflike.runner.weights import Weights


def check(graph: Graph) -> None:
    """UnsupportedError where the model asks for what the ops cannot compute."""
    embedding, head = graph.embedding, graph.head
    if embedding != Embedding(embedding.n_vocab, embedding.n_embd):
        raise UnsupportedError("an embedding of this kind has no ops in this version", got=embedding)
    if not isinstance(head, Head) or head != Head(head.n_vocab, head.n_embd, head.tied):
        raise UnsupportedError("a head of this kind has no ops in this version", got=head)
    for step in dict.fromkeys(step for block in graph.blocks for step in block):
        if not isinstance(step, Branch) or step != Branch(step.norm, step.mixer):
            raise UnsupportedError("a block of this kind has no ops in this version", got=step)
        _check_norm(step.norm)
    _check_norm(graph.norm)
    for mixer in dict.fromkeys(graph.mixers()):
        ops(mixer).check(mixer)


def _check_norm(norm: Norm | None) -> None:
    if norm is None or norm != Norm(norm.role, norm.size, norm.eps):
        raise UnsupportedError("a normalization of this kind has no ops in this version", got=norm)


def new_states(graph: Graph, context: int, cache_type: str) -> States:
    """What the model's mixers keep from token to token, for up to ``context`` positions."""
    states: list[State | None] = []
    cached: dict[int, State | None] = {}  # by layer, which others may share
    for layer, block in enumerate(graph.blocks):
        for mixer in (mixer for step in block for mixer in step.mixers()):
            shared = getattr(mixer, "kv_layer", None)
            states.append(ops(mixer).new_state(mixer, context, cache_type) if shared is None else cached[shared])
            if isinstance(mixer, Attention):
                cached[layer] = states[-1]
    return States(states)


def bytes_per_position(graph: Graph, cache_type: str) -> int:
    """Bytes that the states take for one more position."""
    return sum(ops(mixer).bytes_per_position(mixer, cache_type) for mixer in graph.mixers())


def one(graph: Graph, weights: Weights, buffers: Buffers, states: States) -> Program:
    """One token, from its id in ``buffers`` to ``buffers.logits``."""
    schedule = OneToken(buffers)
    _body(schedule, graph, weights, states)
    _head(schedule, graph, weights, address(buffers.x))
    return schedule.program


def body(graph: Graph, weights: Weights, buffers: Buffers, states: States) -> Program:
    """Several tokens, from ids in ``buffers`` to the last layer's output in ``buffers.x``."""
    schedule = Tokens(buffers)
    _body(schedule, graph, weights, states)
    return schedule.program


def head(graph: Graph, weights: Weights, buffers: Buffers, many: bool) -> Program:
    """From ``buffers.head_x`` to ``buffers.logits``, for one token or several."""
    schedule = (Tokens if many else OneToken)(buffers)
    _head(schedule, graph, weights, address(buffers.head_x))
    return schedule.program


def _body(s: Schedule, graph: Graph, weights: Weights, states: States) -> None:
    x = address(s.buffers.x)
    _embed(s, graph, weights, x)
    left = iter(states.of_mixers)
    for layer, block in enumerate(graph.blocks):
        here = weights.layer(layer)
        for branch in block:
            assert isinstance(branch, Branch)  # checked
            source = Source(x, graph.embedding.n_embd, branch.norm, here)
            ops(branch.mixer).emit(branch.mixer, s, here, next(left), source, Target(x, add=True))
    s.program.keep += [weights, states]


def _embed(s: Schedule, graph: Graph, weights: Weights, x: int) -> None:
    table, columns = weights.embedding, graph.embedding.n_embd
    words = EMBED.pack(
        ids=address(s.buffers.ids),
        rows=address(table.data),
        row_bytes=table.format.row_bytes(columns),
        blocks=columns // table.format.block_size,
        out=x,
        columns=columns,
    )
    s.program.add(embed_op(table.format), words, items=1, per_tokens=1)


def _head(s: Schedule, graph: Graph, weights: Weights, x: int) -> None:
    output = weights.matrix("output.weight")
    normed = s.read(Source(x, graph.embedding.n_embd, graph.norm, weights.layer(None)), (output,))
    s.linear(output, normed, address(s.buffers.logits))
    s.program.keep.append(weights)
