"""Mixtures of experts, in numpy: which experts a token goes to, and what they give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflike.families.parts.experts import Experts, Router
from gguflike.reference.formulas import Array, Context, Weights, linear, normalize, sigmoid, softmax, softplus
from gguflike.reference.parts import gated, mix
from gguflike.reference.watched import tell

# llama.cpp's: the least sum that weights are divided by.
LEAST_SUM = 2.0**-14


class Routes(NamedTuple):
    """The ``experts`` of each token, best first, int64 (tokens, used), and the ``weights`` of what they give."""

    experts: Array
    weights: Array


def route(router: Router, used: int, logits: Array, choice_bias: Array | None = None) -> Routes:
    """Choose and weight experts by their logits (tokens, count). Of equal ones, the first is chosen."""
    if router.scoring == "sparse_mixer":
        return _sparse_mixer(router, used, logits)
    scores = _scores(router, logits)
    chosen_by = scores if choice_bias is None else scores + choice_bias
    if router.groups > 1:
        chosen_by = np.where(_allowed(router, chosen_by), chosen_by, -np.inf)
    experts = np.argsort(-chosen_by, axis=-1, kind="stable")[:, :used]
    weights = np.take_along_axis(scores, experts, axis=-1)
    if router.scoring == "softmax_chosen":
        weights = softmax(weights)
    elif router.scoring == "raw":
        weights = sigmoid(weights)
    if router.normalize:
        weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), np.asarray(LEAST_SUM, weights.dtype))
    return Routes(experts, weights * np.asarray(router.scale, weights.dtype))


def _sparse_mixer(router: Router, used: int, logits: Array) -> Routes:
    """One expert after the other: the best of those left, and its share among those near it."""
    left, experts, weights = logits, [], []
    for _ in range(used):
        best = left.argmax(-1, keepdims=True)
        largest = np.take_along_axis(left, best, -1)
        far = (largest - logits) / np.maximum(np.abs(logits), largest) > router.near
        experts.append(best)
        weights.append(np.take_along_axis(softmax(np.where(far, -np.inf, left)), best, -1))
        left = np.where(np.arange(logits.shape[-1]) == best, -np.inf, left)
    shares = np.concatenate(weights, -1)
    return Routes(np.concatenate(experts, -1), shares * np.asarray(router.scale, shares.dtype))


def _scores(router: Router, logits: Array) -> Array:
    """What experts are chosen by, but for a bias, and weighted with."""
    if router.scoring == "softmax":
        return softmax(logits)
    if router.scoring == "sigmoid":
        return sigmoid(logits)
    if router.scoring == "sqrt_softplus":
        roots: Array = np.sqrt(softplus(logits))
        return roots
    return logits


def _allowed(router: Router, scores: Array) -> Array:
    """bool (tokens, count): whether an expert is of one of the best groups."""
    tokens, count = scores.shape
    groups = np.sort(scores.reshape(tokens, router.groups, -1), axis=-1)
    best = groups[..., -1] if router.group_score == "max" else groups[..., -2:].sum(axis=-1)
    allowed = np.zeros(best.shape, bool)
    np.put_along_axis(allowed, np.argsort(-best, axis=-1, kind="stable")[:, : router.groups_used], True, axis=-1)
    return np.repeat(allowed, count // router.groups, axis=-1)


def logits_of(part: Experts, weights: Weights, x: Array) -> Array:
    """The logit of each expert (tokens, count) for a layer's input."""
    router = part.router
    if router.norm is not None:
        x = normalize(router.norm, weights, x)
    x = x * np.asarray(router.input_scale, x.dtype)
    if router.scaled:
        x = x * weights["ffn_gate_inp.scale"]
    return linear(weights, "ffn_gate_inp", x)


@mix.register
def _experts(part: Experts, weights: Weights, x: Array, context: Context) -> Array:
    """The weighted sum of what each token's experts give, and the shared ones."""
    bias = None if part.router.choice_bias is None else weights[part.router.choice_bias]
    routes = route(part.router, part.used, logits_of(part, weights, x), bias)
    inner = normalize(part.input_norm, weights, x)
    if part.latent:
        inner = linear(weights, "ffn_latent_down", inner)
    total = np.zeros_like(inner)
    for slot in range(part.used):
        chosen, weight = routes.experts[:, slot], routes.weights[:, slot, None]
        if part.weight_first:
            total = total + _expert(part, weights, chosen, inner * weight)
        else:
            total = total + _expert(part, weights, chosen, inner) * weight
    if part.latent:
        total = linear(weights, "ffn_latent_up", total)
    if part.shared is not None:
        shared = mix(part.shared, weights, x, context)
        if part.shared_gate:
            tell(weights, "ffn_gate_inp_shexp.weight", x)
            shared = shared * sigmoid(x @ weights["ffn_gate_inp_shexp.weight"].reshape(-1, 1))
        total = total + shared
    result: Array = total * np.asarray(part.total_scale, x.dtype)
    return result


def _expert(part: Experts, weights: Weights, chosen: Array, x: Array) -> Array:
    """What the expert ``chosen[t]`` gives for each token t of ``x``."""
    gate = None
    if part.gated and part.fused:
        gate, up = np.split(_of_expert(part, weights, "ffn_gate_up_exps", chosen, x), 2, axis=-1)
    else:
        gate = _of_expert(part, weights, "ffn_gate_exps", chosen, x) if part.gated else None
        up = _of_expert(part, weights, "ffn_up_exps", chosen, x)
    result = _of_expert(part, weights, "ffn_down_exps", chosen, gated(part, gate, up))
    return result * weights["ffn_down_exps.scale"][chosen, None] if part.output_scaled else result


def _of_expert(part: Experts, weights: Weights, role: str, chosen: Array, x: Array) -> Array:
    """``x[t] @ weight[chosen[t]].T + bias[chosen[t]]``."""
    tell(weights, f"{role}.weight", x, chosen)
    matrices = weights[f"{role}.weight"]
    by_expert = np.concatenate([x[chosen == expert] @ matrices[expert].T for expert in np.unique(chosen)])
    result: Array = by_expert[np.argsort(np.argsort(chosen, kind="stable"))]
    return result + weights[f"{role}.bias"][chosen] if part.bias else result
