"""What parts make up: branches, blocks and a whole model, with the place of each tensor in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from gguflike.families.parts.layers import Attention, Mixer, Norm, Rope, Tensor
from gguflike.frozen import frozen, replace

_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL)


@frozen
class Branch:
    """``x + scale * after(mixer(norm(x)))``; where ``post``, ``after(x + mixer(norm(x)))``. Either norm may be
    missing."""

    norm: Norm | None
    mixer: Mixer
    after: Norm | None = None
    scale: float = 1.0
    post: bool = False

    def mixers(self) -> Iterator[Mixer]:
        """The mixers that keep something or multiply: those of a sum, one by one."""
        yield from getattr(self.mixer, "mixers", None) or (self.mixer,)

    def tensors(self) -> Iterator[Tensor]:
        if self.norm is not None:
            yield from self.norm.tensors()
        yield from self.mixer.tensors()
        if self.after is not None:
            yield from self.after.tensors()


class Step(Protocol):
    """What a block does to the residual stream: a `Branch`, or extras.Rescale."""

    def mixers(self) -> Iterator[Mixer]: ...

    def tensors(self) -> Iterator[Tensor]: ...


Block = tuple[Step, ...]


def experts_used(mixers: Iterable[Mixer]) -> int:
    """To how many experts of a stack a token comes; 1 where there is none."""
    return max((getattr(mixer, "used", 1) for mixer in mixers), default=1)


@frozen
class Embedding:
    """The rows of a matrix (n_vocab, n_embd), looked up by token id, times ``scale``.

    ``role`` is that of the matrix. ``positions``: as many rows of ``position_embd``, of which a token's is added;
    ``types``: rows of ``token_types``, of which the first is added, or the second for tokens of the second of two
    texts. ``norm`` comes last.
    """

    n_vocab: int
    n_embd: int
    scale: float = 1.0
    positions: int = 0
    types: int = 0
    norm: Norm | None = None
    role: str = "token_embd"

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor(f"{self.role}.weight", (self.n_vocab, self.n_embd), form="rows")
        if self.positions:
            yield Tensor("position_embd.weight", (self.positions, self.n_embd), form="rows")
        if self.types:
            yield Tensor("token_types.weight", (self.types, self.n_embd), form="rows")
        if self.norm is not None:
            yield from self.norm.tensors()


@frozen
class Head:
    """Logits: a matrix (n_vocab, n_embd) times what the last norm gives; ``tied``: the embedding's matrix.

    They are multiplied by ``scale``, then capped to ``softcap * tanh(logit / softcap)`` where there is a cap. ``role``
    is that of a matrix that is not tied.
    """

    n_vocab: int
    n_embd: int
    tied: bool = False
    bias: bool = False
    scale: float = 1.0
    softcap: float = 0.0
    role: str = "output"

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor(f"{self.role}.weight", (self.n_vocab, self.n_embd), used=not self.tied)
        yield Tensor(f"{self.role}.bias", (self.n_vocab,), used=self.bias)


class Part(Protocol):
    """Whatever a graph is made of, as far as its tensors go."""

    def tensors(self) -> Iterator[Tensor]: ...


class Place(NamedTuple):
    """A tensor of a graph: its GGUF name, the layer it belongs to (None for the others), and what the part says."""

    name: str
    layer: int | None
    tensor: Tensor


@frozen
class Graph:
    """A whole model. Blocks need not be alike.

    ``head`` is a `Head`, which makes logits; a model that gives vectors or scores has an extras.Pooling there.
    ``inputs`` are parts that compute once per token what all blocks read (extras.LayerEmbeddings).

    ``mtp`` are its multi-token-prediction heads, which guess what comes behind the next token: each a graph of one
    block of its own, whose number is ``first``, behind a mtp.MTPInput. What a head lacks is the model's.
    """

    embedding: Embedding
    blocks: tuple[Block, ...]
    norm: Norm | None
    head: Part
    inputs: tuple[Part, ...] = ()
    mtp: tuple[Graph, ...] = ()
    first: int = 0

    def mixers(self) -> Iterator[Mixer]:
        """The mixers of all branches, in order; those of a sum one by one."""
        return (mixer for block in self.blocks for step in block for mixer in step.mixers())

    def attentions(self) -> Iterator[Attention]:
        return (mixer for mixer in self.mixers() if isinstance(mixer, Attention))

    @property
    def shared_layers(self) -> frozenset[int]:
        """The layers whose keys and values others read (``Attention.kv_layer``)."""
        return frozenset(mixer.kv_layer for mixer in self.attentions() if mixer.kv_layer is not None)

    @property
    def reach(self) -> int:
        """Positions up to which ops compute what all parts say (``Attention.reach``); 0: any number."""
        return min((reach for mixer in self.mixers() if (reach := getattr(mixer, "reach", 0))), default=0)

    def ropes(self) -> list[Rope]:
        """The rotations that the model uses, each once."""
        return list(dict.fromkeys(rope for mixer in self.mixers() for rope in mixer.ropes))

    def tensors(self) -> Iterator[Place]:
        """Every tensor in file order, those that the configuration rules out included (``Tensor.used`` is false), but
        for those of `mtp_tensors`."""
        yield from _places(_once(tensor for rope in self.ropes() for tensor in rope.tensors()))
        yield from _places(self.embedding.tensors())
        for part in self.inputs:
            yield from _places(part.tensors())
        made: dict[int, list[Tensor]] = {}  # of each block once, which many layers may share
        for layer, block in enumerate(self.blocks, self.first):
            if id(block) not in made:
                made[id(block)] = [tensor for step in block for tensor in step.tensors()]
            for tensor in made[id(block)]:
                yield Place(f"blk.{layer}.{tensor.role}", layer, tensor)
        for last in (self.norm, self.head):
            yield from _places(last.tensors() if last is not None else ())

    def mtp_tensors(self) -> Iterator[Place]:
        """Every tensor of the multi-token-prediction heads, but for those of the model that they share."""
        return (place for each in self.mtp for place in each.tensors() if place.layer is not None)


def _once(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    """Each tensor once: several rotations may be divided by the same."""
    return dict.fromkeys(tensors)


def _places(tensors: Iterable[Tensor]) -> Iterator[Place]:
    """Tensors outside of blocks: of no layer, or as their roles say."""
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.role)
        if match:
            yield Place(tensor.role, int(match[1]), replace(tensor, role=match[2]))
        else:
            yield Place(tensor.role, None, tensor)


def role_of(name: str) -> tuple[str, int | None]:
    """Role and layer of a tensor by its GGUF name: ``blk.3.attn_q.weight`` is ("attn_q", 3)."""
    match = _LAYER.fullmatch(name)
    layer, rest = (int(match[1]), match[2]) if match else (None, name)
    return rest.removesuffix(".weight"), layer
