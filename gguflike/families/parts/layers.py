"""Parts of which most models consist: norms, rotations, attention and feed-forward layers, and the tensors of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol

from gguflike.errors import UnsupportedError
from gguflike.frozen import frozen

if TYPE_CHECKING:
    from gguflike.families.parts.indexers import BlockIndexer

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "swiglu_oai", "xielu", "sigmoid", "softplus"]


@frozen
class Tensor:
    """One tensor of a part.

    ``role`` is its GGUF name, below ``blk.<i>.`` for one of a layer. ``heads``: the rows are those of so many attention
    heads, one after the other (0: they are not). ``used`` is false for a tensor that the configuration rules out.
    ``share`` is how much of it a token reads. ``form`` is what it serves as: a "matrix" that is multiplied, "rows" that
    are looked up or read one by one, "values" for all else; unless it says, one of two axes or more is a matrix. What
    only counts beyond the positions that a run computes (``Graph.reach``) is "beyond": a file has it, no op reads it.
    """

    role: str
    shape: tuple[int, ...]
    heads: int = 0
    used: bool = True
    share: float = 1.0
    form: Literal["matrix", "rows", "values", "beyond"] | None = None

    @property
    def is_matrix(self) -> bool:
        """Whether the model multiplies with it."""
        return self.used and (self.form or ("matrix" if len(self.shape) > 1 else "values")) == "matrix"


@frozen
class Norm:
    """Normalization over the last axis, of ``size`` values.

    "rms": ``x / sqrt(mean(x**2) + eps) * weight``; "layer": ``(x - mean) / sqrt(variance + eps) * weight + bias``.
    Without ``weight`` there is neither; where it is ``bare``, its tensor is called as the norm, without ".weight".
    ``groups``: the weight has so many rows of ``size``, one for each head or group.
    """

    role: str
    size: int
    eps: float
    kind: Literal["rms", "layer"] = "rms"
    weight: bool = True
    bias: bool = False
    groups: int = 0
    bare: bool = False

    @property
    def weight_role(self) -> str:
        """The role of its weight."""
        return self.role if self.bare else f"{self.role}.weight"

    def tensors(self) -> Iterator[Tensor]:
        shape = (self.groups, self.size) if self.groups else (self.size,)
        if self.weight:
            yield Tensor(self.weight_role, shape, form="values")
            yield Tensor(f"{self.role}.bias", shape, used=self.bias, form="values")


@frozen
class Scaling:
    """How a rotation is stretched to longer contexts.

    "linear" divides positions by ``factor``. "yarn" (Peng et al. 2023, arXiv:2309.00071) keeps frequencies that turn
    more than ``beta_fast`` times within ``context`` tokens, divides those that turn less than ``beta_slow`` times, and
    blends between them; the two pairs where blending begins and ends are rounded outwards where ``truncate``.
    "longrope" (Ding et al. 2024, arXiv:2402.13753) divides frequencies by one of two tensors, the first where the model
    runs with a context longer than ``context``.

    ``magnitude`` is what cosines and sines are multiplied by; None: 1, for "yarn" 1 + 0.1 ln(factor).
    """

    kind: Literal["linear", "yarn", "longrope"]
    factor: float = 1.0
    context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True


@frozen
class Rope:
    """Rotary positions on the first ``n_rot`` dimensions of each head: pair j turns by ``base**(-2j / n_rot)`` radians
    per position.

    ``pairs`` says which dimensions turn together: "norm" 2j and 2j + 1, "neox" j and j + n_rot / 2. ``divisors`` are
    the tensors, float32 of shape (n_rot / 2,), that frequencies are divided by: ``rope_freqs.weight``, or the two of
    "longrope", for long contexts and for short ones.
    """

    n_rot: int
    base: float
    pairs: Literal["norm", "neox"]
    scaling: Scaling | None = None
    divisors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n_rot % 2:
            raise UnsupportedError(
                "an odd number of dimensions of a head cannot turn in pairs", expected="an even number", got=self.n_rot
            )

    def tensors(self) -> Iterator[Tensor]:
        for role in self.divisors:
            yield Tensor(role, (self.n_rot // 2,))


@frozen
class Temperature:
    """Queries at position p are multiplied by ``1 + scale * ln(floor((p + offset) / length) + 1)`` (Llama 4)."""

    scale: float
    length: float
    offset: float = 0.0


@frozen
class Attention:
    """Attention with ``heads`` query heads on ``kv_heads`` key and value heads of ``head_dim`` dimensions; values have
    ``value_dim`` (0: as many).

    Scores are scaled by ``scale`` (None: ``head_dim**-0.5``), then by ``softcap * tanh(score / softcap)`` where there
    is a cap. Queries and keys are normalized by ``q_norm`` and ``k_norm``, per head where the norm's size is
    ``head_dim`` and as a whole where it is that of all heads, before they are rotated (``norm_after_rope``:
    afterwards); values by ``v_norm``. ``clamp``: queries, keys and values are first limited to that magnitude.

    A query sees keys up to its own position (all, where not ``causal``); of these, where there is a ``window``, only
    the last so many, its own included; ``chunked``: only those of its own stretch of so many positions; not ``causal``:
    those at most window // 2 away. ``sinks``: the softmax of each head has one more score, a weight, without a value.

    ``bias`` is of queries, keys and values, ``output_bias`` of the output; ``fused``: one matrix ``attn_qkv`` gives
    queries, keys and values, in this order. ``gate`` multiplies what the heads found by ``gate_activation``: "query" of
    values that the query matrix gives behind each head's queries, "element" and "head" of those that a matrix
    ``attn_gate`` gives, one for each value or for each head. ``output_norm`` comes before the output matrix.

    ``kv_layer``: keys and values are those of that layer's cache; this one has none of its own. ``value_is_key``:
    values are the keys before norm and rotation, there is no value matrix. ``indexer``: of the keys that a query sees
    these are the ones it attends to.
    """

    n_embd: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    bias: bool = False
    output_bias: bool = False
    fused: bool = False
    scale: float | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    v_norm: Norm | None = None
    norm_after_rope: bool = False
    causal: bool = True
    window: int = 0
    chunked: bool = False
    softcap: float = 0.0
    sinks: bool = False
    temperature: Temperature | None = None
    gate: Literal["query", "element", "head"] | None = None
    gate_activation: Literal["sigmoid", "softplus"] = "sigmoid"
    output_norm: Norm | None = None
    clamp: float = 0.0
    kv_layer: int | None = None
    value_is_key: bool = False
    indexer: BlockIndexer | None = None
    value_dim: int = 0

    @property
    def reach(self) -> int:
        """Positions up to which no indexer has a choice; 0: any number."""
        return self.indexer.reach if self.indexer is not None else 0

    @property
    def q_size(self) -> int:
        """Values of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Values of all keys of a token."""
        return self.kv_heads * self.head_dim

    @property
    def of_values(self) -> int:
        """Dimensions of a head's values."""
        return self.value_dim or self.head_dim

    @property
    def found_size(self) -> int:
        """Values of what all heads of a token find."""
        return self.heads * self.of_values

    @property
    def widest(self) -> int:
        """Values of the longest row that one of the matrices reads."""
        return max(self.n_embd, self.q_size, self.found_size)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return () if self.rope is None else (self.rope,)

    def tensors(self) -> Iterator[Tensor]:
        shared = self.kv_layer is not None
        q_rows = self.q_size * (2 if self.gate == "query" else 1)
        v_rows = self.kv_heads * self.of_values
        for role, rows, heads, used in (
            ("attn_qkv", self.q_size + self.kv_size + v_rows, 0, self.fused),
            ("attn_q", q_rows, self.heads, not self.fused),
            ("attn_k", self.kv_size, self.kv_heads, not (self.fused or shared)),
            ("attn_v", v_rows, self.kv_heads, not (self.fused or shared or self.value_is_key)),
        ):
            if used:
                yield Tensor(f"{role}.weight", (rows, self.n_embd), heads)
                yield Tensor(f"{role}.bias", (rows,), heads, used=self.bias)
        if self.gate in ("element", "head"):
            yield Tensor("attn_gate.weight", (self.found_size if self.gate == "element" else self.heads, self.n_embd))
        for norm in (self.q_norm, self.k_norm, self.v_norm, self.output_norm):
            if norm is not None and not (shared and norm is self.k_norm):
                yield from norm.tensors()
        if self.sinks:
            yield Tensor("attn_sinks.weight", (self.heads,))
        yield Tensor("attn_output.weight", (self.n_embd, self.found_size))
        yield Tensor("attn_output.bias", (self.n_embd,), used=self.output_bias)
        if self.indexer is not None:
            yield from self.indexer.tensors()


@frozen
class FeedForward:
    """``down(act(gate(x)) * up(x))`` with ``n_ff`` hidden values; ``down(act(up(x)))`` where not ``gated``.

    ``fused``: ``ffn_up`` gives the gate's values and then those of up. ``bias``: each of the matrices has one.
    ``down_norm`` comes before the last matrix. ``suffix`` ends the roles: "_shexp" for experts that all tokens share.
    ``clamp``: the gate's values after activation are at most that, those of up at most that in magnitude.
    ``xielu`` are the constants (alpha_n, alpha_p, beta, eps) of the activation of that name.
    """

    n_embd: int
    n_ff: int
    bias: bool = False
    activation: Activation = "silu"
    gated: bool = True
    fused: bool = False
    down_norm: Norm | None = None
    suffix: str = ""
    clamp: float = 0.0
    xielu: tuple[float, float, float, float] | None = None

    @property
    def widest(self) -> int:
        """Values of the longest row that one of the matrices reads."""
        return max(self.n_embd, self.n_ff)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return ()

    def tensors(self) -> Iterator[Tensor]:
        up = 2 * self.n_ff if self.fused else self.n_ff
        for role, rows, columns, used in (
            ("ffn_gate", self.n_ff, self.n_embd, self.gated and not self.fused),
            ("ffn_up", up, self.n_embd, True),
            ("ffn_down", self.n_embd, self.n_ff, True),
        ):
            if used:
                yield Tensor(f"{role}{self.suffix}.weight", (rows, columns))
                yield Tensor(f"{role}{self.suffix}.bias", (rows,), used=self.bias)
        if self.down_norm is not None:
            yield from self.down_norm.tensors()


class Mixer(Protocol):
    """What a branch adds to the residual stream: `Attention`, `FeedForward`, or a part of another module."""

    @property
    def widest(self) -> int:
        """Values of the longest row that one of the matrices reads."""
        ...

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The rotations that the part uses."""
        ...

    def tensors(self) -> Iterator[Tensor]: ...
