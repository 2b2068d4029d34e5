"""Mixers that carry a state of fixed size from token to token: convolutions, delta nets, state-space models."""

from __future__ import annotations

from collections.abc import Iterator

from gguflike.families.parts import Norm, Rope, Tensor
from gguflike.frozen import frozen


@frozen
class _Recurrent:
    n_embd: int

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return ()


@frozen
class ShortConv(_Recurrent):
    """LFM2's gated convolution: of ``shortconv.in_proj`` times the input, three rows b, c, x of ``n_embd`` values, it
    is ``out_proj(c * conv(b * x))``, a causal convolution of each channel over its last ``kernel`` tokens. ``bias``:
    all three have one."""

    kernel: int
    bias: bool = False

    @property
    def widest(self) -> int:
        return self.n_embd

    def tensors(self) -> Iterator[Tensor]:
        for role, shape in (
            ("in_proj", (3 * self.n_embd, self.n_embd)),
            ("conv", (self.n_embd, self.kernel)),
            ("out_proj", (self.n_embd, self.n_embd)),
        ):
            yield Tensor(f"shortconv.{role}.weight", shape, form="values" if role == "conv" else "matrix")
            yield Tensor(f"shortconv.{role}.bias", (shape[0],), used=self.bias)


@frozen
class DeltaNet(_Recurrent):
    """The gated delta rule (Yang et al. 2024, arXiv:2412.06464) as Qwen3-Next and Qwen3.5 use it.

    Queries and keys of ``key_heads`` heads and values of ``value_heads`` heads, all of ``head_dim`` dimensions, come
    out of ``attn_qkv`` through a causal convolution over ``kernel`` tokens and silu; queries and keys are normalized to
    length 1 (``x / sqrt(sum(x**2) + 1e-6)``), queries multiplied by ``head_dim**-0.5``. For each value head, with
    ``decay = exp(ssm_a * softplus(alpha + ssm_dt))`` and ``beta`` = sigmoid of its own value:

        S = decay * S;  S = S + outer(beta * (v - S k), k);  o = S q

    Then ``ssm_out(rms_norm(o) * silu(attn_gate(x)))``. Value head h goes with key head h % key_heads where ``tiled``,
    with key head h // (value_heads / key_heads) otherwise. ``joint``: alpha and beta come out of one matrix ``ssm_ba``,
    for each key head the betas of its value heads and then their alphas; otherwise out of ``ssm_alpha``, ``ssm_beta``.
    """

    key_heads: int
    value_heads: int
    head_dim: int
    kernel: int
    norm: Norm
    tiled: bool = True
    joint: bool = False

    @property
    def key_size(self) -> int:
        """Values of all keys of a token."""
        return self.key_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Values of all values of a token."""
        return self.value_heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.key_size + self.value_size

    @property
    def widest(self) -> int:
        return max(self.n_embd, self.value_size)

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor("attn_qkv.weight", (self.channels, self.n_embd))
        yield Tensor("attn_gate.weight", (self.value_size, self.n_embd))
        yield Tensor("ssm_conv1d.weight", (self.channels, self.kernel), form="values")
        yield Tensor("ssm_dt.bias", (self.value_heads,))
        yield Tensor("ssm_a", (self.value_heads,))
        if self.joint:
            yield Tensor("ssm_ba.weight", (2 * self.value_heads, self.n_embd))
        else:
            yield Tensor("ssm_beta.weight", (self.value_heads, self.n_embd))
            yield Tensor("ssm_alpha.weight", (self.value_heads, self.n_embd))
        yield from self.norm.tensors()
        yield Tensor("ssm_out.weight", (self.n_embd, self.value_size))


@frozen
class KimiDelta(_Recurrent):
    """Kimi's delta attention (Kimi Team 2025, arXiv:2510.26692): the gated delta rule, in which each channel of a key
    decays by itself.

    Queries, keys and values of ``heads`` heads of ``head_dim`` dimensions come out of ``attn_q``, ``attn_k`` and
    ``attn_v``, each through a causal convolution over ``kernel`` tokens and silu; queries and keys are normalized to
    length 1 (``x / sqrt(sum(x**2) + 1e-6)``), queries multiplied by ``head_dim**-0.5``. For each head, with
    ``decay = exp(ssm_a * softplus(ssm_f_b(ssm_f_a(x)) + ssm_dt))``, a value for each channel, and ``beta`` = sigmoid of
    the head's value of ``ssm_beta``:

        S = S * decay;  S = S + outer(beta * (v - S k), k);  o = S q

    Then ``attn_output(rms_norm(o) * sigmoid(ssm_g_b(ssm_g_a(x))))``.
    """

    heads: int
    head_dim: int
    kernel: int
    norm: Norm

    @property
    def size(self) -> int:
        """Values of all queries of a token, of its keys, and of its values."""
        return self.heads * self.head_dim

    @property
    def widest(self) -> int:
        return max(self.n_embd, self.size)

    def tensors(self) -> Iterator[Tensor]:
        for name in "qkv":
            yield Tensor(f"attn_{name}.weight", (self.size, self.n_embd))
        for name in "qkv":
            yield Tensor(f"ssm_conv1d_{name}.weight", (1, self.size, 1, self.kernel), form="values")
        yield Tensor("ssm_f_a.weight", (self.head_dim, self.n_embd))
        yield Tensor("ssm_f_b.weight", (self.size, self.head_dim))
        yield Tensor("ssm_dt.bias", (self.size,))
        yield Tensor("ssm_a", (1, 1, self.heads, 1), form="values")
        yield Tensor("ssm_beta.weight", (self.heads, self.n_embd))
        yield Tensor("ssm_g_a.weight", (self.head_dim, self.n_embd))
        yield Tensor("ssm_g_b.weight", (self.size, self.head_dim))
        yield from self.norm.tensors()
        yield Tensor("attn_output.weight", (self.n_embd, self.size))


@frozen
class Mamba2(_Recurrent):
    """Mamba 2 (Dao and Gu 2024, arXiv:2405.21060).

    ``ssm_in`` times the input gives [z | x | B | C | dt]: ``inner``, ``inner``, twice ``groups * d_state``, ``heads``
    values. x, B and C go through a causal convolution over ``kernel`` tokens and silu. For each of ``heads`` heads of
    ``inner / heads`` values, with ``dt = softplus(dt + bias)`` and B, C of its group:

        h = exp(dt * ssm_a) * h + dt * outer(x, B);  y = h C + ssm_d * x

    Then ``ssm_out(norm(y * silu(z)))``, normalized in groups; without ``norm`` only gated.
    """

    inner: int
    d_state: int
    groups: int
    heads: int
    kernel: int
    norm: Norm | None
    conv_bias: bool = True
    bias: bool = False

    @property
    def channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.d_state

    @property
    def widest(self) -> int:
        return max(self.n_embd, self.inner)

    def tensors(self) -> Iterator[Tensor]:
        rows = self.inner + self.channels + self.heads
        yield Tensor("ssm_in.weight", (rows, self.n_embd))
        yield Tensor("ssm_in.bias", (rows,), used=self.bias)
        yield Tensor("ssm_conv1d.weight", (self.channels, self.kernel), form="values")
        yield Tensor("ssm_conv1d.bias", (self.channels,), used=self.conv_bias)
        yield Tensor("ssm_dt.bias", (self.heads,))
        yield Tensor("ssm_a", (self.heads, 1), form="values")
        yield Tensor("ssm_d", (self.heads, 1), form="values")
        if self.norm is not None:
            yield from self.norm.tensors()
        yield Tensor("ssm_out.weight", (self.n_embd, self.inner))
        yield Tensor("ssm_out.bias", (self.n_embd,), used=self.bias)


@frozen
class Mamba(_Recurrent):
    """Mamba (Gu and Dao 2023, arXiv:2312.00752).

    ``ssm_in`` times the input gives [x | z] of ``inner`` values each. x goes through a causal convolution over
    ``kernel`` tokens and silu; ``ssm_x`` makes [dt | B | C] of it: ``dt_rank``, ``d_state``, ``d_state`` values, which
    the norms normalize, where there are any. For each channel, with ``dt = softplus(ssm_dt(dt) + bias)``:

        h = exp(dt * ssm_a) * h + dt * B * x;  y = h C + ssm_d * x

    Then ``ssm_out(y * silu(z))``.
    """

    inner: int
    d_state: int
    dt_rank: int
    kernel: int
    dt_norm: Norm | None = None
    b_norm: Norm | None = None
    c_norm: Norm | None = None
    conv_bias: bool = True

    @property
    def widest(self) -> int:
        return max(self.n_embd, self.inner)

    def tensors(self) -> Iterator[Tensor]:
        yield Tensor("ssm_in.weight", (2 * self.inner, self.n_embd))
        yield Tensor("ssm_conv1d.weight", (self.inner, self.kernel), form="values")
        yield Tensor("ssm_conv1d.bias", (self.inner,), used=self.conv_bias)
        yield Tensor("ssm_x.weight", (self.dt_rank + 2 * self.d_state, self.inner))
        yield Tensor("ssm_dt.weight", (self.inner, self.dt_rank))
        yield Tensor("ssm_dt.bias", (self.inner,))
        yield Tensor("ssm_a", (self.inner, self.d_state), form="values")
        yield Tensor("ssm_d", (self.inner,))
        for norm in (self.dt_norm, self.b_norm, self.c_norm):
            if norm is not None:
                yield from norm.tensors()
        yield Tensor("ssm_out.weight", (self.n_embd, self.inner))
