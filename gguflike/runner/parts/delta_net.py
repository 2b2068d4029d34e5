"""The gated delta rule as ops: queries, keys and values through a convolution, the rule, a gated norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguflike.errors import UnsupportedError
from gguflike.families.parts.recurrent import DeltaNet
from gguflike.kernels.engine.args import Word, float_bits
from gguflike.kernels.recurrent.args import DELTA, DELTA_GATES, GATED_NORM, UNIT_HEADS
from gguflike.runner.parts.checks import multiple
from gguflike.runner.parts.convolution import convolve, padded, padded_heads
from gguflike.runner.parts.stateless import bytes_per_position as bytes_per_position
from gguflike.runner.recurrent import Recurrent
from gguflike.runner.schedule import Schedule, Source, Target

if TYPE_CHECKING:
    from gguflike.runner.weights import LayerWeights


def check(part: DeltaNet) -> None:
    multiple("head_dim of the delta rule", part.head_dim, 16)
    multiple("values of a token of the delta rule", part.value_size, 32)
    if part.value_heads % part.key_heads or part.norm.kind != "rms" or part.norm.groups or part.norm.bias:
        raise UnsupportedError("delta rule of this kind", got=part)


def new_state(part: DeltaNet, context: int, cache_type: str) -> Recurrent:  # noqa: ARG001 - of fixed size
    return Recurrent(part.kernel, part.channels, part.value_size * part.head_dim)


def emit(part: DeltaNet, s: Schedule, weights: LayerWeights, state: Recurrent, source: Source, target: Target) -> None:
    channels = part.channels
    qkv, gate, out = (weights.matrix(role) for role in ("attn_qkv", "attn_gate", "ssm_out"))
    names = ("ssm_ba",) if part.joint else ("ssm_beta", "ssm_alpha")
    small = [weights.matrix(role) for role in names]
    normed = s.read(source, (qkv, gate, *small))
    mixed, z, o = s.temp("mixed", channels), s.temp("z", part.value_size), s.temp("o", part.value_size)
    s.linear(qkv, normed, s.temp("qkv", channels))
    s.linear(gate, normed, z, beside=True)
    for name, matrix in zip(names, small, strict=True):
        s.linear(matrix, normed, s.temp(name, matrix.rows), beside=True)
    convolve(s, weights, "ssm_conv1d", state, s.temp("qkv", channels), channels, channels, part.kernel, mixed)
    gates = _gates(part, s, weights, s.temp(names[0], small[0].rows), small[0].rows)
    _to_unit_length(part, s, mixed)
    _rule(part, s, state, mixed, gates, o)
    _gated_norm(part, s, weights, o, z)
    s.linear(out, s.handed(o, part.value_size, (out,)), target.address, add=target.add)


def _gates(part: DeltaNet, s: Schedule, weights: LayerWeights, beta: int, stride: int) -> dict[str, Word]:
    """By how much each head's state decays and how strongly it is written to, from the products at ``beta``, those of
    tokens ``stride`` values apart: the words of DELTA that say where that stands, for a padded number of heads."""
    heads = padded(part.value_heads)
    decay, strength = s.temp("decay", heads), s.temp("strength", heads)
    run = part.value_heads // part.key_heads if part.joint else part.value_heads
    words = DELTA_GATES.pack(
        alpha=beta + 4 * run if part.joint else s.temp("ssm_alpha", part.value_heads),
        beta=beta,
        stride=stride,
        heads=part.value_heads,
        run=run,
        step=2 * run if part.joint else run,
        bias=weights.made("ssm_dt.bias", padded_heads),
        rate=weights.made("ssm_a", padded_heads),
        padded=heads,
        decay=decay,
        strength=strength,
    )
    s.share("recurrent.gates:delta", words, items=1, per_tokens=1, beside=True)
    return {"decay": decay, "strength": strength, "padded": heads}


def _to_unit_length(part: DeltaNet, s: Schedule, mixed: int) -> None:
    """Queries and keys of length 1, and queries scaled, in place."""
    words = UNIT_HEADS.pack(
        x=mixed,
        channels=part.channels,
        heads=part.key_heads,
        head_dim=part.head_dim,
        scale=float_bits(part.head_dim**-0.5),
    )
    s.share("recurrent.norms:unit", words, items=2 * part.key_heads, per_tokens=1)


def _rule(part: DeltaNet, s: Schedule, state: Recurrent, mixed: int, gates: dict[str, Word], out: int) -> None:
    words = DELTA.pack(
        x=mixed,
        channels=part.channels,
        key_heads=part.key_heads,
        value_heads=part.value_heads,
        head_dim=part.head_dim,
        tiled=int(part.tiled),
        **gates,
        matrices=state.matrices,
        rows=s.rows,
        out=out,
    )
    s.share("recurrent.delta:rule", words, items=part.value_size // 16)


def _gated_norm(part: DeltaNet, s: Schedule, weights: LayerWeights, o: int, z: int) -> None:
    """Each head's norm, times its gate, in place of what the rule gave."""
    words = GATED_NORM.pack(
        y=o,
        z=z,
        stride=part.value_size,
        groups=part.value_heads,
        size=part.head_dim,
        weight=weights.address(part.norm.weight_role),
        next_weight=0,
        eps=float_bits(part.norm.eps),
        gate_first=0,
        out=o,
    )
    s.share("recurrent.norms:gated", words, items=part.value_heads, per_tokens=1)
