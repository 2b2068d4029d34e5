"""Recurrent mixers, token by token: what their formulas say, with the state written out.

``x`` is (tokens, n_embd) from position 0, so every state begins with zeros.
"""

from __future__ import annotations

import numpy as np

from gguflike.families.parts import Norm
from gguflike.families.parts.recurrent import DeltaNet, KimiDelta, Mamba, Mamba2, ShortConv
from gguflike.reference.formulas import Array, Context, Weights, linear, normalize, sigmoid, silu, softplus
from gguflike.reference.parts import mix


def convolve(weights: Weights, role: str, x: Array) -> Array:
    """Each channel of ``x`` (tokens, channels) convolved with its row of the weight (channels, kernel), plus the bias.

    The last column is the token's own, the one before it of the token before: ``sum(w[:, j] * x[t - kernel + 1 + j])``.
    """
    weight = weights[f"{role}.weight"]
    kernel = weight.shape[1]
    padded = np.concatenate([np.zeros((kernel - 1, x.shape[1]), x.dtype), x])
    result: Array = sum(padded[j : j + len(x)] * weight[:, j] for j in range(kernel))  # type: ignore[assignment]
    return result + weights[f"{role}.bias"] if f"{role}.bias" in weights else result


@mix.register
def _short_conv(part: ShortConv, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """``out_proj(c * conv(b * x))``."""
    b, c, inner = np.split(linear(weights, "shortconv.in_proj", x), 3, axis=-1)
    return linear(weights, "shortconv.out_proj", c * convolve(weights, "shortconv.conv", b * inner))


def normalized_heads(x: Array, eps: float) -> Array:
    """``x / sqrt(sum(x**2) + eps)`` over the last axis."""
    result: Array = x / np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True) + np.asarray(eps, x.dtype))
    return result


def delta_rule(q: Array, k: Array, v: Array, decay: Array, beta: Array) -> Array:
    """The outputs (tokens, heads, dim) of ``S = decay * S; S += outer(beta * (v - S k), k); o = S q`` for each head.

    ``q``, ``k``, ``v`` are (tokens, heads, dim), ``beta`` is (tokens, heads), ``decay`` the same or, where each channel
    of keys has its own, (tokens, heads, dim).
    """
    decay = decay if decay.ndim == 3 else decay[..., None]
    heads, dim = v.shape[1:]
    state = np.zeros((heads, dim, dim), v.dtype)
    out = []
    for t in range(len(v)):
        state = state * decay[t, :, None, :]
        error = v[t] - np.einsum("hvk,hk->hv", state, k[t])
        state = state + np.einsum("hv,hk->hvk", beta[t, :, None] * error, k[t])
        out.append(np.einsum("hvk,hk->hv", state, q[t]))
    return np.stack(out)


@mix.register
def _kimi_delta(part: KimiDelta, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """The delta rule with channels that decay apart, between convolutions and a gated norm."""
    shape = (len(x), part.heads, part.head_dim)

    def mixed(name: str) -> Array:
        weight = weights[f"ssm_conv1d_{name}.weight"].reshape(part.size, part.kernel)
        return silu(convolve({"conv.weight": weight}, "conv", linear(weights, f"attn_{name}", x))).reshape(shape)

    q, k = (normalized_heads(mixed(name), 1e-6) for name in "qk")
    forget = linear(weights, "ssm_f_b", linear(weights, "ssm_f_a", x)) + weights["ssm_dt.bias"]
    decay = np.exp(weights["ssm_a"].reshape(-1, 1) * softplus(forget).reshape(shape))
    beta = sigmoid(linear(weights, "ssm_beta", x))
    found = delta_rule(q * np.asarray(part.head_dim**-0.5, x.dtype), k, mixed("v"), decay, beta)
    gate = sigmoid(linear(weights, "ssm_g_b", linear(weights, "ssm_g_a", x)))
    return linear(weights, "attn_output", normalize(part.norm, weights, found).reshape(len(x), -1) * gate)


@mix.register
def _delta_net(part: DeltaNet, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """The gated delta rule between a convolution and a gated norm."""
    tokens, dim, per_key = len(x), part.head_dim, part.value_heads // part.key_heads
    mixed = silu(convolve(weights, "ssm_conv1d", linear(weights, "attn_qkv", x)))
    q, k, v = np.split(mixed, [part.key_size, 2 * part.key_size], axis=-1)
    q, k = (normalized_heads(each.reshape(tokens, part.key_heads, dim), 1e-6) for each in (q, k))
    if part.joint:
        both = linear(weights, "ssm_ba", x).reshape(tokens, part.key_heads, 2 * per_key)
        beta, alpha = (each.reshape(tokens, -1) for each in np.split(both, 2, axis=-1))
    else:
        beta, alpha = linear(weights, "ssm_beta", x), linear(weights, "ssm_alpha", x)
    key_of = np.arange(part.value_heads)
    key_of = key_of % part.key_heads if part.tiled else key_of // per_key
    decay = np.exp(weights["ssm_a"] * softplus(alpha + weights["ssm_dt.bias"]))
    scale = np.asarray(dim**-0.5, x.dtype)
    v = v.reshape(tokens, part.value_heads, dim)
    out = normalize(part.norm, weights, delta_rule(q[:, key_of] * scale, k[:, key_of], v, decay, sigmoid(beta)))
    return linear(weights, "ssm_out", out.reshape(tokens, -1) * silu(linear(weights, "attn_gate", x)))


@mix.register
def _mamba2(part: Mamba2, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """A decaying sum of outer products of x and B, read by C, for each head."""
    tokens, inner, rest = len(x), part.inner, part.inner + part.channels
    z, mixed, dt = np.split(linear(weights, "ssm_in", x), [inner, rest], axis=-1)
    mixed = silu(convolve(weights, "ssm_conv1d", mixed))
    values, b, c = np.split(mixed, [inner, inner + part.groups * part.d_state], axis=-1)
    values = values.reshape(tokens, part.heads, -1)
    b, c = (
        np.repeat(each.reshape(tokens, part.groups, part.d_state), part.heads // part.groups, axis=1) for each in (b, c)
    )
    dt = softplus(dt + weights["ssm_dt.bias"])
    decay = np.exp(dt * weights["ssm_a"][:, 0])
    state = np.zeros((part.heads, values.shape[2], part.d_state), x.dtype)
    out = []
    for t in range(tokens):
        state = decay[t, :, None, None] * state + np.einsum("h,hx,hb->hxb", dt[t], values[t], b[t])
        out.append(np.einsum("hxb,hb->hx", state, c[t]) + weights["ssm_d"] * values[t])
    return linear(weights, "ssm_out", gated_norm(part.norm, weights, np.stack(out).reshape(tokens, inner), z))


def gated_norm(norm: Norm | None, weights: Weights, y: Array, z: Array) -> Array:
    """``norm(y * silu(z))``, over groups of values; without ``norm`` only gated."""
    gated = y * silu(z)
    return gated if norm is None else normalize(norm, weights, gated.reshape(len(y), -1, norm.size)).reshape(y.shape)


@mix.register
def _mamba(part: Mamba, weights: Weights, x: Array, context: Context) -> Array:  # noqa: ARG001
    """A state of ``d_state`` values for each channel, which decays at a rate of its own for each value."""
    values, z = np.split(linear(weights, "ssm_in", x), 2, axis=-1)
    values = silu(convolve(weights, "ssm_conv1d", values))
    dt, b, c = np.split(linear(weights, "ssm_x", values), [part.dt_rank, part.dt_rank + part.d_state], axis=-1)
    dt, b, c = (
        normalize(norm, weights, each) for norm, each in ((part.dt_norm, dt), (part.b_norm, b), (part.c_norm, c))
    )
    dt = softplus(linear(weights, "ssm_dt", dt))
    state = np.zeros((part.inner, part.d_state), x.dtype)
    out = []
    for t in range(len(x)):
        state = np.exp(dt[t, :, None] * weights["ssm_a"]) * state + (dt[t] * values[t])[:, None] * b[t]
        out.append(state @ c[t] + weights["ssm_d"] * values[t])
    return linear(weights, "ssm_out", np.stack(out) * silu(z))
