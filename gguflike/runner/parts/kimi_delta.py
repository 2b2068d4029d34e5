"""Kimi's delta attention as ops: queries, keys and values through one convolution, the rule, a norm and a gate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gguflike.errors import UnsupportedError
from gguflike.families.parts.recurrent import KimiDelta
from gguflike.kernels.attention.general_args import HEADS, OPEN, RMS
from gguflike.kernels.engine.args import Word, float_bits
from gguflike.kernels.recurrent.args import DELTA_CHANNELS, DELTA_GATES, STEP_GATES, UNIT_HEADS
from gguflike.runner.buffers import address
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.convolution import by_token, convolve_by, padded
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.recurrent import Recurrent
from gguflike.runner.schedule import Schedule, Source, Target

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.runner.matrix import Matrix
    from gguflike.runner.weights import LayerWeights

    Floats = npt.NDArray[np.float32]


def check(part: KimiDelta) -> None:
    multiple("head_dim of delta attention", part.head_dim, 16)
    multiple("values of a token of delta attention", part.size, 32)
    if part.norm.kind != "rms" or part.norm.groups or part.norm.bias:
        raise UnsupportedError("delta attention of this kind", got=part)


def new_state(part: KimiDelta, context: int, cache_type: str) -> Recurrent:  # noqa: ARG001 - of fixed size
    return Recurrent(part.kernel, 3 * part.size, part.size * part.head_dim)


def emit(part: KimiDelta, s: Schedule, weights: LayerWeights, state: Recurrent, source: Source, target: Target) -> None:
    size, mixed = part.size, s.temp("mixed", 3 * part.size)
    forget, beta, gate = _project(part, s, weights, source)
    _convolve(part, s, weights, state, mixed)
    decay, strength = _gates(part, s, weights, forget, beta)
    words = UNIT_HEADS.pack(
        x=mixed, channels=3 * size, heads=part.heads, head_dim=part.head_dim, scale=float_bits(part.head_dim**-0.5)
    )
    s.share("recurrent.norms:unit", words, items=2 * part.heads, per_tokens=1)
    found = s.temp("o", size)
    words = DELTA_CHANNELS.pack(
        x=mixed,
        heads=part.heads,
        head_dim=part.head_dim,
        decay=decay,
        strength=strength,
        padded=padded(part.heads),
        matrices=state.matrices,
        rows=s.rows,
        out=found,
    )
    s.share("recurrent.channels:rule", words, items=size // 16)
    out = weights.matrix("attn_output")
    values = _opened(part, s, weights, found, gate)
    s.linear(out, s.read(Source(values, size, None, weights), (out,)), target.address, add=target.add)


def _project(part: KimiDelta, s: Schedule, weights: LayerWeights, source: Source) -> tuple[int, int, int]:
    """Where what decays are made of, what strengths are, and the gate stand; queries, keys and values stand side by
    side in the temporary "qkv"."""
    size, qkv = part.size, s.temp("qkv", 3 * part.size)
    three = [weights.matrix(f"attn_{name}") for name in "qkv"]
    names = ("ssm_f_a", "ssm_g_a", "ssm_beta")
    small = [weights.matrix(name) for name in names]
    normed = s.read(source, (*three, *small))
    for index, matrix in enumerate(three):
        s.linear(matrix, normed, qkv + 4 * size * index, beside=index > 0, stride=3 * size)
    places = [s.temp(name, matrix.rows) for name, matrix in zip(names, small, strict=True)]
    for matrix, place in zip(small, places, strict=True):
        s.linear(matrix, normed, place, beside=True)

    def widened(role: str, narrow: int) -> int:
        matrix: Matrix = weights.matrix(role)
        wide = s.temp(role, size)
        s.linear(matrix, s.read(Source(narrow, part.head_dim, None, weights), (matrix,)), wide)
        return wide

    return widened("ssm_f_b", places[0]), places[2], widened("ssm_g_b", places[1])


def _convolve(part: KimiDelta, s: Schedule, weights: LayerWeights, state: Recurrent, out: int) -> None:
    """silu of the convolutions of queries, keys and values, which are one with three times the channels."""
    each = [weights.floats(f"ssm_conv1d_{name}.weight").reshape(part.size, part.kernel) for name in "qkv"]
    weight, channels = np.ascontiguousarray(by_token(np.concatenate(each))), 3 * part.size
    s.program.keep.append(weight)
    convolve_by(s, address(weight), 0, state, s.temp("qkv", channels), channels, channels, part.kernel, out)


def _gates(part: KimiDelta, s: Schedule, weights: LayerWeights, forget: int, beta: int) -> tuple[int, int]:
    """Where the decays of all channels and the strengths of all heads stand."""

    def by_channel(rates: Floats) -> Floats:
        return np.repeat(rates.reshape(-1), part.head_dim)

    size, heads = part.size, padded(part.heads)
    decay, strength = s.temp("decay", size), s.temp("strength", heads)
    words = STEP_GATES.pack(
        dt=forget,
        stride=size,
        heads=size,
        bias=weights.address("ssm_dt.bias"),
        rate=weights.made("ssm_a", by_channel),
        padded=size,
        decay=decay,
        steps=s.temp("steps", size),
    )
    s.share("recurrent.gates:steps", words, items=1, per_tokens=1, beside=True)
    nothing = np.zeros(heads, np.float32)
    s.program.keep.append(nothing)
    words = DELTA_GATES.pack(
        alpha=beta,
        beta=beta,
        stride=part.heads,
        heads=part.heads,
        run=part.heads,
        step=part.heads,
        bias=address(nothing),
        rate=address(nothing),
        padded=heads,
        decay=s.temp("decay of heads", heads),
        strength=strength,
    )
    s.share("recurrent.gates:delta", words, items=1, per_tokens=1, beside=True)
    return decay, strength


def _opened(part: KimiDelta, s: Schedule, weights: LayerWeights, found: int, gate: int) -> Word:
    """Where what the heads found stands, normalized, times the sigmoid of the gate."""
    heads, dim = part.heads, part.head_dim
    normed, opened = s.local("normed heads", part.size), s.local("opened", part.size)
    words = HEADS.pack(
        rows=s.rows,
        x=found,
        stride=part.size,
        step=dim,
        heads=heads,
        dim=dim,
        out=normed,
        padded=dim,
        limit=float_bits(math.inf),
        kind=RMS,
        whole=0,
        weight=weights.address(part.norm.weight_role),
        bias=0,
        weight_step=0,
        eps=float_bits(part.norm.eps),
        turned_first=0,
        cos_sin=0,
        n_rot=0,
        neox=0,
        factors=0,
    )
    s.each("attention.heads:prepare", words)
    words = OPEN.pack(
        x=normed,
        heads=heads,
        dim=dim,
        padded=dim,
        gate=gate,
        stride=part.size,
        step=dim,
        each=1,
        softplus=0,
        out=opened,
    )
    s.each("attention.heads:open", words)
    return opened
