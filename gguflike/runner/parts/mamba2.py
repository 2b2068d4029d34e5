"""Mamba 2 as ops: a convolution, a scan by heads, a gated norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike.errors import UnsupportedError
from gguflike.families.parts.recurrent import Mamba2
from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.recurrent.args import GATED_NORM, SCAN_HEADS, STEP_GATES
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.convolution import convolve, padded, padded_heads
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.recurrent import Recurrent
from gguflike.runner.schedule import Schedule, Source, Target

if TYPE_CHECKING:
    from gguflike.runner.weights import LayerWeights


def check(part: Mamba2) -> None:
    multiple("inner size", part.inner, 32 * part.groups)
    multiple("inner size for these heads", part.inner, 16 * part.heads)
    multiple("d_state", part.d_state, 8)
    norm = part.norm
    if part.heads % part.groups or (norm and (norm.kind, norm.size) != ("rms", part.inner // part.groups)):
        raise UnsupportedError("Mamba 2 of this kind", got=part)


def new_state(part: Mamba2, context: int, cache_type: str) -> Recurrent:  # noqa: ARG001 - of fixed size
    return Recurrent(part.kernel, part.channels, part.inner * part.d_state)


def emit(part: Mamba2, s: Schedule, weights: LayerWeights, state: Recurrent, source: Source, target: Target) -> None:
    inner, channels, heads = part.inner, part.channels, padded(part.heads)
    into, out = weights.matrix("ssm_in"), weights.matrix("ssm_out")
    z = s.temp("zxbcdt", into.rows)
    mixed, y = s.temp("mixed", channels), s.temp("o", inner)
    s.linear(into, s.read(source, (into,)), z)
    convolve(s, weights, "ssm_conv1d", state, z + 4 * inner, into.rows, channels, part.kernel, mixed)
    decay, steps = s.temp("decay", heads), s.temp("strength", heads)
    words = STEP_GATES.pack(
        dt=z + 4 * (inner + channels),
        stride=into.rows,
        heads=part.heads,
        bias=weights.made("ssm_dt.bias", padded_heads),
        rate=weights.made("ssm_a", padded_heads),
        padded=heads,
        decay=decay,
        steps=steps,
    )
    s.share("recurrent.gates:steps", words, items=1, per_tokens=1, beside=True)
    words = SCAN_HEADS.pack(
        x=mixed,
        channels=channels,
        inner=inner,
        heads=part.heads,
        groups=part.groups,
        d_state=part.d_state,
        decay=decay,
        steps=steps,
        padded=heads,
        skip=weights.optional("ssm_d"),
        matrices=state.matrices,
        rows=s.rows,
        out=y,
    )
    s.share("recurrent.scan:heads", words, items=inner // 16)
    size = inner // part.groups
    words = GATED_NORM.pack(
        y=y,
        z=z,
        stride=into.rows,
        groups=part.groups,
        size=size,
        weight=weights.address(part.norm.weight_role) if part.norm else 0,
        next_weight=4 * size if part.norm and part.norm.groups else 0,
        eps=float_bits(part.norm.eps if part.norm else 0.0),
        gate_first=1,
        out=y,
    )
    s.share("recurrent.norms:gated", words, items=part.groups, per_tokens=1)
    s.linear(out, s.handed(y, inner, (out,)), target.address, add=target.add)
