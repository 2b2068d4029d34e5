"""Which experts a token goes to, from a logit for each."""

from __future__ import annotations

import numpy as np

from gguflike.kernels.engine.atomics import load_args, load_word, store_word
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.experts.args import MOST_EXPERTS, ROUTE, SCORINGS
from gguflike.kernels.vector.activations import sigmoid, softplus
from gguflike.kernels.vector.lanes import exp, splat, sqrt
from gguflike.kernels.vector.memory import load_f32, load_f32x16, store_f32, store_f32x16
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address
from gguflike.kernels.vector.unpack import f32_of

SOFTMAX, SIGMOID = SCORINGS["softmax"], SCORINGS["sigmoid"]
SOFTMAX_CHOSEN, SQRT_SOFTPLUS, RAW = SCORINGS["softmax_chosen"], SCORINGS["sqrt_softplus"], SCORINGS["raw"]
SPARSE_MIXER = SCORINGS["sparse_mixer"]
LEAST_SUM = np.float32(2.0**-14)  # that weights are divided by, as in llama.cpp
LOWEST = np.float32(-np.inf)  # of what is not to be chosen, or no longer
FAR = np.float32(1000.0)  # below the best: e**-FAR is nothing

# Byte offsets in scratch: what experts are weighted with, what they are chosen by, what their groups are.
SCORES_AT, CHOICE_AT, GROUPS_AT = 0, 4 * MOST_EXPERTS, 8 * MOST_EXPERTS


@inner
def _largest(values: Address, count: int) -> int:
    """Return the index of the largest of ``count`` float32, the first of equal ones."""
    best, largest = 0, load_f32(values)
    for i in range(1, count):
        value = load_f32(values + 4 * i)
        if value > largest:
            best, largest = i, value
    return best


@inner
def _exponentials(values: Address, count: int) -> np.float32:
    """Replace x by e**(x - the largest) in ``count`` float32, and return their sum."""
    largest = load_f32(values + 4 * _largest(values, count))
    for i in range(0, count, LANES):
        store_f32x16(values + 4 * i, exp(load_f32x16(values + 4 * i) - splat(largest)))
    total: np.float32 = np.float32(0)
    for i in range(count):
        total += load_f32(values + 4 * i)
    return total


@inner
def _divide(values: Address, count: int, divisor: np.float32) -> None:
    for i in range(count):
        store_f32(values + 4 * i, np.float32(load_f32(values + 4 * i) / divisor))


@inner
def _score(scores: Address, count: int, scoring: int) -> None:
    """Replace logits by what experts are chosen by, but for a bias."""
    if scoring == SOFTMAX:
        _divide(scores, count, _exponentials(scores, count))
    elif scoring == SIGMOID:
        for i in range(0, count, LANES):
            store_f32x16(scores + 4 * i, sigmoid(load_f32x16(scores + 4 * i)))
    elif scoring == SQRT_SOFTPLUS:
        for i in range(0, count, LANES):
            store_f32x16(scores + 4 * i, sqrt(softplus(load_f32x16(scores + 4 * i))))


@inner
def _keep_groups(choice: Address, groups: Address, args: Address) -> None:
    """Lower all experts that are not of the best groups."""
    a = load_args(ROUTE, args)
    size = a.experts // a.groups
    for group in range(a.groups):
        best = second = LOWEST
        for i in range(group * size, (group + 1) * size):
            value = load_f32(choice + 4 * i)
            if value > best:
                best, second = value, best
            elif value > second:
                second = value
        store_f32(groups + 4 * group, np.float32(best + second) if a.by_two and size > 1 else best)
    for _ in range(a.groups - a.groups_used):  # the worst, and of equal ones the last, are left out
        worst, lowest = -1, LOWEST
        for group in range(a.groups):
            value = load_f32(groups + 4 * group)
            if value < np.float32(np.inf) and (worst < 0 or value <= lowest):
                worst, lowest = group, value
        if worst >= 0:
            store_f32(groups + 4 * worst, np.float32(np.inf))
            for i in range(worst * size, (worst + 1) * size):
                store_f32(choice + 4 * i, LOWEST)


@inner
def _share_among_near(choice: Address, best: int, args: Address, scratch: Address) -> np.float32:
    """Return the share of the ``best`` of the experts that may be chosen in the softmax of those near it
    (SparseMixer)."""
    a = load_args(ROUTE, args)
    largest = load_f32(choice + 4 * best)
    for i in range(a.experts):
        value = load_f32(choice + 4 * i)
        size = max(-value if value < np.float32(0) else value, largest)
        kept = value > LOWEST and not np.float32((largest - value) / size) > f32_of(a.near)
        store_f32(scratch + 4 * i, value if kept else np.float32(largest - FAR))
    total = _exponentials(scratch, a.experts)
    share: np.float32 = np.float32(load_f32(scratch + 4 * best) / total)
    return share


@inner
def _disorder(logits: Address, count: int) -> np.float32:
    """Return NaN where one of ``count`` float32 is not finite, else 0."""
    total: np.float32 = np.float32(0)
    for i in range(count):
        total += np.float32(load_f32(logits + 4 * i) * np.float32(0))
    return total


@inner
def _weigh(shares: Address, args: Address, scratch: Address) -> None:
    """Make weights of the scores of a token's experts; ``scratch`` has room for them in whole vectors."""
    a = load_args(ROUTE, args)
    for slot in range(a.used):
        store_f32(scratch + 4 * slot, load_f32(shares + 4 * slot))
    if a.scoring == SOFTMAX_CHOSEN:
        _divide(scratch, a.used, _exponentials(scratch, a.used))
    elif a.scoring == RAW:
        for i in range(0, a.used, LANES):
            store_f32x16(scratch + 4 * i, sigmoid(load_f32x16(scratch + 4 * i)))
    if a.normalize:
        total = np.float32(0)
        for slot in range(a.used):
            total += load_f32(scratch + 4 * slot)
        _divide(scratch, a.used, max(total, LEAST_SUM))
    for slot in range(a.used):
        store_f32(shares + 4 * slot, np.float32(load_f32(scratch + 4 * slot) * f32_of(a.scale)))


@op("experts.router:route")
def route(args: Address, state: Address, start: int, stop: int) -> None:
    """Choose and weight the experts of each token. Items are tokens; words: ``ROUTE``.

    Whatever the logits are, what is chosen is the number of an expert. Where one is not finite, all weights are NaN: an
    expert whose logit is NaN would never be chosen, and what is wrong with the model not be seen.
    """
    a = load_args(ROUTE, args)
    scratch = load_word(state + STATE.scratch)
    scores, choice = scratch + SCORES_AT, scratch + CHOICE_AT
    for token in range(start, stop):
        for i in range(a.experts):
            store_f32(scores + 4 * i, load_f32(a.logits + 4 * (token * a.experts + i)))
        _score(scores, a.experts, a.scoring)
        for i in range(a.experts):
            value = load_f32(scores + 4 * i)
            if a.choice_bias:
                value += load_f32(a.choice_bias + 4 * i)
            store_f32(choice + 4 * i, value)
        if a.groups > a.groups_used:
            _keep_groups(choice, scratch + GROUPS_AT, args)
        chosen, shares = a.chosen + 8 * token * a.used, a.shares + 4 * token * a.used
        for slot in range(a.used):
            expert = _largest(choice, a.experts)
            store_word(chosen + 8 * slot, expert)
            share = load_f32(scores + 4 * expert)
            if a.scoring == SPARSE_MIXER:
                share = _share_among_near(choice, expert, args, scratch + GROUPS_AT)
            store_f32(shares + 4 * slot, share)
            store_f32(choice + 4 * expert, LOWEST)
        _weigh(shares, args, scratch + GROUPS_AT)
        disorder = _disorder(a.logits + 4 * token * a.experts, a.experts)
        for slot in range(a.used):
            store_f32(shares + 4 * slot, np.float32(load_f32(shares + 4 * slot) + disorder))
        if a.output_scale:
            for slot in range(a.used):
                factor = load_f32(a.output_scale + 4 * load_word(chosen + 8 * slot))
                store_f32(shares + 4 * slot, np.float32(load_f32(shares + 4 * slot) * factor))
