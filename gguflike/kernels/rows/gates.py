"""Activations, alone or times another product: ``<activation>`` writes float32, ``<activation>_q8`` int8.

``out = min(act(gate), limit) * up``, up limited to that magnitude. "swiglu_oai" limits the gate before it is activated,
"xielu" has constants. Items are 32 values of a token, the last of a token fewer; words: ``GATE``, ``GATE_Q8``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gguflike.kernels.engine.atomics import load_args
from gguflike.kernels.engine.jit import inner, op
from gguflike.kernels.rows.args import GATE, GATE_Q8
from gguflike.kernels.vector import activations
from gguflike.kernels.vector.lanes import splat, where
from gguflike.kernels.vector.memory import load_f32x16, load_first, store_f32x16, store_first
from gguflike.kernels.vector.quantize import quantize_block
from gguflike.kernels.vector.types import Address, F32x16
from gguflike.kernels.vector.unpack import f32_of

Op = Callable[[Address, Address, int, int], None]


class Constants(NamedTuple):
    """The numbers of a gate."""

    limit: np.float32
    alpha_n: np.float32
    alpha_p: np.float32
    beta: np.float32
    eps: np.float32


def _plain(act: Any) -> Any:
    """The value of a gate with an activation of one argument."""

    @inner(inline="always")
    def value(gate: F32x16, up: F32x16, c: Constants) -> F32x16:
        hidden = act(gate)
        return where(hidden > splat(c.limit), splat(c.limit), hidden) * activations.limited(up, c.limit)

    return value


@inner(inline="always")
def _xielu(gate: F32x16, up: F32x16, c: Constants) -> F32x16:
    return activations.xielu(gate, c.alpha_n, c.alpha_p, c.beta, c.eps) * up


@inner(inline="always")
def _swiglu_oai(gate: F32x16, up: F32x16, c: Constants) -> F32x16:
    return activations.swiglu_oai(gate, up, c.limit)


@inner(inline="always")
def _load(place: Address, left: int) -> F32x16:
    """Load sixteen values, or those that are left of a token."""
    return load_f32x16(place) if left >= 16 else load_first(place, left)


def _ops(value: Any) -> tuple[Op, Op]:
    """The two ops of one activation."""

    @inner
    def of_16(gate: Address, up: Address, left: int, c: Constants) -> F32x16:
        other = _load(up, left) if up else splat(np.float32(1))
        return value(_load(gate, left), other, c)

    def floats(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(GATE, args)
        c = Constants(f32_of(a.limit), f32_of(a.alpha_n), f32_of(a.alpha_p), f32_of(a.beta), f32_of(a.eps))
        blocks = (a.columns + 31) // 32
        for item in range(start, stop):
            token, first = item // blocks, item % blocks * 32
            for i in range(first, min(first + 32, a.columns), 16):
                up = a.up + 4 * (token * a.up_stride + i) if a.up else 0
                left = a.columns - i
                result = of_16(a.gate + 4 * (token * a.gate_stride + i), up, left, c)
                place = a.out + 4 * (token * a.columns + i)
                if left >= 16:
                    store_f32x16(place, result)
                else:
                    store_first(place, result, left)

    def int8(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(GATE_Q8, args)
        c = Constants(f32_of(a.limit), f32_of(a.alpha_n), f32_of(a.alpha_p), f32_of(a.beta), f32_of(a.eps))
        blocks = a.columns // 32
        for item in range(start, stop):
            token, first = item // blocks, item % blocks * 32
            gate = a.gate + 4 * (token * a.gate_stride + first)
            up = a.up + 4 * (token * a.up_stride + first) if a.up else 0
            low, high = of_16(gate, up, 16, c), of_16(gate + 64, up + 64 if up else 0, 16, c)
            quantize_block(low, high, a.codes + 32 * item, a.scales + 4 * item, a.sums + 8 * item)

    return floats, int8


_VALUES = {
    **{
        name: _plain(getattr(activations, name))
        for name in ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "softplus")
    },
    "xielu": _xielu,
    "swiglu_oai": _swiglu_oai,
}
for _name, _value in _VALUES.items():
    _floats, _int8 = _ops(_value)
    op(f"rows.gates:{_name}")(_floats)
    op(f"rows.gates:{_name}_q8")(_int8)
