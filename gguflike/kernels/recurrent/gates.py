"""What decides how much a head forgets and writes, sixteen heads at a time. Items are tokens.

The ops ``delta`` and ``steps`` (argument words ``DELTA_GATES`` and ``STEP_GATES``).
"""

from __future__ import annotations

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import op
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.recurrent.args import DELTA_GATES, STEP_GATES
from gguflike.kernels.vector.activations import sigmoid, softplus
from gguflike.kernels.vector.lanes import exp
from gguflike.kernels.vector.memory import load_f32, load_f32x16, load_first, store_f32, store_f32x16
from gguflike.kernels.vector.types import Address


@op("recurrent.gates:delta")
def delta(args: Address, state: Address, start: int, stop: int) -> None:
    """Write exp(rate * softplus(alpha + bias)) and sigmoid(beta), both gathered from where the heads' values stand."""
    a = load_args(DELTA_GATES, args)
    alphas = load_word(state + STATE.scratch)
    betas = alphas + 64
    for token in range(start, stop):
        row = 4 * a.stride * token
        for first in range(0, a.heads, 16):
            for head in range(first, min(first + 16, a.heads)):
                at = row + 4 * (head // a.run * a.step + head % a.run)
                store_f32(alphas + 4 * (head - first), load_f32(a.alpha + at))
                store_f32(betas + 4 * (head - first), load_f32(a.beta + at))
            left = a.heads - first
            alpha, beta = load_first(alphas, min(left, 16)), load_first(betas, min(left, 16))
            target = 4 * (a.padded * token + first)
            step = softplus(alpha + load_f32x16(a.bias + 4 * first))
            store_f32x16(a.decay + target, exp(step * load_f32x16(a.rate + 4 * first)))
            store_f32x16(a.strength + target, sigmoid(beta))


@op("recurrent.gates:steps")
def steps(args: Address, state: Address, start: int, stop: int) -> None:
    """Write step = softplus(dt + bias) and exp(rate * step)."""
    a = load_args(STEP_GATES, args)
    for token in range(start, stop):
        for first in range(0, a.heads, 16):
            dt = load_first(a.dt + 4 * (a.stride * token + first), min(a.heads - first, 16))
            target = 4 * (a.padded * token + first)
            step = softplus(dt + load_f32x16(a.bias + 4 * first))
            store_f32x16(a.steps + target, step)
            store_f32x16(a.decay + target, exp(step * load_f32x16(a.rate + 4 * first)))
