"""A model's gradient, block by block: forward once to keep what each block is given, then back, each block computed
again on a tape of its own. So only one block's activations are held, and one row of hidden states per block.

Between blocks go the residual stream, the keys and values of layers that others read, and what stands beside the
stream (`Context.inputs`); `State` is the three of them, of values or of gradients.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gguflike.families.parts import Graph, role_of
from gguflike.reference.formulas import Context, normalize
from gguflike.reference.forward import by_layer, embed, head, step
from gguflike.reference.gradient.tape import Array, Product, Tape, Traced
from gguflike.reference.parts import mix

#: Logits (tokens, n_vocab) -> the loss, and its gradient by them.
Loss = Callable[[Array], tuple[float, Array]]
Named = Mapping[str, Array]


class State(NamedTuple):
    """What a block is given, or the gradient by it: the residual stream ``x``, keys and values by the layer that made
    them (of those that others read), and the inputs beside the stream.

    ``chosen`` are the keys that the last indexer chose, which have no gradient.
    """

    x: Any
    cached: Mapping[int, tuple[Any, Any]]
    inputs: Mapping[type, Any]
    chosen: Array | None = None


class Found(NamedTuple):
    """The gradient by what a block was given, and by those of its wanted weights that the result depends on."""

    state: State
    weights: dict[str, Array]


class Blocks:
    """The blocks of a graph, each of which can be run and gone back through by itself.

    ``length`` is the context that the model runs with.
    """

    def __init__(self, graph: Graph, length: int) -> None:
        self._graph, self._length = graph, length
        self._read = graph.shared_layers

    def start(self, weights: Named, ids: Sequence[int]) -> State:
        """What the first block is given. ``weights`` are by GGUF name."""
        x = embed(self._graph, weights, ids)
        context, named = Context(length=self._length), _over({"ids": np.asarray(ids)}, weights)
        return State(x, {}, {type(part): mix(part, named, x, context) for part in self._graph.inputs})

    def run(self, layer: int, weights: Named, state: State, parts: Sequence[Any] | None = None) -> State:
        """What is given to the block after ``layer``, or what some ``parts`` of it give. ``weights`` are the layer's by
        role."""
        context = Context(layer, self._length)
        context.cached, context.inputs, context.chosen = dict(state.cached), dict(state.inputs), state.chosen
        x = state.x
        for part in self._graph.blocks[layer] if parts is None else parts:
            x = step(part, weights, x, context)
        cached = {of: pair for of, pair in context.cached.items() if of in self._read}
        return State(x, cached, state.inputs, context.chosen)

    def back(
        self,
        layer: int,
        weights: Named,
        state: State,
        gradient: State,
        wanted: Collection[str] = (),
        watched: Collection[str] = (),
        watch: Callable[[Product], None] | None = None,
        apart: bool = False,
    ) -> Found:
        """The gradient by what a block was given (``state``) and by its ``wanted`` weights (roles), from that by what
        it gives. ``watch`` is told of each product with a matrix of the ``watched`` roles. ``apart``: each part of the
        block (attention, a feed-forward) has a tape of its own, so that the activations of only one are held; all but
        the last are computed once more for that."""
        if not apart:
            return self._back(layer, self._graph.blocks[layer], weights, state, gradient, wanted, watched, watch)
        parts, states, total = list(self._graph.blocks[layer]), [state], dict[str, Array]()
        for part in parts[:-1]:
            states.append(self.run(layer, weights, states[-1], [part]))
        while parts:
            found = self._back(layer, [parts.pop()], weights, states.pop(), gradient, wanted, watched, watch)
            gradient = found.state
            _add(total, found.weights)
        return Found(gradient, total)

    def _back(
        self,
        layer: int,
        parts: Sequence[Any],
        weights: Named,
        state: State,
        gradient: State,
        wanted: Collection[str],
        watched: Collection[str],
        watch: Callable[[Product], None] | None,
    ) -> Found:
        """The same of some parts of a block, on one tape."""
        tape = Tape(watch)
        leaves = {role: tape.leaf(weights[role]) for role in wanted}
        matrices = {role: tape.matrix(role, weights[role]) for role in watched}
        traced = State(
            tape.leaf(state.x),
            {of: (tape.leaf(k), tape.leaf(v)) for of, (k, v) in state.cached.items()},
            {kind: tape.leaf(value) for kind, value in state.inputs.items()},
            state.chosen,
        )
        given = self.run(layer, _over({**leaves, **matrices}, weights), traced, parts)
        found = tape.backward(_pairs(given, gradient))
        by_state = State(
            found.of(traced.x),
            {of: (found.of(k), found.of(v)) for of, (k, v) in traced.cached.items()},
            {kind: found.of(value) for kind, value in traced.inputs.items()},
        )
        return Found(by_state, {role: found.of(leaf) for role, leaf in leaves.items() if found.reached(leaf)})

    def ends(
        self, weights: Named, x: Array, loss: Loss, wanted: Collection[str] = ()
    ) -> tuple[float, Array, dict[str, Array]]:
        """The loss of what the last block gives, its gradient by that, and by those ``wanted`` weights that are behind
        it."""
        tape = Tape()
        leaves = {name: tape.leaf(weights[name]) for name in wanted}
        last: Any = tape.leaf(x)
        named = _over(leaves, weights)
        logits: Any = head(self._graph, named, normalize(self._graph.norm, named, last))
        value, gradient = loss(logits.value)
        found = tape.backward([(logits, gradient)])
        return value, found.of(last), {name: found.of(leaf) for name, leaf in leaves.items() if found.reached(leaf)}

    def starts(self, weights: Named, ids: Sequence[int], gradient: State, wanted: Collection[str]) -> dict[str, Array]:
        """The gradient by those ``wanted`` weights that stand before the first block."""
        tape = Tape()
        leaves = {name: tape.leaf(weights[name]) for name in wanted}
        found = tape.backward(_pairs(self.start(_over(leaves, weights), ids), gradient))
        return {name: found.of(leaf) for name, leaf in leaves.items() if found.reached(leaf)}


def _over(some: dict[str, Any], weights: Named) -> Named:
    """Weights of which ``some`` stand in for others; none is read before it is asked for."""
    return ChainMap(some, weights)  # type: ignore[arg-type]  # nothing is set in it


def _pairs(given: State, gradient: State) -> Iterable[tuple[Traced, Array]]:
    """Results and their gradients; what is no function of the leaves is left out."""
    yield from _traced(given.x, gradient.x)
    for of, (by_keys, by_values) in gradient.cached.items():
        keys, values = given.cached[of]
        yield from _traced(keys, by_keys)
        yield from _traced(values, by_values)
    for kind, by_input in gradient.inputs.items():
        yield from _traced(given.inputs[kind], by_input)


def _traced(result: Any, gradient: Array) -> Iterable[tuple[Traced, Array]]:
    if isinstance(result, Traced):
        yield result, gradient


def gradients(
    graph: Graph, weights: Named, ids: Sequence[int], loss: Loss, wanted: Collection[str], length: int = 0
) -> tuple[float, dict[str, Array]]:
    """The loss of a text, and its gradient by the ``wanted`` weights (GGUF names).

    ``length`` is the context that the model runs with (0: as many positions as there are ids). A weight that is used in
    several places, as an embedding that is the head, too, has the sum; one that is not used has zeros.
    """
    blocks, layers = Blocks(graph, length or len(ids)), by_layer(graph, weights)
    outside = [name for name in wanted if role_of(name)[1] is None]
    states = [blocks.start(weights, ids)]
    for layer, here in enumerate(layers):
        states.append(blocks.run(layer, here, states[-1]))
    value, by_x, total = blocks.ends(weights, states.pop().x, loss, outside)
    gradient = State(by_x, {}, {})
    for layer in reversed(range(len(layers))):
        names = {_role(name): name for name in wanted if role_of(name)[1] in (layer, None)}
        found = blocks.back(layer, layers[layer], states.pop(), gradient, names)
        gradient = found.state
        _add(total, {names[role]: each for role, each in found.weights.items()})
    _add(total, blocks.starts(weights, ids, gradient, outside))
    return value, {name: total[name] if name in total else np.zeros_like(weights[name]) for name in wanted}


def _role(name: str) -> str:
    """What a layer calls a tensor."""
    return name if role_of(name)[1] is None else name.split(".", 2)[2]


def _add(total: dict[str, Array], found: Named) -> None:
    for name, each in found.items():
        total[name] = total[name] + each if name in total else each
