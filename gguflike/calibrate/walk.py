"""One step of a model: which of its matrices share an input, and what they multiply when it reads a sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from gguflike.families.parts import Branch, Graph, Head
from gguflike.frozen import frozen, replace
from gguflike.reference.formulas import Array, Context, Weights, linear, normalize
from gguflike.reference.forward import step
from gguflike.reference.parts import mix
from gguflike.reference.watched import Saw, Watched, tell
from gguflike.tensor import QuantizedTensor

Seen = list[tuple[Array, "Array | None"]]


class Standing(Mapping[str, Array]):
    """Weights of which ``some`` stand in for ``others``: arrays, and matrices in blocks, with which inputs are
    multiplied as a reader of the file does it, by int8."""

    def __init__(self, some: Mapping[str, Array | QuantizedTensor], others: Mapping[str, Array]) -> None:
        self._some, self._others = some, others

    def __getitem__(self, name: str) -> Array:
        found = self._some.get(name)
        if found is None:
            return self._others[name]
        return found.dequantize(1) if isinstance(found, QuantizedTensor) else found

    def __contains__(self, name: object) -> bool:
        return name in self._some or name in self._others

    def __iter__(self) -> Iterator[str]:
        return iter(self._some.keys() | self._others.keys())

    def __len__(self) -> int:
        return len(self._some.keys() | self._others.keys())

    def watched(self, saw: Saw | None = None) -> Watched:
        """These weights, which tell ``saw`` what matrices multiply."""
        return Watched(self, saw, self._multiply)

    def _multiply(self, name: str, x: Array) -> Array | None:
        found = self._some.get(name)
        return found.linear(x, 1) if isinstance(found, QuantizedTensor) else None


@frozen
class Stage:
    """A step of the model. ``run(weights, x, context)`` gives the residual stream after it; of the ``last``, which is
    the product with the output matrix, nobody needs that. ``layer`` is -1 for what comes before all layers, ``branch``
    what the step is, where it is one."""

    layer: int
    run: Callable[[Weights, Array, Context], Array]
    last: bool = False
    branch: Branch | None = None


def stages(graph: Graph) -> list[list[Stage]]:
    """The steps of a graph: those of its inputs, then those of each layer, then the output matrix, if it has one."""
    layers = [[Stage(-1, _input(part)) for part in graph.inputs]]
    layers += [[_stage(layer, each) for each in block] for layer, block in enumerate(graph.blocks)]
    return [*layers, [Stage(len(graph.blocks), _output(graph), last=True)]] if isinstance(graph.head, Head) else layers


def _input(part: Any) -> Callable[[Weights, Array, Context], Array]:
    def run(weights: Weights, x: Array, context: Context) -> Array:
        context.inputs[type(part)] = mix(part, weights, x, context)
        return x

    return run


def _stage(layer: int, part: Any) -> Stage:
    return Stage(layer, partial(step, part), branch=part if isinstance(part, Branch) else None)


def _output(graph: Graph) -> Callable[[Weights, Array, Context], Array]:
    def run(weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
        assert isinstance(graph.head, Head)
        x = normalize(graph.norm, weights, x)
        tell(weights, "token_embd.weight" if graph.head.tied else "output.weight", x)
        return x

    return run


@frozen
class Group:
    """Matrices that multiply the same input, ``names`` in the weights of their layer, in order.

    The first of them does so ``times`` times in one evaluation (a token's experts come one after the other), which has
    ``columns`` values. ``stacked``: each is a stack of matrices, of which a row of the input goes to one. ``closes``:
    the product with the one matrix of the group is what the mixer of the branch gives, as of `closed`.
    """

    names: tuple[str, ...]
    times: int
    columns: int
    stacked: bool
    closes: bool = False


def groups(stage: Stage, weights: Standing, x: Array, context: Context) -> list[Group]:
    """The groups of a stage, in the order in which they multiply, told by running it on one sequence."""
    names: dict[tuple[int, int], list[str]] = {}
    known: dict[str, tuple[int, int]] = {}
    seen: dict[tuple[int, int], tuple[Array, Array | None]] = {}
    times: Counter[str] = Counter()
    kept: Seen = []  # so that no object takes the place of another

    def saw(name: str, x: Array, which: Array | None) -> None:
        times[name] += 1
        kept.append((x, which))
        if name not in known:
            known[name] = (id(x), id(which))
            names.setdefault(known[name], []).append(name)
            seen.setdefault(known[name], (x, which))

    with np.errstate(all="ignore"):  # what is not finite is an error with a name where it is summed up
        after = stage.run(weights.watched(saw), x, context)
    found = [
        Group(tuple(each), times[each[0]], seen[key][0].shape[-1], seen[key][1] is not None)
        for key, each in names.items()
    ]
    if found and stage.branch is not None:
        group, (inner, _) = found[-1], seen[known[found[-1].names[0]]]
        if len(group.names) == group.times == 1 and not group.stacked:
            with np.errstate(all="ignore"):
                again = closed(stage.branch, group.names[0], np.array(inner), weights, x, context)
            found[-1] = replace(group, closes=np.array_equal(again, after))
    return found


def shared(graph: Graph) -> Iterator[tuple[tuple[str, ...], int]]:
    """The names of tensors of a graph that multiply the same, and how many columns they have, group by group as a walk
    comes by them: told by each kind of block on one token, with weights of zeros, which take no memory."""
    names: dict[int | None, dict[str, str]] = {None: {}}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer, tensor in graph.tensors():
        if tensor.used:
            names.setdefault(layer, {})[tensor.role] = name
            shapes[name] = tensor.shape
    kinds: dict[Any, list[Group]] = {}
    context, read = Context(0, 1), graph.shared_layers
    for steps in stages(graph):
        layer = steps[0].layer if steps else -1
        here = {**names[None], **names.get(layer, {})}
        kind = repr(graph.blocks[layer]) if 0 <= layer < len(graph.blocks) else layer
        if kind not in kinds or layer in read:
            context.layer = max(layer, 0)
            weights = Standing({"ids": np.zeros(1, np.int64)}, Lazy(here, lambda name: _zeros(shapes[name])))
            x = np.zeros((1, graph.embedding.n_embd), np.float32)
            kinds[kind] = [group for stage in steps for group in groups(stage, weights, x, context)]
        for group in kinds[kind]:
            yield tuple(here[role] for role in group.names), group.columns


def _zeros(shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.float32(0), shape)


@frozen
class _Product:
    """A mixer that is the product of a matrix with ``inputs``, whatever its input is."""

    name: str
    inputs: Array


@mix.register
def _product(part: _Product, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    return linear(weights, part.name.removesuffix(".weight"), part.inputs)


def closed(branch: Branch, name: str, inputs: Array, weights: Standing, x: Array, context: Context) -> Array:
    """The residual stream after a branch whose mixer ends with the product of the matrix ``name`` and ``inputs``: all
    that is left to do when those are known."""
    mixer: Any = _Product(name, inputs)
    return step(replace(branch, norm=None, mixer=mixer), weights.watched(), x, context)


class _Enough(Exception):
    """Which is no error: all that was asked for has been seen."""


def inputs(
    stage: Stage, wanted: Mapping[str, int], weights: Standing, x: Array, context: Context, to_end: bool
) -> tuple[dict[str, Seen], Array | None]:
    """What matrices multiply: of those that are ``wanted``, as often as is said there, by name. And the residual stream
    after the stage, or None where it was not run ``to_end``."""
    found: dict[str, Seen] = {name: [] for name in wanted}

    def saw(name: str, x: Array, which: Array | None) -> None:
        if name in found:
            found[name].append((x, which))
            if not to_end and all(len(found[each]) == count for each, count in wanted.items()):
                raise _Enough

    try:
        return found, stage.run(weights.watched(saw), x, context)
    except _Enough:
        return found, None


class Lazy(Mapping[str, Array]):
    """The tensors of a layer by role, read when they are first asked for, and let go of by ``clear``."""

    def __init__(self, names: Mapping[str, str], read: Callable[[str], Array]) -> None:
        self.names, self._read = names, read
        self._there: dict[str, Array] = {}
        self._lock = Lock()

    def __getitem__(self, role: str) -> Array:
        with self._lock:
            if role not in self._there:
                self._there[role] = self._read(self.names[role])
            return self._there[role]

    def __contains__(self, role: object) -> bool:
        return role in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def clear(self) -> None:
        self._there.clear()
