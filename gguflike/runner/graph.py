"""From a model's graph to programs of ops.

One token goes from its id to its logits in one pass (``one``, of ``matvec`` ops). Several take two: the *body*, up to
``Buffers.batch`` tokens from ids to the last layer's output (``matmul``), and the *head*, up to ``HEAD_TOKENS`` of them
to logits. Where hidden states are asked for, the *last* norm follows the body instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from gguflike.errors import UnsupportedError
from gguflike.families.parts import Attention, Branch, Graph, Head, Mixer, Norm
from gguflike.kernels.engine.memory import aligned
from gguflike.runner.buffers import Buffers, address
from gguflike.runner.parts import ops
from gguflike.runner.schedule import EachToken, OneToken, Schedule, Source, Target, Tokens
from gguflike.runner.state import State, States

if TYPE_CHECKING:
    from gguflike.kernels.engine.memory import Take
    from gguflike.kernels.engine.program import Program
    from gguflike.runner.weights import LayerWeights, Weights


def check(graph: Graph) -> None:
    """UnsupportedError where the model asks for what the ops cannot compute."""
    for part in dict.fromkeys(chain(graph.inputs, _others(graph), graph.mixers())):
        ops(part).check(part)
    _check_shared(graph)


def limits(graph: Graph) -> dict[int, str]:
    """Of how many positions at most the model can be computed, and why."""
    known = {
        graph.embedding.positions: "the positions that the model has learned",
        graph.reach: "the positions up to which tokens see all before them; beyond, an indexer chooses which ones "
        "(sparse attention), which this version does not compute",
    }
    return {limit: why for limit, why in known.items() if limit}


def _check_shared(graph: Graph) -> None:
    """UnsupportedError where a layer reads keys and values that no layer before it has in the same form: its ops would
    read elsewhere."""
    before: dict[int | None, tuple[int, ...]] = {}
    for layer, block in enumerate(graph.blocks):
        for mixer in (mixer for step in block for mixer in step.mixers() if isinstance(mixer, Attention)):
            form = (mixer.kv_heads, mixer.head_dim, mixer.of_values, mixer.window, mixer.chunked, mixer.causal)
            if mixer.kv_layer is not None and before.get(mixer.kv_layer) != form:
                raise UnsupportedError(
                    f"layer {layer} reads the keys and values of layer {mixer.kv_layer}, which has none in its form",
                    expected="the same (heads, dimensions, those of values, window, chunked, causal), of one before it",
                    got=f"{form} and {before.get(mixer.kv_layer)}",
                )
            before[layer] = form


def _others(graph: Graph) -> Iterator[Any]:
    """What blocks consist of beside branches with one mixer."""
    for step in chain.from_iterable(graph.blocks):
        if not isinstance(step, Branch):
            yield step
        elif is_sum(step.mixer):
            yield step.mixer


def is_sum(mixer: Any) -> bool:
    """Whether a branch has several mixers."""
    return hasattr(mixer, "mixers")


def new_states(graph: Graph, context: int, cache_type: str, slots: int = 1, take: Take = aligned) -> list[States]:
    """What the model's mixers keep from token to token, for up to ``context`` positions, of each of ``slots`` texts, in
    memory that ``take`` gives."""
    states: list[State | None] = []
    cached: dict[int, State | None] = {}  # by layer, which others may share
    passing: dict[tuple[int, int] | None, State | None] = {}
    for layer, block in enumerate(graph.blocks):
        for mixer in (mixer for step in block for mixer in step.mixers()):
            shared = getattr(mixer, "kv_layer", None)
            if shared is not None:
                states.append(cached[shared])
            elif _once(mixer) in passing:
                states.append(passing[_once(mixer)])
            else:
                states.append(ops(mixer).new_state(mixer, context, cache_type))
            if isinstance(mixer, Attention):
                cached[layer] = states[-1]
            if _once(mixer) is not None:
                passing[_once(mixer)] = states[-1]
    in_slots = {state: state.in_slots(slots, take) for state in dict.fromkeys(states) if state is not None}
    return [States([None if state is None else in_slots[state][slot] for state in states]) for slot in range(slots)]


def _once(mixer: Mixer) -> tuple[int, int] | None:
    """The shape of keys and values where tokens see those behind them, too. A pass computes whole texts then, so that
    nothing is kept after it, and all layers alike can use one memory. None for what keeps something."""
    return (mixer.kv_heads, mixer.head_dim) if isinstance(mixer, Attention) and not mixer.causal else None


def bytes_per_position(graph: Graph, cache_type: str) -> int:
    """Bytes that the states take for one more position."""
    kept = [mixer for mixer in graph.mixers() if _once(mixer) is None]
    passing = {_once(mixer): mixer for mixer in graph.mixers() if _once(mixer) is not None}
    return sum(ops(mixer).bytes_per_position(mixer, cache_type) for mixer in (*kept, *passing.values()))


def one(graph: Graph, weights: Weights, buffers: Buffers, states: States) -> Program:
    """One token, from its id in ``buffers`` to ``buffers.logits``."""
    schedule = OneToken(buffers)
    _body(schedule, graph, weights, states)
    _head(schedule, graph, weights, address(buffers.x))
    return schedule.program


def body(graph: Graph, weights: Weights, buffers: Buffers, states: States, *, each: bool = False) -> Program:
    """Several tokens, from ids in ``buffers`` to the last layer's output in ``buffers.x``. ``each``: with the sums of
    one token."""
    schedule = (EachToken if each else Tokens)(buffers)
    _body(schedule, graph, weights, states)
    return schedule.program


def head(graph: Graph, weights: Weights, buffers: Buffers, many: bool, *, each: bool = False) -> Program:
    """From ``buffers.head_x`` to ``buffers.logits``, for one token or several. ``each``: with the sums of one token."""
    schedule = (EachToken if each else Tokens if many else OneToken)(buffers, of_head=True)
    _head(schedule, graph, weights, address(buffers.head_x))
    return schedule.program


def embedding(graph: Graph, weights: Weights, buffers: Buffers) -> Program:
    """From ids in ``buffers`` to ``buffers.x``."""
    schedule = Tokens(buffers)
    _embed(schedule, graph, weights, address(buffers.x))
    schedule.program.keep.append(weights)
    return schedule.program


def last(graph: Graph, weights: Weights, buffers: Buffers) -> Program:
    """The last norm of what the body left in ``buffers.x``, in its place."""
    schedule = Tokens(buffers)
    x = address(buffers.x)
    if graph.norm is not None:
        schedule.combine(_whole(graph, weights, x, graph.norm), x)
    schedule.program.keep.append(weights)
    return schedule.program


def _body(s: Schedule, graph: Graph, weights: Weights, states: States) -> None:
    x = address(s.buffers.x)
    _embed(s, graph, weights, x)
    left = iter(states.of_mixers)
    for part in graph.inputs:
        ops(part).emit(part, s, weights.layer(None), None, _whole(graph, weights, x), Target(x, add=True))
    for layer, block in enumerate(graph.blocks, graph.first):
        here = weights.layer(layer)
        for step in block:
            source = Source(x, graph.embedding.n_embd, None, here)
            if isinstance(step, Branch):
                source.norm = step.norm
                _branch(step, s, here, [next(left) for _ in step.mixers()], source, x)
            else:
                ops(step).emit(step, s, here, None, source, Target(x, add=False))
    s.program.keep += [weights, states]


def _branch(step: Branch, s: Schedule, weights: LayerWeights, states: list[Any], source: Source, x: int) -> None:
    """What a branch does to the residual stream at ``x``."""
    mixer = step.mixer
    state = states if is_sum(mixer) else states[0]
    straight = step.post or (step.after is None and step.scale == 1)
    target = Target(x, add=True) if straight else Target(s.temp("branch", source.size), add=False)
    ops(mixer).emit(mixer, s, weights, state, source, target)
    if step.post:
        s.combine(Source(x, source.size, step.after, weights), x)
    elif not straight:
        s.combine(Source(target.address, source.size, step.after, weights), x, added=x, scale=step.scale)


def _whole(graph: Graph, weights: Weights, x: int, norm: Norm | None = None) -> Source:
    """The residual stream outside of layers."""
    return Source(x, graph.embedding.n_embd, norm, weights.layer(None))


def _embed(s: Schedule, graph: Graph, weights: Weights, x: int) -> None:
    part = graph.embedding
    s.lookup(weights.table(f"{part.role}.weight"), address(s.buffers.ids), x)
    if part.scale != 1:
        s.combine(_whole(graph, weights, x), x, scale=part.scale)
    if part.positions:
        rows = s.temp("positions", part.n_embd)
        s.lookup(weights.whole("position_embd.weight"), address(s.buffers.position_ids), rows)
        s.combine(_whole(graph, weights, rows), x, added=x)
    if part.types:
        rows = s.temp("types", part.n_embd)
        s.lookup(weights.whole("token_types.weight"), address(s.buffers.type_ids), rows)
        s.combine(_whole(graph, weights, rows), x, added=x)
    if part.norm is not None:
        s.combine(_whole(graph, weights, x, part.norm), x)


def _head(s: Schedule, graph: Graph, weights: Weights, x: int) -> None:
    head, logits = graph.head, address(s.buffers.logits)
    assert isinstance(head, Head)  # checked
    output = weights.matrix(f"{head.role}.weight")
    normed = s.read(_whole(graph, weights, x, graph.norm), (output,))
    s.linear(output, normed, logits)
    if head.scale != 1 or head.softcap:
        s.cap(head, logits)
    s.program.keep.append(weights)
