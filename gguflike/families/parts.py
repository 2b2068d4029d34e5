"""What models are made of. A part knows its tensors and its settings; no part knows a model family.

A *graph* is an embedding, blocks, a norm and a head. A *block* is a list of branches, a *branch* a norm, a mixer and a
norm around a residual addition. Everything here is a frozen dataclass: a family is a short function from its
configuration to a graph, and the converter, the exporter, the reference and the runner walk what it returns.

Tensors are named as GGUF names them and have the shapes that GGUF stores, in numpy order. How a tensor comes out of a
checkpoint is said elsewhere (origins.py), since that differs between families that share a part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a part.

    ``role`` is its GGUF name, below ``blk.<i>.`` for one of a layer. ``heads``: the rows are those of so many attention
    heads, one after the other (0: they are not). ``used`` is false for a tensor that the configuration rules out.
    """

    role: str
    shape: tuple[int, ...]
    heads: int = 0
    used: bool = True


@dataclass(frozen=True)
class Norm:
    """Root-mean-square normalization: ``x / sqrt(mean(x**2) + eps) * weight`` over the last axis of ``size``."""

    role: str
    size: int
    eps: float

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor(f"{self.role}.weight", (self.size,))


@dataclass(frozen=True)
class Scaling:
    """How a rotation is stretched to longer contexts: "linear" divides positions by ``factor``, "yarn" blends.

    YaRN (Peng et al. 2023, arXiv:2309.00071) keeps frequencies that turn more than ``beta_fast`` times within
    ``context`` tokens, divides those that turn less than ``beta_slow`` times, and blends between them.
    """

    kind: str
    factor: float = 1.0
    context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class Rope:
    """Rotary positions on the first ``n_rot`` dimensions of each head: pair j turns by ``base**(-2j / n_rot)`` radians
    per position.

    ``pairs`` says which dimensions turn together: "norm" 2j and 2j + 1, "neox" j and j + n_rot / 2. ``divided``: the
    frequencies are divided by the tensor ``rope_freqs.weight``, float32 of shape (n_rot / 2,).
    """

    n_rot: int
    base: float
    pairs: Literal["norm", "neox"]
    scaling: Scaling | None = None
    divided: bool = False


@dataclass(frozen=True)
class Attention:
    """Causal attention with ``heads`` query heads on ``kv_heads`` key and value heads of ``head_dim`` dimensions.

    Scores are scaled by ``head_dim**-0.5``. ``bias``: queries, keys, values and the output have one.
    """

    n_embd: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    bias: bool = False

    @property
    def q_size(self) -> int:
        """Values of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Values of all keys, or of all values, of a token."""
        return self.kv_heads * self.head_dim

    @property
    def widest(self) -> int:
        """Values of the longest row that one of the matrices reads."""
        return max(self.n_embd, self.q_size)

    def tensors(self) -> Iterator[Tensor]:
        for role, rows, columns, heads in (
            ("attn_q", self.q_size, self.n_embd, self.heads),
            ("attn_k", self.kv_size, self.n_embd, self.kv_heads),
            ("attn_v", self.kv_size, self.n_embd, self.kv_heads),
            ("attn_output", self.n_embd, self.q_size, 0),
        ):
            yield Tensor(f"{role}.weight", (rows, columns), heads)
            yield Tensor(f"{role}.bias", (rows,), heads, used=self.bias)


@dataclass(frozen=True)
class FeedForward:
    """``down(silu(gate(x)) * up(x))``, with ``n_ff`` hidden values. ``bias``: each of the three matrices has one."""

    n_embd: int
    n_ff: int
    bias: bool = False

    @property
    def widest(self) -> int:
        """Values of the longest row that one of the matrices reads."""
        return max(self.n_embd, self.n_ff)

    def tensors(self) -> Iterator[Tensor]:
        for role, rows, columns in (
            ("ffn_gate", self.n_ff, self.n_embd),
            ("ffn_up", self.n_ff, self.n_embd),
            ("ffn_down", self.n_embd, self.n_ff),
        ):
            yield Tensor(f"{role}.weight", (rows, columns))
            yield Tensor(f"{role}.bias", (rows,), used=self.bias)


Mixer = Attention | FeedForward


@dataclass(frozen=True)
class Branch:
    """``x + mixer(norm(x))``."""

    norm: Norm
    mixer: Mixer

    def tensors(self) -> Iterator[Tensor]:
        yield from self.norm.tensors()
        yield from self.mixer.tensors()


Block = tuple[Branch, ...]


@dataclass(frozen=True)
class Embedding:
    """The rows of a matrix (n_vocab, n_embd), looked up by token id."""

    n_vocab: int
    n_embd: int

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor("token_embd.weight", (self.n_vocab, self.n_embd))


@dataclass(frozen=True)
class Head:
    """Logits: a matrix (n_vocab, n_embd) times what the last norm gives; ``tied``: the embedding's matrix."""

    n_vocab: int
    n_embd: int
    tied: bool = False

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor("output.weight", (self.n_vocab, self.n_embd), used=not self.tied)


class Place(NamedTuple):
    """A tensor of a graph: its GGUF name, the layer it belongs to (None for the others), and what the part says."""

    name: str
    layer: int | None
    tensor: Tensor


@dataclass(frozen=True)
class Graph:
    """A whole model. Blocks need not be alike."""

    embedding: Embedding
    blocks: tuple[Block, ...]
    norm: Norm
    head: Head

    def mixers(self) -> Iterator[Mixer]:
        """The mixers of all branches, in order."""
        return (branch.mixer for block in self.blocks for branch in block)

    def attentions(self) -> Iterator[Attention]:
        return (mixer for mixer in self.mixers() if isinstance(mixer, Attention))

    def ropes(self) -> list[Rope]:
        """The rotations that the model uses, each once."""
        return list(dict.fromkeys(mixer.rope for mixer in self.attentions()))

    def tensors(self) -> Iterator[Place]:
        """Every tensor in file order, those that the configuration rules out included (``Tensor.used`` is false)."""
        for rope in self.ropes():
            if rope.divided:
                yield Place("rope_freqs.weight", None, Tensor("rope_freqs.weight", (rope.n_rot // 2,)))
        for tensor in self.embedding.tensors():
            yield Place(tensor.role, None, tensor)
        for layer, block in enumerate(self.blocks):
            for branch in block:
                for tensor in branch.tensors():
                    yield Place(f"blk.{layer}.{tensor.role}", layer, tensor)
        for part in (self.norm, self.head):
            for tensor in part.tensors():
                yield Place(tensor.role, None, tensor)


def role_of(name: str) -> tuple[str, int | None]:
    """Role and layer of a tensor by its GGUF name: ``blk.3.attn_q.weight`` is ("attn_q", 3)."""
    match = _LAYER.fullmatch(name)
    layer, rest = (int(match[1]), match[2]) if match else (None, name)
    return rest.removesuffix(".weight"), layer
