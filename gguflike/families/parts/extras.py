"""Parts that few models have: sums of mixers, what multiplies a whole block, embeddings per layer, pooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gguflike.families.parts import Activation, Mixer, Norm, Rope, Tensor
from gguflike.frozen import frozen


@frozen
class Path:
    """``after(mixer(norm(x)))``: one of several that are added. Either norm may be missing."""

    norm: Norm | None
    mixer: Mixer
    after: Norm | None = None


@frozen
class Sum:
    """Mixers on the same input, whose results are added: attention beside a feed-forward (Cohere, Phi-2), beside a
    state-space model (Falcon-H1), a dense feed-forward beside experts (Gemma 4)."""

    paths: tuple[Path, ...]

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        return tuple(path.mixer for path in self.paths)

    @property
    def widest(self) -> int:
        return max(mixer.widest for mixer in self.mixers)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return tuple(rope for mixer in self.mixers for rope in mixer.ropes)

    def tensors(self) -> Iterator[Tensor]:
        for path in self.paths:
            for part in (path.norm, path.mixer, path.after):
                if part is not None:
                    yield from part.tensors()


@frozen
class Constant:
    """A vector that is the same for all tokens, whatever the input: the bias of what experts give together, which is
    none of their matrices' (nomic-bert). It is no tensor of the file."""

    values: tuple[float, ...]

    @property
    def widest(self) -> int:
        return len(self.values)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return ()

    def tensors(self) -> Iterator[Tensor]:
        return iter(())


@frozen
class LayerEmbeddings:
    """A vector of ``size`` values for each token and each of ``layers`` layers (Gemma 3n and 4).

    Row i of ``per_layer_token_embd`` times ``scale`` plus ``norm(per_layer_model_proj(x) * n_embd**-0.5)``, times
    ``2**-0.5``, where x is the token's embedding.
    """

    n_vocab: int
    n_embd: int
    layers: int
    size: int
    scale: float
    norm: Norm

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor("per_layer_token_embd.weight", (self.n_vocab, self.layers * self.size), form="rows")
        yield Tensor("per_layer_model_proj.weight", (self.layers * self.size, self.n_embd))
        yield from self.norm.tensors()


@frozen
class LayerInput:
    """``proj(act(inp_gate(x)) * v)``, where v is that of layer number ``layer`` of the vectors of `LayerEmbeddings`,
    of which there are ``layers``."""

    n_embd: int
    size: int
    layer: int
    layers: int
    activation: Activation = "gelu_tanh"

    @property
    def widest(self) -> int:
        return max(self.n_embd, self.size)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return ()

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor("inp_gate.weight", (self.size, self.n_embd))
        yield Tensor("proj.weight", (self.n_embd, self.size))


@frozen
class Rescale:
    """Multiplies the residual stream by the one value of ``layer_output_scale``: a step of its own in a block."""

    def mixers(self) -> Iterator[Mixer]:
        return iter(())

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor("layer_output_scale.weight", (1,))


@frozen
class Layer:
    """``act(weight x + bias)``, with the norm before or behind it, of a pooled vector."""

    role: str
    rows: int
    columns: int
    bias: bool = False
    activation: Literal["tanh", "gelu"] | None = None
    norm: Norm | None = None

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor(f"{self.role}.weight", (self.rows, self.columns), form="rows")
        yield Tensor(f"{self.role}.bias", (self.rows,), used=self.bias)
        if self.norm is not None:
            yield from self.norm.tensors()


@frozen
class Pooling:
    """One vector for a text instead of logits: the mean of its tokens' vectors, the first's, the last's, or none (a
    vector for each token); ``layers`` follow, in order. ``labels``: the result is a score for each (a classifier, a
    reranker), otherwise an embedding, which callers normalize to length 1. ``probabilities``: scores become
    probabilities that sum to 1 (softmax)."""

    kind: Literal["none", "mean", "cls", "last"]
    n_embd: int
    layers: tuple[Layer, ...] = ()
    labels: tuple[str, ...] = ()
    probabilities: bool = False

    def tensors(self) -> Iterator[Tensor]:
        for layer in self.layers:
            yield from layer.tensors()
