"""Memory that a model takes where it runs, by the code that takes it: programs are made on arrays without memory, and
what was asked for is counted.

Constants are measured on Linux with CPython 3.11 (`scripts/check_estimate.py`, which also says how far all of it is
from what processes take).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.container.layout import TensorInfo
from gguflike.families.parts import Graph, Head, role_of
from gguflike.frozen import frozen, replace
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.memory import SCRATCH_BYTES, unbacked
from gguflike.kernels.engine.program import Program, laid_out_bytes
from gguflike.runner import graph as programs
from gguflike.runner.buffers import Buffers
from gguflike.runner.state import States, padded
from gguflike.runner.weights import Weights

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.container import GGUFFile, Metadata
    from gguflike.kernels.engine.memory import Take
    from gguflike.runner.ability import Understood

    _Make = Callable[[Graph, Weights, Buffers, States], Program]

PROCESS = 42 << 20
"""Bytes of Python, numpy, this package and compiled ops."""
TOKENIZER = 8 << 20
"""Bytes of the library that encodes texts."""
TOKEN, MERGE = 850, 240
"""Bytes that a tokenizer takes for each token of its vocabulary, and for each of its merges."""
MAKING = 2
"""As many times these bytes are taken while a tokenizer is made."""


@frozen
class Needs:
    """Bytes that a model takes where it runs, when its context is full.

    ``plain``: matrices of floating point, and rows of tables that were looked up, as the file has them. ``packed``:
    quantized matrices as the ops read them, which are in memory once. ``computed``: float32 made of small tensors.
    ``cache``: keys and values, and what recurrent layers keep, of all texts. ``buffers``: what passes write.
    ``tokenizer``: what encodes texts. ``process``: Python, numpy, this package and compiled ops.

    ``loading``: bytes of the file that are in memory beside what is made of them, before ``cache`` and ``buffers`` are.
    ``making``: bytes more than those of ``tokenizer`` while it is made.
    ``read``: bytes of weights that a pass of one token reads, ``read_cache``: those of the cache at the end of a text.
    """

    plain: int
    packed: int
    computed: int
    cache: int
    buffers: int
    tokenizer: int
    process: int
    loading: int
    making: int
    read: int
    read_cache: int

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return self.plain + self.packed + self.computed

    @property
    def total(self) -> int:
        """Bytes of everything that stays."""
        return self.weights + self.cache + self.buffers + self.tokenizer + self.process

    @property
    def peak(self) -> int:
        """Bytes of everything, at the moment when it is most."""
        return max(self.weights + self.process + self.loading, self.total + self.making)


def needs(
    graph: Graph,
    infos: Mapping[str, TensorInfo],
    context: int,
    cache_type: str = "f16",
    *,
    texts: int = 1,
    threads: int | None = None,
    crest: float = 0.0,
    left_out: int = 0,
    tokenizer: int = 0,
    path: str = "",
    weights: Sizes | None = None,
) -> Needs:
    """What a model of these tensors takes that computes ``texts`` at a time, each of up to ``context`` tokens.

    ``crest``: as of `Buffers`; ``left_out``: as of `Weights`, whose errors this raises, naming ``path``; ``tokenizer``:
    its bytes (`tokenizer_bytes`); ``weights``: the `sizes` of these tensors, where they are known already. Nothing is
    read of a file, and no memory is taken that would count.
    """
    threads = thread_count(threads)
    weights = weights or sizes(graph, infos, left_out, path)
    take = _places()
    states, *others = programs.new_states(graph, context, cache_type, texts, take)
    buffers = Buffers(graph, padded(context), threads, crest, texts, take)
    makes: list[_Make] = [programs.body]
    if isinstance(graph.head, Head):
        makes.append(programs.one)
    made = [_made(make, graph, weights, buffers, states) for make in makes]
    if isinstance(graph.head, Head):
        made += [{programs.head(graph, weights, buffers, many): 1} for many in (False, True)]
        if texts > 1 and not weights.exact:
            made.append(_made(partial(programs.body, each=True), graph, weights, buffers, states))
    parts = [program for each in made for program in each]
    kept = {id(array): array.nbytes for each in parts for array in _arrays(each)}
    return Needs(
        plain=weights.plain_bytes + weights.table_bytes(texts * context),
        packed=weights.packed_bytes,
        computed=weights.computed_bytes + sum(kept.values()),
        cache=states.nbytes + sum(other.nbytes for other in others),
        buffers=buffers.written(texts, parts)
        + threads * SCRATCH_BYTES
        + sum(_laid_out_bytes(each, threads) for each in made),
        tokenizer=tokenizer,
        process=PROCESS,
        loading=weights.loading_bytes,
        making=(MAKING - 1) * tokenizer,
        read=weights.matrix_bytes,
        read_cache=states.read_bytes,
    )


def of_file(
    file: GGUFFile,
    model: Understood,
    context: int,
    cache_type: str = "f16",
    *,
    texts: int = 1,
    threads: int | None = None,
    crest: float = 0.0,
    weights: Sizes | None = None,
) -> Needs:
    """`needs` of the model in a file, of which only the header is read."""
    return needs(
        model.graph,
        file.infos,
        context,
        cache_type,
        texts=texts,
        threads=threads,
        crest=crest,
        left_out=model.left_out,
        tokenizer=tokenizer_bytes(file.metadata),
        path=file.path,
        weights=weights,
    )


def _places() -> Take:
    """What gives arrays without memory, and keeps them, so that no two ever have the same address."""
    taken: list[npt.NDArray[Any]] = []

    def take(count: int, dtype: Any = np.uint8, *, huge: bool = False) -> npt.NDArray[Any]:
        taken.append(unbacked(count, dtype, huge=huge))
        return taken[-1]

    return take


def sizes(
    graph: Graph,
    infos: Mapping[str, TensorInfo],
    left_out: int | None = 0,
    path: str = "",
    shared: Weights | None = None,
) -> Sizes:
    """Weights of which nothing is there but their sizes: the same for every context. Arguments and errors as of
    `Weights`."""
    return Sizes(cast("GGUFFile", _Header(path, infos)), graph, left_out, shared, take=_places())


def tokenizer_bytes(metadata: Metadata) -> int:
    """Bytes of what encodes texts as the metadata of a file say."""
    tokens, merges = (
        metadata.count_of(key) if key in metadata else 0 for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    )
    if not merges and "tokenizer.ggml.scores" in metadata:  # of which merges are made: about two for a token
        merges = 2 * tokens
    return TOKENIZER + TOKEN * tokens + MERGE * merges


def beside_weights(graph: Graph, context: int, cache_type: str = "f16", threads: int | None = None) -> int:
    """Bytes that a model takes with a ``context`` of so many tokens beside its weights, of whatever type these are."""
    fmt = FORMATS["F32"]
    infos = {
        name: TensorInfo(name, tensor.shape, fmt, 0, fmt.tensor_bytes(tensor.shape))
        for name, _, tensor in graph.tensors()
        if tensor.used
    }
    tokenizer = TOKENIZER + (TOKEN + MERGE) * graph.embedding.n_vocab
    found = needs(graph, infos, context, cache_type, threads=threads, tokenizer=tokenizer)
    return found.total + found.making - found.plain


def _made(make: _Make, graph: Graph, weights: Sizes, buffers: Buffers, states: States) -> dict[Program, int]:
    """Programs that together are as large as the one that ``make`` makes of a graph, and how often each counts.

    Layers that are alike have the same ops but for the numbers in their words, so one of each kind is made, with all
    that stands around the layers, and those that are counted too often for that are taken off. Where programs keep
    arrays of their own, or ask weights for what no program has asked for, the whole is made.
    """
    kinds = _kinds(graph, weights)
    counts = Counter(kinds)
    if len(counts) == len(graph.blocks):
        return {make(graph, weights, buffers, states): 1}
    around = make(replace(graph, blocks=()), weights, buffers, States(()))
    made, asked = {around: 1 - len(graph.blocks)}, weights.asked
    left = iter(states.of_mixers)
    for layer, block in enumerate(graph.blocks):
        mixers = States(tuple(islice(left, sum(1 for step in block for _ in step.mixers()))))
        if kinds[layer] == layer:
            alone = replace(graph, blocks=(block,), first=graph.first + layer)
            made[make(alone, weights, buffers, mixers)] = counts[layer]
    if weights.asked != asked or any(_arrays(program) for program in made):
        return {make(graph, weights, buffers, states): 1}
    return made


def _kinds(graph: Graph, weights: Sizes) -> list[int]:
    """Of each block, which is the first that is like it, in its parts and in what the file has of their tensors."""
    found: list[int] = []
    for layer, block in enumerate(graph.blocks):
        tensors = weights.kinds[graph.first + layer]
        alike = (
            first
            for first in dict.fromkeys(found)
            if weights.kinds[graph.first + first] == tensors and graph.blocks[first] == block
        )
        found.append(next(alike, layer))
    return found


def _laid_out_bytes(made: Mapping[Program, int], threads: int) -> int:
    """Bytes of a program that consists of these, each so often."""
    ops = sum(times * len(program.ops) for program, times in made.items())
    words = sum(times * sum(len(op.args) for op in program.ops) for program, times in made.items())
    return laid_out_bytes(ops, words, threads)


def _arrays(program: Program) -> list[npt.NDArray[Any]]:
    """What a program keeps beside weights, buffers and states."""
    return [each for each in program.keep if isinstance(each, np.ndarray)]


class Sizes(Weights):
    """Weights of which nothing is there but their sizes."""

    @property
    def asked(self) -> tuple[int, ...]:
        """How much programs have asked for so far beside the file's tensors."""
        return len(self._computed), len(self._stacks), len(self._tables), len(self._alone)

    @cached_property
    def kinds(self) -> Mapping[int, frozenset[tuple[object, ...]]]:
        """What tensors each layer has: their roles, types and shapes, which ops go by."""
        found: defaultdict[int, set[tuple[object, ...]]] = defaultdict(set)
        for name, info in self._file.infos.items():
            _, layer = role_of(name)
            if layer is not None:
                found[layer].add((name.removeprefix(f"blk.{layer}."), info.format.name, info.shape))
        return defaultdict(frozenset, {layer: frozenset(tensors) for layer, tensors in found.items()})

    def _compute(
        self,
        shape: tuple[int, ...],
        make: Callable[[], npt.NDArray[np.float32]],  # noqa: ARG002 - there is nothing to make it of
    ) -> npt.NDArray[np.float32]:
        self._computed.append(values := self._take(prod(shape), np.float32).reshape(shape))
        return values

    def floats(self, name: str) -> npt.NDArray[np.float32] | None:
        """As of `Weights`: so many zeros."""
        info = self._file.infos.get(name)
        return None if info is None else self._take(prod(info.shape), np.float32)


class _Header(NamedTuple):
    """What `Weights` asks a file of which only the header is known."""

    path: str
    infos: Mapping[str, TensorInfo]
