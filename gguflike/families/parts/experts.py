"""Mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gguflike.families.parts import Activation, FeedForward, Norm, Rope, Tensor
from gguflike.frozen import frozen


@frozen
class Router:
    """How a token's experts are chosen and weighted, from a logit for each expert: ``ffn_gate_inp`` times the input.

    Logits become probabilities by ``scoring``: "softmax", "sigmoid", "sqrt_softplus"; "softmax_chosen": they stay as
    they are until some are chosen, whose softmax is their weight; "raw": experts are chosen by the logits and weighted
    by their sigmoid (Llama 4); "sparse_mixer": chosen by the logits, one after the other, each weighted by its share in
    the softmax of those left whose logit is at most ``near`` below it, relative to the larger of either's magnitude
    (SparseMixer, Liu et al. 2024, arXiv:2409.12136). ``choice_bias``: ``exp_probs_b`` is added to choose, not to
    weight. With ``groups`` only the experts of the best ``groups_used`` groups can be chosen; a group's score is the
    sum of its best two, or its "max". Weights are divided by their sum where ``normalize``, then multiplied by
    ``scale``. ``bias``: the logits have one.

    ``norm`` normalizes the router's own input, which is then multiplied by ``input_scale`` and, where ``scaled``, by
    the vector ``ffn_gate_inp.scale`` (Gemma 4).
    """

    scoring: Literal["softmax", "sigmoid", "softmax_chosen", "sqrt_softplus", "raw", "sparse_mixer"] = "softmax"
    normalize: bool = True
    scale: float = 1.0
    bias: bool = False
    choice_bias: Literal["exp_probs_b.bias", "exp_probs_b"] | None = None
    groups: int = 1
    groups_used: int = 1
    group_score: Literal["top2", "max"] = "top2"
    norm: Norm | None = None
    input_scale: float = 1.0
    scaled: bool = False
    near: float = 0.0


@frozen
class Experts:
    """``used`` of ``count`` feed-forwards of ``n_ff`` hidden values, chosen per token, and those that all tokens share.

    Each is as a `FeedForward`: gated or not, with its activation and clamp; its matrices stand one behind the other in
    ``ffn_gate_exps`` (count, n_ff, n_embd), ``ffn_up_exps`` and ``ffn_down_exps``; ``fused``: the first two are
    ``ffn_gate_up_exps`` (count, 2 n_ff, n_embd), gate first. ``bias``: each has one. ``weight_first``: the weight
    multiplies the expert's input, not its output. ``output_scaled``: each expert's output is multiplied by its entry of
    ``ffn_down_exps.scale``. ``latent``: experts work on so many values, made by ``ffn_latent_down`` and turned back by
    ``ffn_latent_up``.

    ``shared`` is added, multiplied by sigmoid(``ffn_gate_inp_shexp`` times the input) where ``shared_gate``; the sum of
    both is multiplied by ``total_scale``. ``input_norm`` normalizes what the experts read, but for the router and the
    shared ones, which read the input as it is (Gemma 4).
    """

    n_embd: int
    n_ff: int
    count: int
    used: int
    router: Router
    activation: Activation = "silu"
    gated: bool = True
    fused: bool = False
    bias: bool = False
    clamp: float = 0.0
    weight_first: bool = False
    output_scaled: bool = False
    latent: int = 0
    shared: FeedForward | None = None
    shared_gate: bool = False
    total_scale: float = 1.0
    input_norm: Norm | None = None

    @property
    def width(self) -> int:
        """Values that an expert reads and gives."""
        return self.latent or self.n_embd

    @property
    def widest(self) -> int:
        """Values of the longest row that one of the matrices reads."""
        return max(self.n_embd, self.n_ff, self.latent, self.shared.widest if self.shared else 0)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return ()

    def tensors(self) -> Iterator[Tensor]:
        router = self.router
        yield Tensor("ffn_gate_inp.weight", (self.count, self.n_embd))
        yield Tensor("ffn_gate_inp.bias", (self.count,), used=router.bias)
        if router.scaled:
            yield Tensor("ffn_gate_inp.scale", (self.n_embd,))
        if router.norm is not None:
            yield from router.norm.tensors()
        if router.choice_bias is not None:
            yield Tensor(router.choice_bias, (self.count,))
        if self.input_norm is not None:
            yield from self.input_norm.tensors()
        if self.latent:
            yield Tensor("ffn_latent_down.weight", (self.latent, self.n_embd))
            yield Tensor("ffn_latent_up.weight", (self.n_embd, self.latent))
        for role, rows, columns, used in (
            ("ffn_gate_up_exps", 2 * self.n_ff, self.width, self.gated and self.fused),
            ("ffn_gate_exps", self.n_ff, self.width, self.gated and not self.fused),
            ("ffn_up_exps", self.n_ff, self.width, not (self.gated and self.fused)),
            ("ffn_down_exps", self.width, self.n_ff, True),
        ):
            if used:
                yield Tensor(f"{role}.weight", (self.count, rows, columns), share=self.used / max(self.count, 1))
                yield Tensor(f"{role}.bias", (self.count, rows), used=self.bias)
        if self.output_scaled:
            yield Tensor("ffn_down_exps.scale", (self.count,))
        if self.shared_gate:
            yield Tensor("ffn_gate_inp_shexp.weight", (1, self.n_embd))
        if self.shared is not None:
            yield from self.shared.tensors()
